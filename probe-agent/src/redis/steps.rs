//! How long each step of connecting took.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Durations of the steps of connecting; absent for steps that were not reached.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Name look-up.
    pub resolve: Option<Duration>,
    /// TCP or Unix socket connect, including a failed one.
    pub connect: Option<Duration>,
    /// TLS handshake, including a failed one.
    pub tls: Option<Duration>,
    /// Addresses that the name resolved to; empty if no name was looked up.
    pub addresses: Vec<SocketAddr>,
}

/// The steps of an attempt, readable also when the attempt was abandoned.
#[derive(Debug, Default)]
pub struct StepLog(Mutex<Steps>);

impl StepLog {
    /// Records something.
    pub(super) fn record(&self, change: impl FnOnce(&mut Steps)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes what was recorded; nothing is left.
    pub fn take(&self) -> Steps {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
