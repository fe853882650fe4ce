//! TLS to Redis: accepted, refused, mistaken on either side, and renewed without a restart.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    certificates::{authority, certificate, self_signed, version_1},
    eventually, holds_for, ports,
    process::Process,
    servers::{Flavour, Redis},
};
use serde_json::Value;

fn probe(sandbox: &Sandbox, address: &str, args: &[&str]) -> Value {
    let mut command = sandbox.command("redkeeper-agent");
    command
        .args(["probe", address, "--json", "--timeout", "2s"])
        .args(args);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)))
}

struct Rig {
    sandbox: Sandbox,
    redis: Redis,
    tls: String,
}

impl Rig {
    async fn new(server: &str, clients: &str) -> Self {
        let sandbox = Sandbox::new();
        let folder = sandbox.path("");
        authority(&folder, "ca");
        authority(&folder, "other");
        certificate(&folder, "good", "ca", 2);
        certificate(&folder, "expired", "ca", -1);
        self_signed(&folder, "itself", "IP:127.0.0.1");
        self_signed(&folder, "nowhere", "DNS:nowhere");
        version_1(&folder, "version1", "ca");
        let tls = ports::port();
        let file = |name: String| sandbox.path(&name).display().to_string();
        let (cert, key, ca) = (
            file(format!("{server}.crt")),
            file(format!("{server}.key")),
            file("ca.crt".into()),
        );
        let port = tls.number.to_string();
        let args = [
            "--tls-port",
            &port,
            "--tls-cert-file",
            &cert,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &ca,
            "--tls-auth-clients",
            clients,
        ];
        let redis = sandbox.server(Flavour::Redis70, &args);
        let answers = || async { redis.ask("PING").is_ok() };
        eventually("an answer", answers, |answers| *answers).await;
        Self {
            tls: format!("127.0.0.1:{}", tls.number),
            sandbox,
            redis,
        }
    }

    fn file(&self, name: &str) -> String {
        self.sandbox.path(name).display().to_string()
    }

    fn probe(&self, args: &[&str]) -> Value {
        probe(&self.sandbox, &self.tls, args)
    }
}

fn is(json: &Value, state: &str, reason: &str, stage: &str) {
    let works = if state == "UP" { "yes" } else { "unknown" };
    assert_eq!(
        ["state", "reason", "stage", "reads", "writes"].map(|key| &json[key]),
        [state, reason, stage, works, works],
        "{json}"
    );
}

