//! What a collector knows of its peers and of its own standing. The coordinator writes it, everybody else reads it.

use std::time::Duration;

use redkeeper_core::{
    election::lease::Lease,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::rfc3339;
use tokio::sync::watch;

use crate::store::{
    Connection,
    records::{CollectorJson, PublisherJson},
};

/// Write half of the watched standing.
pub type Sender = watch::Sender<Leadership>;
/// Read half of the watched standing.
pub type Reader = watch::Receiver<Leadership>;

/// The collectors, the leader, and this collector's standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The last known leader, possibly outdated; use [`leader`](Self::leader).
    pub leader_hint: String,
    /// Lease of this collector, while it leads.
    pub lease: Option<Lease>,
    /// Newest known term.
    pub epoch: u64,
    /// Name of the own candidate znode; empty while there is none.
    pub candidate: String,
    /// What the leader says in ZooKeeper of its publishing, as last read.
    pub publisher: PublisherJson,
    /// When a new mark of it was last seen.
    pub mark_seen: Mono,
    /// All registered collectors.
    pub members: Vec<CollectorJson>,
    /// State of the own session; `None` before the first one.
    pub connection: Option<Connection>,
    /// Name of the current phase, e.g. `follower`.
    pub phase: &'static str,
    /// Since when the oldest unpublished status waits.
    pub oldest_pending: Option<Mono>,
    /// Statuses that ZooKeeper refuses to let this leader write: the first one's refusal, and their number.
    pub refused: Option<(String, usize)>,
    /// Since when another session holds the registration of this collector's id, and the address in it.
    pub id_taken: Option<(Mono, String)>,
    /// Address of another collector that has this one's id.
    pub id_shared: Option<String>,
    /// Since when there is a session, or none; `None` before the first attempt.
    pub since: Option<WallMs>,
    /// The ZooKeeper servers as configured.
    pub servers: String,
    /// Last error, as text.
    pub last_error: String,
}

impl Leadership {
    /// The leader; empty if none is known. This collector names itself only while its lease holds.
    pub fn leader(&self, now: Mono) -> &str {
        match &self.lease {
            Some(lease) if !lease.holds(now) => "",
            _ => &self.leader_hint,
        }
    }

    /// Whether this collector leads, everything known is published, and its lease holds.
    pub fn leads(&self, now: Mono) -> bool {
        self.phase == "leader" && self.lease.is_some_and(|lease| lease.holds(now))
    }

    /// Records what `publisher` says.
    pub(crate) fn note_publisher(&mut self, seen: PublisherJson, now: Mono) {
        let mark = |publisher: &PublisherJson| (publisher.epoch, publisher.mark);
        if mark(&seen) != mark(&self.publisher) {
            self.mark_seen = now;
        }
        self.publisher = seen;
    }

    /// Records the state of the connection at this wall-clock time.
    pub(crate) fn note_connection(&mut self, connection: Option<Connection>, now: WallMs) {
        let is_there = |connection| connection == Some(Connection::Connected);
        if self.since.is_none() || is_there(self.connection) != is_there(connection) {
            self.since = Some(now);
            self.last_error.clear();
            if !is_there(connection) && self.connection.is_some() {
                "the connection broke".clone_into(&mut self.last_error);
            }
        }
        self.connection = connection;
    }

    /// Describes the lack of a session: since when, and which servers were tried with what result. `None` if there is
    /// one.
    pub fn away(&self) -> Option<String> {
        if self.connection == Some(Connection::Connected) {
            return None;
        }
        let since = self.since.map_or_else(|| "the start".to_owned(), rfc3339);
        let why = match self.last_error.as_str() {
            "" => "no answer yet",
            why => why,
        };
        let servers = &self.servers;
        Some(format!(
            "no session since {since}, servers tried: {servers} ({why})"
        ))
    }

    /// Records who else holds the registration of the own id. A former session of this collector holds it until it
    /// expires; a holder of more than one and a half `session_timeout` is another collector.
    pub(crate) fn note_id(&mut self, taken_by: Option<String>, now: Mono, session_timeout: Duration) {
        let since = self.id_taken.as_ref().map_or(now, |(since, _)| *since);
        self.id_taken = taken_by.map(|address| (since, address));
        let long = |(since, _): &&(Mono, String)| now.since(*since) > session_timeout * 3 / 2;
        self.id_shared = self.id_taken.as_ref().filter(long).map(|(_, by)| by.clone());
    }

    /// If another collector has this one's id: describes which one, and what to do.
    pub fn shares_id(&self) -> Option<String> {
        let other = self.id_shared.as_ref()?;
        Some(format!(
            "another collector, which gives {other} as its address, is registered in ZooKeeper under the id of this one; give each collector its own `id`"
        ))
    }

    /// When the lease runs out, which no change announces.
    pub fn lease_ends(&self) -> Option<Mono> {
        self.lease.and_then(|lease| lease.ends())
    }

    /// Age of the oldest status that is known and not yet published, in seconds; 0 if there is none.
    pub fn behind(&self, now: Mono) -> f64 {
        self.oldest_pending.map_or(0.0, |at| now.since(at).as_secs_f64())
    }
}
