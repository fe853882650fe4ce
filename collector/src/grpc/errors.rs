//! Failures as gRPC codes, each with a machine-readable reason.

use std::collections::HashMap;

use redkeeper_core::status::cut;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::leader::hand_over::NotHandedOver;

/// Longest text of a failure, which may repeat what the caller sent. It is sent in two headers, percent-encoded with up to
/// three bytes for one and in base64; clients take 8 to 16 KiB of headers.
const TEXT_BYTES_MAX: usize = 1024;

/// Failure of a call, as its caller sees it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Failure {
    /// The first message of an agent's stream is not a proper Hello.
    #[error("bad Hello: {0}")]
    BadHello(String),
    /// A later message breaks a rule.
    #[error("bad message: {0}")]
    BadMessage(String),
    /// A newer boot of this agent was heard.
    #[error("a newer agent process with this id has been heard; two agents must not share an id")]
    Superseded,
    /// Another agent has this id, and is alive.
    #[error("the agent id {0:?} is in use by an agent on {1}, which is alive; give each agent its own `id`")]
    IdInUse(String, std::sync::Arc<str>),
    /// A report that lost against another agent would win now.
    #[error("an instance that another agent had is free now; reconnect and report it again")]
    Resend,
    /// A limit is reached.
    #[error("the collector is full: {0}")]
    Full(&'static str),
    /// The other collector takes what is relayed too slowly.
    #[error("too much waits to be relayed; link again")]
    RelayTooSlow,
    /// The collector stops.
    #[error("the collector is shutting down; try another one")]
    ShuttingDown,
    /// No such instance.
    #[error("no instance {0:?} is known")]
    InstanceNotFound(String),
    /// Another collector leads; its id, if it is known.
    #[error("this collector does not lead{}", leads(.0))]
    NotLeader(String),
    /// Leadership could not be handed over.
    #[error("leadership is not handed over: {0}")]
    NotHandedOver(NotHandedOver),
    /// No such collector.
    #[error("no collector {0:?} is known; `redkeeper cluster` shows them")]
    CollectorNotFound(String),
    /// A field of a request is wrong.
    #[error("{0}")]
    InvalidArgument(String),
    /// Changes after the token are no longer kept.
    #[error(
        "changes after this resume token are no longer kept, or are another process's; start again without a token"
    )]
    RevisionCompacted,
}

impl Failure {
    fn code(&self) -> (Code, &'static str) {
        match self {
            Self::BadHello(_) => (Code::InvalidArgument, "BAD_HELLO"),
            Self::BadMessage(_) => (Code::InvalidArgument, "BAD_MESSAGE"),
            Self::Superseded => (Code::FailedPrecondition, "STREAM_SUPERSEDED"),
            Self::IdInUse(..) => (Code::AlreadyExists, "AGENT_ID_IN_USE"),
            Self::Resend => (Code::Aborted, "RESEND"),
            Self::Full(_) => (Code::ResourceExhausted, "COLLECTOR_FULL"),
            Self::RelayTooSlow => (Code::Aborted, "RELAY_TOO_SLOW"),
            Self::ShuttingDown => (Code::Unavailable, "SHUTTING_DOWN"),
            Self::InstanceNotFound(_) => (Code::NotFound, "INSTANCE_NOT_FOUND"),
            Self::NotLeader(_) => (Code::FailedPrecondition, "NOT_LEADER"),
            Self::NotHandedOver(_) => (Code::FailedPrecondition, "NOT_HANDED_OVER"),
            Self::CollectorNotFound(_) => (Code::NotFound, "COLLECTOR_NOT_FOUND"),
            Self::InvalidArgument(_) => (Code::InvalidArgument, "INVALID_ARGUMENT"),
            Self::RevisionCompacted => (Code::OutOfRange, "REVISION_COMPACTED"),
        }
    }
}

fn leads(leader: &str) -> String {
    match leader {
        "" => String::new(),
        leader => format!("; {leader} does"),
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let (code, reason) = failure.code();
        let details = ErrorDetails::with_error_info(reason, "redkeeper", HashMap::new());
        let text = cut(&failure.to_string(), TEXT_BYTES_MAX);
        Self::with_error_details(code, text, details)
    }
}
