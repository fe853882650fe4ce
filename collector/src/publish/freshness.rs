//! The freshness mark: the leader rewrites `publisher` each `freshness_interval` with a number that grows, and with how
//! much of what it knows is not published. A consumer that sees no new number for three intervals by its own clock knows
//! that the statuses may be outdated, whatever holds the leader up. It is one write for the whole fleet.

use tokio::time::Instant;

use super::{LeaderTerm, fenced_write::mark};
use crate::store::{CommitError, Store, records::PublisherJson};

/// What is known of the marks of a term.
#[derive(Debug)]
pub(super) struct Freshness {
    /// Number of the last mark that was sent.
    number: u64,
    /// When the next mark is due.
    pub(super) due: Instant,
    /// A mark is in flight.
    in_flight: bool,
    /// Whether the last mark said that statuses are held.
    held: bool,
}

impl Freshness {
    pub(super) fn new(due: Instant) -> Self {
        Self {
            number: 0,
            due,
            in_flight: false,
            held: false,
        }
    }

    /// Whether a mark is in flight.
    pub(super) fn in_flight(&self) -> bool {
        self.in_flight
    }
}

impl<S: Store> LeaderTerm<S> {
    /// Sends a mark if one is due: for the time, because everything known is published for the first time, or because
    /// statuses are held from now on, or no more.
    pub(super) fn send_mark(&mut self) {
        let publisher = &self.publisher;
        // What is left without a batch in flight waits for a read-back or for its rate limit.
        let all_sent = publisher.in_flight() == 0 && !publisher.is_searching(self.setup.clock.now());
        let live = self.live || (self.takeover.is_none() && all_sent);
        let held = self.setup.view.get().held.is_some();
        let is_due = live != self.live || held != self.freshness.held || Instant::now() >= self.freshness.due;
        if self.freshness.in_flight || !is_due {
            return;
        }
        self.freshness.number += 1;
        self.freshness.in_flight = true;
        self.freshness.held = held;
        let phase = match (live, held) {
            (false, _) => "reconciling",
            (true, false) => "live",
            (true, true) => "isolated",
        };
        let json = PublisherJson {
            epoch: self.term.epoch.0,
            holder: self.setup.id.clone(),
            phase: phase.to_owned(),
            mark: self.freshness.number,
            ..self.progress()
        };
        let commit = mark::<S>(&self.session, &self.setup.layout, self.term, (live, &json));
        self.commits.push(commit);
    }

    /// How much is not published.
    fn progress(&self) -> PublisherJson {
        let number = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let publisher = &self.publisher;
        let now = self.setup.clock.now();
        let oldest = publisher
            .oldest_pending()
            .map_or(0, |at| now.since(at).as_millis());
        PublisherJson {
            pending: number(publisher.pending()),
            oldest_pending_ms: u64::try_from(oldest).unwrap_or(u64::MAX),
            wrong: number(publisher.wrong()),
            ..PublisherJson::default()
        }
    }

    /// Records the outcome of a mark.
    pub(super) fn marked(&mut self, live: bool, result: Result<(), CommitError>) -> Result<(), CommitError> {
        self.freshness.in_flight = false;
        result?;
        self.freshness.due = Instant::now() + self.setup.freshness_interval;
        if live && !self.live {
            tracing::info!(epoch = self.term.epoch.0, "live: everything known is published");
            self.live = true;
        }
        Ok(())
    }
}
