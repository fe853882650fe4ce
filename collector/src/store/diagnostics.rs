//! What happens between this collector and ZooKeeper, for `/debug/zookeeper`: the session, requests in flight, watches,
//! what the leader's term does, and the last errors. [`observed`](super::observed) records what passes between the
//! collector and the store, the coordinator and the publisher add what they do.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redkeeper_core::{
    ids::{Bucket, InstanceId, Revision},
    status::cut,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::Clock;

use super::Connection;

/// Statuses that a leader's term tells by name, of each kind. Looking at more of them would cost too much for each step.
pub(crate) const NAMED_MAX: usize = 64;
/// Number of errors that are kept.
const ERRORS_MAX: usize = 16;
/// Longest text of an error or request: an error that names each of seven servers fits.
const TEXT_BYTES_MAX: usize = 1_024;

/// A session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionState {
    /// Its id.
    pub id: i64,
    /// The time-out that the server granted.
    pub timeout: Duration,
    /// When it was opened.
    pub opened: WallMs,
}

/// A request without an answer, or a watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pending {
    /// Kind of the request.
    pub operation: &'static str,
    /// What it is about, such as a path.
    pub subject: String,
    /// Since when it waits.
    pub since: Mono,
}

/// An error, or several equal ones in a row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// When it last occurred.
    pub time: WallMs,
    /// The operation that failed.
    pub operation: &'static str,
    /// What it was about, and what happened.
    pub text: String,
    /// How often it occurred in a row.
    pub times: u64,
}

/// What a term of leadership does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publishing {
    /// `reading`, `writing`, or `resolving` after an unknown outcome.
    pub stage: &'static str,
    /// True while nothing may be written because leadership is in doubt.
    pub on_hold: bool,
    /// Changes of the fleet up to this one are known to the publisher.
    pub seen: Revision,
    /// Statuses that are not acknowledged.
    pub pending: usize,
    /// Those statuses, if there are few, and since when the oldest of them waits.
    pub few_pending: Option<(Vec<InstanceId>, Option<Mono>)>,
    /// The first of the statuses that ZooKeeper refuses to let be written.
    pub refused: Vec<InstanceId>,
    /// Writes in flight.
    pub writes_in_flight: usize,
    /// The bucket that the audit is reading.
    pub audit_reading: Option<Bucket>,
    /// The bucket that the audit reads next, and its complete passes.
    pub audit_position: Option<(Bucket, u64)>,
}

/// A copy of everything.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    /// Number of sessions so far.
    pub sessions: u64,
    /// The present session.
    pub session: Option<SessionState>,
    /// State of the connection, and since when.
    pub connection: Option<(Connection, WallMs)>,
    /// Requests without an answer.
    pub requests: BTreeMap<u64, Pending>,
    /// Watches that are set.
    pub watches: BTreeMap<u64, Pending>,
    /// The operation that the election waits for.
    pub election: Option<(&'static str, Mono)>,
    /// The present term of this collector.
    pub publishing: Option<Publishing>,
    /// The last errors, oldest first.
    pub errors: VecDeque<Fault>,
    next: u64,
}

/// The shared record. Each method holds its lock for less than some microseconds.
#[derive(Debug)]
pub struct Diagnostics {
    clock: Clock,
    state: Mutex<Snapshot>,
}

impl Diagnostics {
    /// An empty record.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Snapshot> {
        // Each change is complete before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of everything.
    pub fn snapshot(&self) -> Snapshot {
        self.state().clone()
    }

    /// Records a new session.
    pub(super) fn session_began(&self, id: i64, timeout: Duration) {
        let opened = self.clock.wall();
        let mut state = self.state();
        state.sessions += 1;
        state.session = Some(SessionState { id, timeout, opened });
        // Those of a former session.
        (state.election, state.publishing) = (None, None);
        state.connection = Some((Connection::Connected, opened));
    }

    /// Records that a session was given up or has ended.
    pub(super) fn session_ended(&self, id: i64) {
        let now = self.clock.wall();
        let mut state = self.state();
        if state.session.is_some_and(|session| session.id == id) {
            state.session = None;
            state.election = None;
            state.publishing = None;
            set_connection(&mut state, Connection::Lost, now);
        }
    }

