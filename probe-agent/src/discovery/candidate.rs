//! A candidate is something on this host that may be a server, with the reason why discovery leaves it, if it does.

use std::{fmt, sync::Arc};

use crate::{config::InstanceConfig, redis::Target};

/// Why a Sentinel is left.
pub(super) const SENTINEL: &str = "is a Sentinel, which holds no data";

/// Something that may be a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// `host:port`, or a Unix socket path; empty where none is known.
    pub address: String,
    /// How it was found.
    pub source: String,
    /// It was found by its process, which therefore lives.
    pub lives: bool,
    /// It speaks TLS only.
    pub tls: bool,
    /// It has told which server it is, and is no other candidate.
    pub told: bool,
    /// Why it is left; `None` where it is taken.
    pub left: Option<Left>,
}

/// Why a candidate is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Left {
    /// Its server is watched already, under a configured address.
    Configured(String),
    /// Its server is reached at another address, which is taken.
    Same(String),
    /// It was found in another way too.
    Twice,
    /// It is not to be watched, in words why.
    Unwanted(&'static str),
    /// Another reason, in words.
    Because(String),
}

impl fmt::Display for Left {
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
            lives: false,
            tls: false,
            told: false,
            left: None,
        }
    }

    pub(super) fn nowhere(source: impl Into<String>) -> Self {
        Self::new("", source)
    }

    pub(super) fn left(self, why: impl Into<String>) -> Self {
        Self {
            left: Some(Left::Because(why.into())),
            ..self
        }
    }
}

/// A configured instance, as far as discovery must know it.
#[derive(Clone)]
pub struct Known {
    pub(super) target: Arc<Target>,
    /// Which server it is, where its worker has learned it; else discovery asks.
    pub(super) run_id: String,
}

impl Known {
    /// From the configuration and what its worker has learned.
    pub fn new(instance: &InstanceConfig, run_id: &str) -> Self {
        Self {
            target: Arc::clone(&instance.target),
            run_id: run_id.to_owned(),
        }
    }
}
