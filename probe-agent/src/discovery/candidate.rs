//! A candidate is something on this host that may be a server, with the reason if discovery rejects it.

use std::{fmt, sync::Arc};

use crate::{config::InstanceConfig, redis::Target};

/// Reason for rejecting a Sentinel.
pub(super) const SENTINEL: &str = "is a Sentinel, which holds no data";

/// Something that may be a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// `host:port`, or a Unix socket path; empty where none is known.
    pub address: String,
    /// How it was found, human-readable.
    pub source: String,
    /// It was found by its process, which is therefore alive.
    pub process_alive: bool,
    /// It speaks TLS only.
    pub tls: bool,
    /// The server has reported its `run_id`, and no other candidate has the same one.
    pub identified: bool,
    /// Why it is rejected; `None` if it is accepted.
    pub rejection: Option<Rejection>,
}

/// Why a candidate is rejected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rejection {
    /// Its server is already monitored under a configured address.
    Configured(String),
    /// Its server is monitored at another discovered address.
    Same(String),
    /// The same address was already found in another way.
    Twice,
    /// It should not be monitored, with the reason.
    Unwanted(&'static str),
    /// Any other reason.
    Because(String),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(address) if address.is_empty() => write!(f, "is configured by name"),
            Self::Configured(address) => write!(f, "is the server that is configured as {address}"),
            Self::Same(address) => write!(f, "is the server that is reached at {address}"),
            Self::Twice => write!(f, "was found already"),
            Self::Unwanted(why) => f.write_str(why),
            Self::Because(why) => f.write_str(why),
        }
    }
}

impl Candidate {
    pub(super) fn new(address: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            source: source.into(),
            process_alive: false,
            tls: false,
            identified: false,
            rejection: None,
        }
    }

    pub(super) fn without_address(source: impl Into<String>) -> Self {
        Self::new("", source)
    }

    pub(super) fn rejected(self, why: impl Into<String>) -> Self {
        Self {
            rejection: Some(Rejection::Because(why.into())),
            ..self
        }
    }
}

/// What discovery needs to know of a configured instance.
#[derive(Clone)]
pub struct Known {
    pub(super) target: Arc<Target>,
    /// The server's `run_id`, if its worker has learned it; discovery asks the server otherwise.
    pub(super) run_id: String,
}

impl Known {
    /// Combines the configuration with what the worker has learned.
    pub fn new(instance: &InstanceConfig, run_id: &str) -> Self {
        Self {
            target: Arc::clone(&instance.target),
            run_id: run_id.to_owned(),
        }
    }
}
