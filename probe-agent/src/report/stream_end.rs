//! Why a stream to a collector ended, with texts for the log.

use std::time::Duration;

use redkeeper_proto::error_texts;

use super::WELCOME_TIMEOUT;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("cannot connect: {}", error_texts::unconnected(.0))]
    Connect(tonic::transport::Error),
    #[error("{}", error_texts::failed(.0))]
    Refused(tonic::Status),
    #[error("no Welcome within {WELCOME_TIMEOUT:?}")]
    NoWelcome,
    #[error("the collector broke the protocol: {0}")]
    Protocol(String),
    #[error("no acknowledgement for {0:?}")]
    AckTimeout(Duration),
    #[error("the collector asked to reconnect: {0}")]
    Drained(String, Duration),
    #[error("the collector ended the stream")]
    Closed,
    #[error("another agent of this id was taken in place of this one at another collector; reporting anew")]
    Renewed,
}

impl Ended {
    /// The collector refuses this agent as it is now.
    pub(super) fn is_refusal(&self) -> bool {
        use tonic::Code::{AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted};
        let codes = [
            AlreadyExists,
            FailedPrecondition,
            InvalidArgument,
            ResourceExhausted,
        ];
        matches!(self, Self::Refused(status) if codes.contains(&status.code()))
    }

    /// The collector has meanwhile heard another boot of this agent's id.
    pub(super) fn is_superseded(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == tonic::Code::FailedPrecondition)
    }
}