    /// Records the state of the connection.
    pub(super) fn connection(&self, connection: Connection) {
        set_connection(&mut self.state(), connection, self.clock.wall());
    }

    /// Records that the election waits for an operation; `None` once it has ended.
    pub fn election(&self, operation: Option<&'static str>) {
        let now = self.clock.now();
        self.state().election = operation.map(|operation| (operation, now));
    }

    /// Records what the present term does.
    pub fn publishing(&self, publishing: Publishing) {
        self.state().publishing = Some(publishing);
    }

    /// Records an error. One that equals the last one is only counted.
    pub fn error(&self, operation: &'static str, text: &str) {
        let (time, text) = (self.clock.wall(), cut(text, TEXT_BYTES_MAX));
        let mut state = self.state();
        if let Some(last) = state.errors.back_mut()
            && last.operation == operation
            && last.text == text
        {
            (last.time, last.times) = (time, last.times.saturating_add(1));
            return;
        }
        if state.errors.len() >= ERRORS_MAX {
            state.errors.pop_front();
        }
        state.errors.push_back(Fault {
            time,
            operation,
            text,
            times: 1,
        });
    }

    /// Records a request until the returned guard is dropped.
    pub(super) fn request(self: &Arc<Self>, operation: &'static str, subject: &str) -> PendingGuard {
        self.pending(operation, subject, |state| &mut state.requests)
    }

    /// Records a watch until the returned guard is dropped.
    pub(super) fn watch(self: &Arc<Self>, subject: &str) -> PendingGuard {
        self.pending("watch", subject, |state| &mut state.watches)
    }

    fn pending(self: &Arc<Self>, operation: &'static str, subject: &str, list: List) -> PendingGuard {
        let pending = Pending {
            operation,
            subject: cut(subject, TEXT_BYTES_MAX),
            since: self.clock.now(),
        };
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        list(&mut state).insert(number, pending);
        drop(state);
        PendingGuard {
            diagnostics: Arc::clone(self),
            number,
            list,
        }
    }
}

fn set_connection(state: &mut Snapshot, connection: Connection, now: WallMs) {
    if state.connection.is_none_or(|(known, _)| known != connection) {
        state.connection = Some((connection, now));
    }
}

type List = fn(&mut Snapshot) -> &mut BTreeMap<u64, Pending>;

/// Removes its entry when it is dropped.
pub(super) struct PendingGuard {
    diagnostics: Arc<Diagnostics>,
    number: u64,
    list: List,
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        (self.list)(&mut self.diagnostics.state()).remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_errors_are_counted_and_the_oldest_are_dropped() {
        let diagnostics = Diagnostics::new(Clock::new());
        for n in 0..ERRORS_MAX {
            diagnostics.error("read", &format!("{n}"));
        }
        diagnostics.error("read", "15");
        diagnostics.error("sync", "15");
        let errors = diagnostics.snapshot().errors;
        assert_eq!(errors.len(), ERRORS_MAX);
        assert_eq!(errors.front().map(|fault| fault.text.as_str()), Some("1"));
        let last: Vec<_> = errors.iter().rev().take(2).collect();
        assert_eq!((last[0].operation, last[0].times), ("sync", 1));
        assert_eq!((last[1].operation, last[1].times), ("read", 2));
        diagnostics.error("read", &"x".repeat(TEXT_BYTES_MAX + 1));
        let text = diagnostics.snapshot().errors.pop_back().unwrap().text;
        assert_eq!(text.len(), TEXT_BYTES_MAX);
    }

    #[test]
    fn only_the_end_of_the_present_session_counts() {
        let diagnostics = Diagnostics::new(Clock::new());
        diagnostics.session_began(1, Duration::from_secs(2));
        diagnostics.session_began(2, Duration::from_secs(3));
        diagnostics.election(Some("claim"));
        diagnostics.session_ended(1);
        let snapshot = diagnostics.snapshot();
        assert_eq!(snapshot.session.map(|session| session.id), Some(2));
        assert!(snapshot.election.is_some());
        diagnostics.session_ended(2);
        let snapshot = diagnostics.snapshot();
        assert_eq!((snapshot.session, snapshot.election), (None, None));
        assert_eq!(snapshot.sessions, 2);
        let connection = snapshot.connection.map(|(connection, _)| connection);
        assert_eq!(connection, Some(Connection::Lost));
    }
}
