//! What an answer to PING means. Rules: `reference/redis.md` sections 2 and 3. Only the first word of an
//! error is machine-readable; the texts differ between Redis and Valkey.

use std::borrow::Cow;

use crate::status::{Reason, Stage};

/// One answer of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// A status or bulk text.
    Text(Cow<'static, str>),
    /// An error line without the leading `-`.
    Error(String),
    /// Anything else.
    Other,
}

/// What a PING answer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Meaning {
    /// Reason, from which the state follows.
    pub reason: Reason,
    /// How far the probe came.
    pub stage: Stage,
    /// In words.
    pub evidence: Cow<'static, str>,
}

/// Meaning of an answer to PING.
pub fn ping(reply: &Reply) -> Meaning {
    let (reason, stage) = match reply {
        Reply::Text(text) if text == "PONG" => (Reason::Ok, Stage::Reply),
        Reply::Text(_) | Reply::Other => (Reason::ProtocolError, Stage::Reply),
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
        Reply::Error(line) => format!("PING answered -{line}").into(),
        Reply::Other => "PING answered something that is neither a status nor an error".into(),
    };
    Meaning {
        reason,
        stage,
        evidence,
    }
}

/// Meaning of an error to AUTH; `None` where the server needs no password, which hinders nobody.
pub fn auth(line: &str) -> Option<Meaning> {
    let no_password_needed = line.starts_with("ERR AUTH <password> called without any password")
        || line.starts_with("ERR Client sent AUTH, but no password is set");
    let (reason, stage) = match error(line) {
        _ if no_password_needed => return None,
        (Reason::Ok, _) | (Reason::AuthRequired, _) => (Reason::AuthFailed, Stage::Auth),
        other => other,
    };
    // The first word only: the rest may repeat what was sent, the password included.
    let word = line.split([' ', '\r']).next().unwrap_or_default();
    let evidence = match reason {
        Reason::MaxClients => "a new connection was answered -ERR max number of clients reached".into(),
        _ => format!("AUTH answered -{word}").into(),
    };
    Some(Meaning {
        reason,
        stage,
        evidence,
    })
}

fn error(line: &str) -> (Reason, Stage) {
    let word = line.split([' ', '\r']).next().unwrap_or_default();
    match word {
        "LOADING" => (Reason::Loading, Stage::Reply),
        // A module may choose its own words; those of a script are the server's.
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
        "ERR" if line.starts_with("ERR max number of clients") => (Reason::MaxClients, Stage::Connect),
        // Any other answer proves life, even "unknown command 'PING'" where it was renamed away.
        _ => (Reason::Ok, Stage::Reply),
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
        assert_eq!(of("NOAUTH Authentication required."), Reason::AuthRequired);
        assert_eq!(of("NOAUTH Authentication required.").state(), State::Unknown);
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
