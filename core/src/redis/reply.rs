//! Decides what an answer to PING means (`docs/replies.md`). Only the first word of an error is machine-readable; the
//! texts differ between Redis and Valkey.

use std::borrow::Cow;

use crate::{
    limits::EVIDENCE_BYTES_MAX,
    status::{Ability, Reason, Stage, cut},
};

/// One answer of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A status or bulk text.
    Text(Cow<'static, str>),
    /// The beginning of a text that is longer than
    /// [`REPLY_BYTES_MAX`](crate::redis::resp::REPLY_BYTES_MAX), in whole lines.
    Long(String),
    /// An error line without the leading `-`.
    Error(String),
    /// Anything else.
    Other,
}

/// The meaning of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meaning {
    /// The reason, from which the state follows.
    pub reason: Reason,
    /// How far the probe came.
    pub stage: Stage,
    /// Human-readable description.
    pub evidence: Cow<'static, str>,
    /// What clients can do, (reads, writes), where more is known than the reason says.
    pub abilities: Option<(Ability, Ability)>,
}

/// Meaning of an answer to PING.
pub fn ping(reply: &Reply) -> Meaning {
    let (reason, stage) = match reply {
        Reply::Text(text) if text == "PONG" => (Reason::Ok, Stage::Reply),
        Reply::Text(_) | Reply::Long(_) | Reply::Other => (Reason::ProtocolError, Stage::Reply),
        Reply::Error(line) => error(line),
    };
    let evidence = match reply {
        Reply::Error(line) if matches!(reason, Reason::BusyScript | Reason::BusyModule) => format!(
            "PING answered -{line}; the process is alive and serves nobody until that ends (an operator may end a \
             script, redkeeper never does)"
        )
        .into(),
        Reply::Text(text) if text == "PONG" => "PING answered \"PONG\"".into(),
        Reply::Text(text) => format!("PING answered {text:?}").into(),
        Reply::Error(line) => with_its_advice("PING answered -", line).into(),
        Reply::Long(_) | Reply::Other => "PING answered something that is neither a status nor an error".into(),
    };
    Meaning {
        reason,
        stage,
        evidence,
        abilities: None,
    }
}

/// The line, shortened in its middle if it is too long for evidence, because its last sentence says what to do.
fn with_its_advice(before: &str, line: &str) -> String {
    const GAP: &str = " [...] ";
    let whole = format!("{before}{line}");
    if whole.len() <= EVIDENCE_BYTES_MAX {
        return whole;
    }
    let advice = line.trim_end().rsplit_once(". ").map_or("", |(_, last)| last);
    let room = EVIDENCE_BYTES_MAX.saturating_sub(advice.len() + GAP.len());
    if advice.is_empty() || room < EVIDENCE_BYTES_MAX / 3 {
        return cut(&whole, EVIDENCE_BYTES_MAX);
    }
    format!("{}{GAP}{advice}", cut(&whole, room))
}

/// Meaning of an error in answer to INFO or CLUSTER INFO, where PING was answered. `None` if the error says nothing
/// about the server, such as a missing permission.
pub fn side_question(command: &str, line: &str) -> Option<Meaning> {
    let (reason, stage) = error(line);
    let of_server = matches!(
        reason,
        Reason::Loading
            | Reason::BusyScript
            | Reason::BusyModule
            | Reason::MasterLinkDown
            | Reason::PersistenceFailed
            | Reason::OutOfMemory
            | Reason::NotEnoughReplicas
            | Reason::ClusterDown
    );
    of_server.then(|| Meaning {
        reason,
        stage,
        evidence: format!("PING is answered, but {command} answered -{line}").into(),
        abilities: None,
    })
}

/// Meaning of an error in answer to AUTH; `None` where the server needs no password, which is no problem.
pub fn auth(line: &str) -> Option<Meaning> {
    let no_password_needed = line.starts_with("ERR AUTH <password> called without any password")
        || line.starts_with("ERR Client sent AUTH, but no password is set");
    let (reason, stage) = match error(line) {
        _ if no_password_needed => return None,
        (Reason::Ok | Reason::ProtocolError | Reason::AuthRequired, _) => (Reason::AuthFailed, Stage::Auth),
        other => other,
    };
    // Only the first word is used: the rest may repeat what was sent, including the password.
    let word = line.split([' ', '\r']).next().unwrap_or_default();
    let evidence = match reason {
        Reason::MaxClients => "a new connection was answered -ERR max number of clients reached".into(),
        _ => format!("AUTH answered -{word}").into(),
    };
    Some(Meaning {
        reason,
        stage,
        evidence,
        abilities: None,
    })
}

