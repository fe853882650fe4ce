//! Confirms candidates by connecting to them: whether each is a server, and which one.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, stream};
use redkeeper_core::{
    probe::{Command, ConnectFailure},
    redis::{info, reply::Reply},
    status::Role,
};

use super::candidate::Known;
use crate::redis::{self, Received, StepLog, Target};

/// Maximum time for a candidate's answer.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);
/// Candidates that are confirmed concurrently.
pub(super) const CONFIRMED_AT_ONCE: usize = 16;

/// What a server reports of itself.
#[derive(Default)]
pub(super) struct ServerIdentity {
    pub(super) run_id: String,
    pub(super) port: String,
    pub(super) role: Option<Role>,
}

/// Returns the configured servers by `run_id`. Asks the servers whose workers do not know it yet.
pub(super) async fn run_ids(known: Vec<Known>) -> BTreeMap<String, String> {
    let asked = known.into_iter().map(|known| async move {
        let run_id = if known.run_id.is_empty() {
            confirm(&known.target)
                .await
                .map(|told| told.run_id)
                .unwrap_or_default()
        } else {
            known.run_id
        };
        (run_id, known.target.address.clone())
    });
    let told: Vec<_> = stream::iter(asked)
        .buffer_unordered(CONFIRMED_AT_ONCE)
        .collect()
        .await;
    told.into_iter()
        .filter(|(run_id, _)| !run_id.is_empty())
        .collect()
}

/// Why a candidate was not confirmed.
pub(super) enum Unconfirmed {
    /// It may be a server: it does not answer, or the agent itself could not ask.
    NoAnswer(String),
    /// It is not a server, or nothing listens.
    IsNone(String),
}

impl From<ConnectFailure> for Unconfirmed {
    fn from(failure: ConnectFailure) -> Self {
        let why = format!("cannot be spoken to: {}", failure.describe());
        match failure {
            ConnectFailure::TimedOut
            | ConnectFailure::TlsSilent
            | ConnectFailure::Own(_)
            | ConnectFailure::OwnDelay(_) => Self::NoAnswer(why),
            _ => Self::IsNone(why),
        }
    }
}

/// Connects and sends commands. Any RESP answer proves a server; INFO, if allowed, identifies it by `run_id` and
/// `tcp_port`.
pub(super) async fn confirm(target: &Target) -> Result<ServerIdentity, Unconfirmed> {
    let ask = async {
        let mut connection = redis::connect(target, CONFIRM_TIMEOUT, &StepLog::default()).await?;
        let auth = target.credentials.is_some().then_some(Command::Auth);
        let commands: Vec<_> = auth.into_iter().chain([Command::Ping, Command::Info]).collect();
        let is_none = |how: String| Unconfirmed::IsNone(format!("cannot be spoken to: {how}"));
        connection.send(&commands).await.map_err(is_none)?;
        let mut told = ServerIdentity::default();
        for (n, command) in commands.iter().enumerate() {
            match connection.receive().await {
                Received::Reply(Reply::Text(text)) if *command == Command::Info => {
                    let info = info::parse(&text);
                    let port = info::fields(&text).find(|(key, _)| *key == "tcp_port");
                    told = ServerIdentity {
                        run_id: info.run_id,
                        port: port.map_or("", |(_, port)| port).to_owned(),
                        role: info.role,
                    };
                }
                Received::Reply(_) => {}
                // It has answered before, so it is a server.
                Received::Closed(_) if n > 0 => break,
                Received::Closed(how) => return Err(is_none(how)),
                Received::Garbage(_) => return Err(Unconfirmed::IsNone("does not speak RESP".to_owned())),
                Received::Refused(failure) => return Err(failure.into()),
            }
        }
        Ok(told)
    };
    let late = |_| {
        let why = format!("connected, but no answer within {CONFIRM_TIMEOUT:?}");
        Err(Unconfirmed::NoAnswer(why))
    };
    tokio::time::timeout(CONFIRM_TIMEOUT, ask)
        .await
        .unwrap_or_else(late)
}
