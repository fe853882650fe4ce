//! What a trail is made of: answers to commands, and events.

use std::fmt;

use crate::{
    probe::{Command, ProcessState},
    status::{Reason, Role},
};

/// The command of a probe, and what its answer means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The meaning of the answer to PING.
    Ping(Reason),
    /// Whether AUTH was accepted or not needed.
    Auth(bool),
    /// Whether INFO was answered with a text.
    Info(bool),
    /// Whether CLUSTER INFO was answered with a text.
    ClusterInfo(bool),
}

impl Answer {
    /// The command.
    pub const fn command(self) -> Command {
        match self {
            Self::Ping(_) => Command::Ping,
            Self::Auth(_) => Command::Auth,
            Self::Info(_) => Command::Info,
            Self::ClusterInfo(_) => Command::ClusterInfo,
        }
    }

    /// What the answer means: a reason where it is one to PING.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Ping(reason) => reason.as_str(),
            Self::Auth(true) => "accepted",
            Self::Auth(false) => "refused",
            Self::Info(true) | Self::ClusterInfo(true) => "a text",
            Self::Info(false) | Self::ClusterInfo(false) => "no text",
        }
    }
}

/// What was seen or decided. [`Decision::text`](super::Decision::text) has the details.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// The connection is open.
    Connected,
    /// The attempt to connect failed or took too long.
    ConnectFailed,
    /// The peer closed the connection.
    Closed,
    /// The peer sent something that is not RESP.
    NotResp,
    /// The name of the instance resolves to other addresses.
    Moved,
    /// The reason of the verdict changed.
    Verdict {
        /// The former reason.
        from: Reason,
        /// The present reason.
        to: Reason,
    },
    /// The server was restarted.
    Restarted,
    /// The role of the server changed.
    Role {
        /// The former role.
        from: Role,
        /// The present role.
        to: Role,
    },
    /// A second connection was opened, because the present one is silent.
    SecondAsked,
    /// The second connection was answered with this meaning.
    SecondAnswered(Reason),
    /// The second connection failed.
    SecondFailed,
    /// The silent connection was replaced, because the server answered on the second one.
    SilentReplaced,
    /// The regular check with a new connection was answered with this meaning.
    NewConnection(Reason),
    /// The regular check with a new connection failed.
    NewConnectionFailed,
    /// The server's process was checked.
    ProcessChecked(ProcessState),
    /// The agent itself did not run.
    Paused,
}

impl Event {
    /// Name of the kind of event.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::ConnectFailed => "connect_failed",
            Self::Closed => "connection_closed",
            Self::NotResp => "not_resp",
            Self::Moved => "address_changed",
            Self::Verdict { .. } => "verdict_changed",
            Self::Restarted => "server_restarted",
            Self::Role { .. } => "role_changed",
            Self::SecondAsked => "second_connection_asked",
            Self::SecondAnswered(_) => "second_connection_answered",
            Self::SecondFailed => "second_connection_failed",
            Self::SilentReplaced => "silent_connection_replaced",
            Self::NewConnection(_) => "new_connection_answered",
            Self::NewConnectionFailed => "new_connection_failed",
            Self::ProcessChecked(_) => "process_checked",
            Self::Paused => "agent_paused",
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verdict { from, to } => write!(
                f,
                "verdict changed from {}/{from} to {}/{to}",
                from.state(),
                to.state()
            ),
            Self::Role { from, to } => write!(f, "role changed from {from} to {to}"),
            Self::SecondAnswered(reason) => write!(f, "second connection answered: {reason}"),
            Self::NewConnection(reason) => write!(f, "new connection answered: {reason}"),
            Self::ProcessChecked(state) => write!(f, "process checked: {}", state.as_str()),
            plain => f.write_str(&plain.kind().replace('_', " ")),
        }
    }
}