fn error(line: &str) -> (Reason, Stage) {
    let word = line.split([' ', '\r']).next().unwrap_or_default();
    match word {
        "LOADING" => (Reason::Loading, Stage::Reply),
        // A module may choose any text; the texts about scripts are the server's own.
        "BUSY" if !line.contains("script") => (Reason::BusyModule, Stage::Reply),
        "BUSY" => (Reason::BusyScript, Stage::Reply),
        "MASTERDOWN" => (Reason::MasterLinkDown, Stage::Reply),
        "MISCONF" => (Reason::PersistenceFailed, Stage::Reply),
        "OOM" => (Reason::OutOfMemory, Stage::Reply),
        "NOREPLICAS" => (Reason::NotEnoughReplicas, Stage::Reply),
        "CLUSTERDOWN" => (Reason::ClusterDown, Stage::Reply),
        "NOAUTH" => (Reason::AuthRequired, Stage::Auth),
        "WRONGPASS" => (Reason::AuthFailed, Stage::Auth),
        "NOPERM" => (Reason::PermissionDenied, Stage::Command),
        "DENIED" => (Reason::ProtectedMode, Stage::Connect),
        "ERR" => error_without_code(line[word.len()..].trim_start()),
        // The server lives, but nothing is known of its health.
        _ => (Reason::ProtocolError, Stage::Reply),
    }
}

/// Meaning of an error whose first word is `ERR`.
fn error_without_code(text: &str) -> (Reason, Stage) {
    if text.starts_with("max number of clients") {
        return (Reason::MaxClients, Stage::Connect);
    }
    // PING was renamed, on a server that is healthy otherwise; INFO shows more.
    if text
        .get(..15)
        .is_some_and(|start| start.eq_ignore_ascii_case("unknown command"))
    {
        return (Reason::Ok, Stage::Reply);
    }
    // Proxies put ERR before the server's own error code.
    let word = text.split([' ', '\r']).next().unwrap_or_default();
    let is_code = word.len() > 2 && word != "ERR" && word.bytes().all(|b| b.is_ascii_uppercase());
    if is_code {
        error(text)
    } else {
        (Reason::ProtocolError, Stage::Reply)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::State;

    #[test]
    fn first_word_decides() {
        let of = |line: &str| ping(&Reply::Error(line.to_owned())).reason;
        assert_eq!(ping(&Reply::Text("PONG".into())).reason, Reason::Ok);
        assert_eq!(
            of("LOADING Valkey is loading the dataset in memory"),
            Reason::Loading
        );
        assert_eq!(of("BUSY Redis is busy running a script."), Reason::BusyScript);
        assert_eq!(
            of("MISCONF Redis is configured to save"),
            Reason::PersistenceFailed
        );
        assert_eq!(of("ERR max number of clients reached"), Reason::MaxClients);
        assert_eq!(of("ERR unknown command 'PING'"), Reason::Ok);
        assert_eq!(of("ERR Unknown command `PING`, with args"), Reason::Ok);
        for unknown in [
            "ERR internal error, out of file descriptors",
            "XYZ what",
            "ERR",
            "",
            "ERR ERR ERR",
            "ERR éééééééééééé",
        ] {
            assert_eq!(of(unknown), Reason::ProtocolError, "{unknown}");
        }
        for (code, reason) in [
            ("NOAUTH Authentication required.", Reason::AuthRequired),
            ("LOADING dataset in memory", Reason::Loading),
            ("MASTERDOWN Link with MASTER is down", Reason::MasterLinkDown),
        ] {
            assert_eq!([of(code), of(&format!("ERR {code}"))], [reason; 2], "{code}");
        }
        assert_eq!(of("NOAUTH Authentication required."), Reason::AuthRequired);
        assert_eq!(of("NOAUTH Authentication required.").state(), State::Unknown);
    }

    #[test]
    fn a_long_error_keeps_its_advice() {
        let line = "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands \
                    that may modify the data set are disabled, because this instance is configured to report errors during \
                    writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for \
                    details about the RDB error.";
        let evidence = ping(&Reply::Error(line.to_owned())).evidence;
        assert!(evidence.len() <= EVIDENCE_BYTES_MAX, "{evidence}");
        assert!(
            evidence.starts_with("PING answered -MISCONF Redis is configured to save"),
            "{evidence}"
        );
        assert!(
            evidence.ends_with("Please check the Redis logs for details about the RDB error."),
            "{evidence}"
        );
        for odd in [
            "é. ".repeat(200),
            "x".repeat(600),
            format!("a. {}", "y".repeat(500)),
        ] {
            assert!(ping(&Reply::Error(odd)).evidence.len() <= EVIDENCE_BYTES_MAX);
        }
    }

    #[test]
    fn errors_to_side_questions_tell_of_the_server_or_of_the_question() {
        let of = |line: &str| side_question("INFO", line).map(|meaning| meaning.reason);
        assert_eq!(
            of("CLUSTERDOWN The cluster is not initialized"),
            Some(Reason::ClusterDown)
        );
        assert_eq!(
            of("BUSY Redis is busy running a script."),
            Some(Reason::BusyScript)
        );
        for line in ["NOPERM no", "NOAUTH no", "ERR unknown command 'INFO'", "WHAT"] {
            assert_eq!(of(line), None, "{line}");
        }
    }

    #[test]
    fn auth_errors() {
        assert_eq!(
            auth("WRONGPASS invalid username-password pair").unwrap().reason,
            Reason::AuthFailed
        );
        assert_eq!(auth("ERR invalid password").unwrap().reason, Reason::AuthFailed);
        assert_eq!(auth("ERR Client sent AUTH, but no password is set"), None);
        assert_eq!(
            auth("ERR max number of clients reached").unwrap().reason,
            Reason::MaxClients
        );
    }
}
