//! Why a command failed, and what the user can do about it.

use std::time::Duration;

use redkeeper_runtime::debug_client::DebugError;
use tonic::Status;
use tonic_types::StatusExt;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// No collector answers.
    #[error("no collector can be reached ({0})")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The collector refused the request.
    #[error("{}", .0.message())]
    Refused(Status),
    /// The connection ended after an answer.
    #[error("the collector has gone away in the middle of the answers")]
    Gone,
    /// No collector leads.
    #[error("no collector leads at present")]
    NoLeader,
    /// A value on the command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Writing to standard output failed.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
    /// The answer reports faults.
    #[error("{0} fault(s) in the cluster")]
    Faults(usize),
    /// A daemon could not be looked into.
    #[error("{0}")]
    Debug(#[from] DebugError),
    /// The collector ended a watch.
    #[error("the collector ended the watch")]
    WatchEnded,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // The library's text about a broken connection is not meant for users.
        if status.get_details_error_info().is_some() {
            Self::Refused(status)
        } else {
            Self::Gone
        }
    }
}

impl Error {
    /// What the user can do, if anything.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) => {
                Some("name the collectors with --endpoints host:7400,... or REDKEEPER_ENDPOINTS")
            }
            Self::Refused(status) => match status.get_details_error_info()?.reason.as_str() {
                "NOT_LEADER" => Some("the leader has just changed; try again"),
                "INSTANCE_NOT_FOUND" => Some("`redkeeper list` shows the known ids"),
                _ => None,
            },
            Self::WatchEnded | Self::Gone => Some("start it again; another collector may answer"),
            Self::NoLeader => Some("`redkeeper cluster` says why"),
            Self::Usage(_) | Self::Output(_) | Self::Faults(_) | Self::Debug(_) => None,
        }
    }
}
