//! Certificates for tests, made by the openssl command.

use std::{path::Path, process::Command};

fn openssl(folder: &Path, args: &[&str]) {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(args)
        .output()
        .expect("openssl is installed");
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes an authority `NAME.crt`, `NAME.key` in a folder.
///
/// # Panics
/// When openssl fails.
pub fn authority(folder: &Path, name: &str) {
    signed_by_itself(folder, name, &format!("/CN={name}"), &[]);
}

/// Makes a self-signed `NAME.crt`, `NAME.key`, as `openssl req -x509` does, with these names.
///
/// # Panics
/// When openssl fails.
pub fn self_signed(folder: &Path, name: &str, names: &str) {
    let names = format!("subjectAltName={names}");
    signed_by_itself(folder, name, "/CN=localhost", &["-addext", &names]);
}

/// Makes `NAME.crt`, `NAME.key` without any extension: of X.509 version 1, with the name localhost in CN only.
///
/// # Panics
/// When openssl fails.
pub fn version_1(folder: &Path, name: &str, authority: &str) {
    request(folder, name, "/CN=localhost");
    sign(folder, name, authority, 2, &[]);
}

/// Makes `NAME.crt`, `NAME.key` for 127.0.0.1 and localhost, signed by an authority, valid for this many days; with a
/// negative number, it has expired.
///
/// # Panics
/// When openssl fails.
pub fn certificate(folder: &Path, name: &str, authority: &str, days: i32) {
    request(folder, name, &format!("/CN={name}"));
    let extensions = format!("{name}.ext");
    let names = "subjectAltName=IP:127.0.0.1,DNS:localhost\n";
    std::fs::write(folder.join(&extensions), names).expect("written");
    sign(folder, name, authority, days, &["-extfile", &extensions]);
}

/// Makes a key, and a certificate that it signs itself.
fn signed_by_itself(folder: &Path, name: &str, subject: &str, more: &[&str]) {
    let certificate = format!("{name}.crt");
    let x509 = ["-x509", "-days", "2", "-out", &certificate];
    with_new_key(folder, name, subject, &[&x509[..], more].concat());
}

/// Makes a key, and a request to sign it.
fn request(folder: &Path, name: &str, subject: &str) {
    with_new_key(folder, name, subject, &["-out", &format!("{name}.csr")]);
}

/// Makes a key, and for this subject what `more` asks for.
fn with_new_key(folder: &Path, name: &str, subject: &str, more: &[&str]) {
    let key = format!("{name}.key");
    let new = [
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        subject,
        "-keyout",
        &key,
    ];
    openssl(folder, &[&new[..], more].concat());
}

/// Signs a request.
fn sign(folder: &Path, name: &str, authority: &str, days: i32, more: &[&str]) {
    let (request, certificate) = (format!("{name}.csr"), format!("{name}.crt"));
    let (ca, ca_key, days) = (
        format!("{authority}.crt"),
        format!("{authority}.key"),
        days.to_string(),
    );
    let by = ["x509", "-req", "-in", &request, "-CA", &ca, "-CAkey", &ca_key];
    let rest = ["-CAcreateserial", "-days", &days, "-out", &certificate];
    openssl(folder, &[&by[..], &rest, more].concat());
}
