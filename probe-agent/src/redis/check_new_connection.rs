//! Checks what a new client would experience, by a second connection beside the one that probes.

use std::{net::SocketAddr, time::Duration};

use redkeeper_core::{
    probe::{Command, ConnectFailure},
    redis::reply::{self, Meaning, Reply},
    time::WallMs,
};

use super::{Received, StepLog, Target, connect};

/// What a new client experienced.
#[derive(Debug)]
pub struct ConnectionCheck {
    /// The answer to PING, or to the command before it that failed.
    pub answer: Result<Meaning, ConnectFailure>,
    /// When the server's certificate expires.
    pub certificate_ends: Option<WallMs>,
    /// Addresses that the name resolved to; empty if no name was looked up.
    pub addresses: Vec<SocketAddr>,
}

/// Connects, authenticates, sends PING, and closes.
pub async fn check_new_connection(target: &Target, limit: Duration) -> ConnectionCheck {
    let (mut certificate_ends, steps) = (None, StepLog::default());
    let ask = async {
        let mut connection = connect(target, limit, &steps).await?;
        certificate_ends = connection.certificate_ends;
        let authenticates = connection.auth.is_some();
        let commands: &[_] = if authenticates {
            &[Command::Auth, Command::Ping]
        } else {
            &[Command::Ping]
        };
        connection
            .send(commands)
            .await
            .map_err(|_| ConnectFailure::Reset)?;
        for command in commands {
            match connection.receive().await {
                // A full server sends an error and closes, whatever was sent.
                Received::Reply(Reply::Error(line)) if *command == Command::Auth => {
                    if let Some(meaning) = reply::auth(&line) {
                        return Ok(meaning);
                    }
                }
                Received::Reply(reply) if *command == Command::Ping => return Ok(reply::ping(&reply)),
                Received::Reply(_) => {}
                Received::Closed(_) => return Err(ConnectFailure::Reset),
                Received::Garbage(what) => return Err(ConnectFailure::NotRedis(what)),
                Received::Refused(failure) => return Err(failure),
            }
        }
        Err(ConnectFailure::TimedOut)
    };
    let answer = tokio::time::timeout(limit, ask)
        .await
        .unwrap_or(Err(ConnectFailure::TimedOut));
    ConnectionCheck {
        answer,
        certificate_ends,
        addresses: steps.take().addresses,
    }
}
