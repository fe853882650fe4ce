//! User and password of a connection, and reading the password from its file.

use std::path::{Path, PathBuf};

use redkeeper_core::{
    limits::EVIDENCE_BYTES_MAX,
    status::{Reason, Verdict, cut},
};

use crate::host::files::read_regular;

/// User and password. The password is read from its file when a connection needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// ACL user; the default user if absent.
    pub user: Option<String>,
    /// File whose first line is the password, as bytes in any encoding.
    pub password_file: PathBuf,
}

/// Maximum size of a password file: Redis refuses passwords over 512 bytes in practice.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

impl Credentials {
    /// Adds the user and the password file to the evidence of a refused password. No secret is shown.
    pub fn explain(&self, verdict: &mut Verdict) {
        if verdict.reason == Reason::AuthFailed {
            let user = self.user.as_deref().unwrap_or("default");
            let text = format!(
                "{}; user {user:?}, password of {}",
                verdict.evidence,
                self.password_file.display()
            );
            verdict.evidence = cut(&text, EVIDENCE_BYTES_MAX).into();
        }
    }

    /// Reads the password from the file.
    ///
    /// # Errors
    /// When the file cannot be used; the text says why.
    pub fn password(&self) -> Result<Vec<u8>, String> {
        read_password(&self.password_file).map_err(|e| format!("{}: {e}", self.password_file.display()))
    }
}

/// UTF-8 byte order mark that some editors write at the start of a file; it is not part of the password.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

fn read_password(path: &Path) -> std::io::Result<Vec<u8>> {
    let bytes = read_regular(path, PASSWORD_FILE_BYTES_MAX)?;
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(std::io::Error::other("has no password in its first line"));
    }
    Ok(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_password_file_is_taken_as_bytes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, password) in [
            (&b"secret"[..], Some(&b"secret"[..])),
            (b"secret\r\nsecond\n", Some(b"secret")),
            (b"\xef\xbb\xbfsecret\n", Some(b"secret")),
            (b"gr\xfcn\n", Some(b"gr\xfcn")),
            (b" a b \n", Some(b" a b ")),
            (b"\xef\xbb\xbf\r\n", None),
            (b"\nsecond", None),
            (b"", None),
        ] {
            std::fs::write(file.path(), content).unwrap();
            assert_eq!(
                read_password(file.path()).ok().as_deref(),
                password,
                "{content:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_no_file_is_no_password() {
        // A pipe is refused too: reading it would wait for a writer.
        let folder = tempfile::tempdir().unwrap();
        let credentials = Credentials {
            user: None,
            password_file: folder.path().to_owned(),
        };
        let error = credentials.password().unwrap_err();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