#[tokio::test]
async fn a_certificate_is_asked_for_and_given() {
    let rig = Rig::new("good", "yes").await;
    let (ca, cert, key) = (rig.file("ca.crt"), rig.file("good.crt"), rig.file("good.key"));
    is(
        &rig.probe(&["--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key]),
        "UP",
        "OK",
        "REPLY",
    );
    let anonymous = rig.probe(&["--tls-ca", &ca]);
    is(&anonymous, "UNKNOWN", "TLS_CERTIFICATE", "TLS");
}

#[tokio::test]
async fn certificates_are_checked_and_mistakes_are_told_apart() {
    let rig = Rig::new("good", "no").await;
    let (ca, other) = (rig.file("ca.crt"), rig.file("other.crt"));
    let good = rig.probe(&["--tls-ca", &ca]);
    is(&good, "UP", "OK", "REPLY");
    let ends = humantime::parse_rfc3339(good["certificate_ends"].as_str().unwrap()).unwrap();
    let left = ends
        .duration_since(std::time::SystemTime::now())
        .unwrap()
        .as_secs_f64()
        / 86_400.0;
    assert!((1.9..2.1).contains(&left), "{left} days");
    is(
        &rig.probe(&["--tls-ca", &ca, "--tls-server-name", "localhost"]),
        "UP",
        "OK",
        "REPLY",
    );
    is(
        &rig.probe(&["--tls-ca", &other]),
        "UNKNOWN",
        "TLS_CERTIFICATE",
        "TLS",
    );
    let name = rig.probe(&["--tls-ca", &ca, "--tls-server-name", "elsewhere"]);
    is(&name, "UNKNOWN", "TLS_CERTIFICATE", "TLS");
    is(&rig.probe(&[]), "UNKNOWN", "TLS_MISMATCH", "TLS");
    let plain = format!("127.0.0.1:{}", rig.redis.port.number);
    is(
        &probe(&rig.sandbox, &plain, &["--tls-ca", &ca]),
        "UNKNOWN",
        "TLS_MISMATCH",
        "TLS",
    );
    let missing = rig.probe(&["--tls-ca", "/no/such/file"]);
    is(&missing, "UNKNOWN", "AGENT_FAULT", "CONNECT");

    let rig = Rig::new("expired", "no").await;
    let late = rig.probe(&["--tls-ca", &rig.file("ca.crt")]);
    is(&late, "UNKNOWN", "TLS_CERTIFICATE", "TLS");
    assert!(late["evidence"].as_str().unwrap().contains("xpired"), "{late}");
}

/// What a user trusts by name needs no authority, and no name where the user says so.
#[tokio::test]
async fn a_certificate_may_be_its_own_authority() {
    let told = |json: &Value, hint: &str| {
        is(json, "UNKNOWN", "TLS_CERTIFICATE", "TLS");
        assert!(json["evidence"].as_str().unwrap().contains(hint), "{json}");
    };
    for server in ["itself", "nowhere", "good"] {
        let rig = Rig::new(server, "no").await;
        let file = |name: &str| rig.file(&format!("{name}.crt"));
        let probe = |ca: &str, verify: &str| rig.probe(&["--tls-ca", &file(ca), "--tls-verify", verify]);
        for (verify, named) in [("full", server == "nowhere"), ("ca", false), ("pinned", false)] {
            let seen = probe(server, verify);
            if named {
                told(&seen, "subjectAltName");
                told(&seen, "verify = \"ca\"");
            } else {
                is(&seen, "UP", "OK", "REPLY");
            }
            let hint = if verify != "pinned" && server != "good" {
                "name its own file as ca_file"
            } else if verify == "pinned" {
                "not one of those in ca_file"
            } else {
                "name the file of its authority"
            };
            told(&probe("other", verify), hint);
        }
    }
    // An authority is no pin, and a certificate that has ended is none that may be trusted by name.
    let rig = Rig::new("good", "no").await;
    let pinned = rig.probe(&["--tls-ca", &rig.file("ca.crt"), "--tls-verify", "pinned"]);
    told(&pinned, "not one of those in ca_file");
    let rig = Rig::new("expired", "no").await;
    told(&rig.probe(&["--tls-ca", &rig.file("expired.crt")]), "xpired");
    let rig = Rig::new("version1", "no").await;
    told(
        &rig.probe(&["--tls-ca", &rig.file("ca.crt")]),
        "make one of version 3, with a subjectAltName",
    );
}

#[tokio::test]
async fn an_agent_watches_through_tls_and_takes_renewed_files() {
    let rig = Rig::new("good", "yes").await;
    let a = rig.sandbox.collector("a", None).await;
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n[[instances]]\naddress = '{}'\n\
         tls = {{ ca_file = '{}', cert_file = '{}', key_file = '{}', verify = 'ca' }}\n",
        rig.tls,
        rig.file("ca.crt"),
        rig.file("good.crt"),
        rig.file("good.key")
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = rig.sandbox.agent_with("db01", &collectors, &text).await;
    let id = format!("db01:{}", rig.tls.rsplit_once(':').unwrap().1);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
    let ends = || async {
        let time = a.instance(&id).await?.verdict?.certificate_end_time?;
        Some(time.seconds)
    };
    let first = eventually("the certificate's end", ends, Option::is_some).await;
    let metric = format!("redkeeper_certificate_end_timestamp_seconds{{instance=\"{id}\"}}");
    assert_eq!(agent.metric(&metric), first.map(|s| s as f64));
    assert!(
        agent.process.log().contains("certificate ends in 1 days"),
        "{}",
        agent.process.log()
    );
    // New files of another key; a new connection uses them.
    certificate(&rig.sandbox.path(""), "good", "ca", 2);
    rig.redis.ask("CLIENT KILL TYPE normal").ok();
    let rounds = || agent.metric("redkeeper_probe_rounds_total").unwrap();
    let before = rounds();
    eventually("ten more rounds", || async { rounds() }, |n| *n > before + 10.0).await;
    assert_eq!(a.state(&id).await, "UP/OK");
    assert_eq!(
        a.metric("redkeeper_instances{state=\"DOWN\",reason=\"CONNECTION_RESET\"}"),
        None
    );
}

/// The password of a hung TLS server is not at fault, nor is its port: it stays what it is.
#[tokio::test]
async fn a_hung_server_stays_hung_through_tls() {
    let rig = Rig::new("good", "no").await;
    let a = rig.sandbox.collector("a", None).await;
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\nconnect_timeout = '400ms'\n[[instances]]\naddress = '{}'\n\
         tls = {{ ca_file = '{}' }}\n",
        rig.tls,
        rig.file("ca.crt"),
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let _agent = rig.sandbox.agent_with("db01", &collectors, &text).await;
    let id = format!("db01:{}", rig.tls.rsplit_once(':').unwrap().1);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
    rig.redis.process.signal(Signal::SIGSTOP);
    let hung = |s: &String| s == "DOWN/REPLY_TIMEOUT";
    eventually("hung", || a.state(&id), hung).await;
    holds_for("still hung", Duration::from_secs(4), || a.state(&id), hung).await;
    let verdict = a.instance(&id).await.unwrap().verdict.unwrap();
    assert!(
        verdict.evidence.contains("stopped (state T)"),
        "{}",
        verdict.evidence
    );
    rig.redis.process.signal(Signal::SIGCONT);
    eventually("UP again", || a.state(&id), |s| s == "UP/OK").await;
}

/// The same port speaks TLS after a restart. That is the configuration's fault, not the server's death.
#[tokio::test]
async fn a_port_that_begins_to_speak_tls_is_a_mismatch() {
    let rig = Rig::new("good", "no").await;
    let a = rig.sandbox.collector("a", None).await;
    let mut plain = rig.sandbox.redis().await;
    let agent = rig.sandbox.agent("db01", &[plain.port.number], &[&a]).await;
    let id = format!("db01:{}", plain.port.number);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
    plain.process.kill();
    eventually("dead", || a.state(&id), |s| s == "DOWN/CONNECTION_REFUSED").await;
    let mut command = std::process::Command::new("redis-server");
    let port = plain.port.number.to_string();
    command.args([
        "--port",
        "0",
        "--save",
        "",
        "--tls-port",
        &port,
        "--tls-auth-clients",
        "no",
    ]);
    command.args([
        "--tls-cert-file",
        &rig.file("good.crt"),
        "--tls-key-file",
        &rig.file("good.key"),
    ]);
    command.args(["--tls-ca-cert-file", &rig.file("ca.crt")]);
    command.current_dir(rig.sandbox.path(""));
    let _server = Process::start(command, &rig.sandbox.path("tls-only.log"));
    eventually("told", || a.state(&id), |s| s == "UNKNOWN/TLS_MISMATCH").await;
    let reset = agent.metric("redkeeper_verdicts_total{reason=\"CONNECTION_RESET\"}");
    assert_eq!(reset, None, "never taken for dead");
}
