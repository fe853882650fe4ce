//! The process of the probed server: found by what INFO reports, or by the socket that accepted the connection. The
//! search by the socket may read much of `/proc`, so it runs on another thread.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use redkeeper_core::probe::ProcessState;

use super::connection::poll_once;
use crate::{
    blocking::BlockingPool,
    host::process::{Location, Process},
};

/// Searches of `/proc`: more than two at a time would only wait for each other.
static SEARCHES: BlockingPool = BlockingPool::new(2);
/// A search that takes longer is abandoned until the next connection.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);

type Search = Pin<Box<dyn Future<Output = Option<Process>> + Send>>;

/// What is known of the process. It outlives a connection.
#[derive(Default)]
pub(super) struct ServerProcess {
    known: Option<Process>,
    /// Pid that INFO reported for it. It may differ from the host's, because a container has its own pid namespace.
    reported_pid: Option<u32>,
    /// The process was found on a previous connection; its exit proves nothing about the present server.
    from_previous_connection: bool,
    /// It was searched for since the last answer.
    searched_since_answer: bool,
    /// It was searched for on the present connection.
    searched_on_connection: bool,
    /// The search in progress.
    search: Option<Search>,
}

impl ServerProcess {
    /// The process, if it is known.
    pub(super) fn known(&self) -> Option<Process> {
        self.known
    }

    /// A new connection is being opened.
    pub(super) fn connection_replaced(&mut self) {
        self.from_previous_connection = true;
        self.searched_on_connection = false;
        self.search = None;
    }

    /// The server has answered.
    pub(super) fn answered(&mut self) {
        self.searched_since_answer = false;
    }

    /// Keeps the known process while it is alive and INFO reports the same pid; else determines it anew. `reported` is
    /// the pid and the uptime in seconds of INFO.
    pub(super) fn locate(&mut self, location: &Location, reported: Option<(u32, u64)>) {
        let pid = reported.map(|(pid, _)| pid);
        let same = pid.is_none() || pid == self.reported_pid;
        let is_alive = |process: &Process| {
            // On one connection the pid cannot pass to another process; each check compares the start time anyway.
            !self.from_previous_connection
                || !matches!(process.inspect(), ProcessState::Gone | ProcessState::Zombie)
        };
        let known = self.known.filter(|process| same && is_alive(process));
        (self.from_previous_connection, self.reported_pid) = (false, pid.or(self.reported_pid));
        self.known = known.or_else(|| reported.and_then(|reported| Process::reported(location, reported)));
        if self.known.is_none() {
            self.start_search(location);
        }
    }

    /// The present state of the process. If it is not known, it is searched for by the socket, once until something is
    /// answered; the result serves the next check.
    pub(super) fn check(&mut self, location: &Location) -> ProcessState {
        if self.known.is_none() && !std::mem::replace(&mut self.searched_since_answer, true) {
            self.start_search(location);
        }
        match self.known.map(|process| process.inspect()) {
            None => ProcessState::NotLocal,
            Some(ProcessState::Gone | ProcessState::Zombie) if self.from_previous_connection => {
                ProcessState::NotLocal
            }
            Some(state) => state,
        }
    }

    fn start_search(&mut self, location: &Location) {
        if !std::mem::replace(&mut self.searched_on_connection, true) {
            let location = location.clone();
            let search = SEARCHES.run(SEARCH_TIMEOUT, move || Process::search(&location));
            self.search = Some(Box::pin(async { search.await.flatten() }));
        }
    }

    /// Ready when a search has ended; its result is then known.
    pub(super) fn poll_search(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(found) = poll_once(&mut self.search, context) else {
            return Poll::Pending;
        };
        tracing::debug!(process = ?found, "searched for the process");
        if self.known.is_none() || self.from_previous_connection {
            (self.known, self.from_previous_connection) = (found, false);
        }
        Poll::Ready(())
    }

    /// Waits for the search in progress, if there is one.
    pub(super) async fn finish_search(&mut self) {
        if self.search.is_some() {
            std::future::poll_fn(|context| self.poll_search(context)).await;
        }
    }
}
