//! What a collector knows of its peers and of its own standing. Told by the coordinator, read by all.

use std::time::Duration;

use redkeeper_core::{
    election::lease::Lease,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::rfc3339;
use tokio::sync::watch;

use crate::store::{Connection, records::CollectorJson};

/// Where the standing is told.
pub type Sender = watch::Sender<Directory>;
/// Where it is read.
pub type Reader = watch::Receiver<Directory>;

/// Peers and standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The leader as last known; ask [`leader`](Self::leader).
    pub last_leader: String,
    /// Held where this collector leads.
    pub lease: Option<Lease>,
    /// The newest term known.
    pub epoch: u64,
    /// All collectors.
    pub members: Vec<CollectorJson>,
    /// State of the own session; `None` before the first.
    pub connection: Option<Connection>,
    /// One word.
    pub phase: &'static str,
    /// Since when the longest waiting of them waits.
    pub oldest_pending: Option<Mono>,
    /// Statuses that ZooKeeper refuses to let this leader write: why the first one was, and how many there are.
    pub refused: Option<(String, usize)>,
    /// Since when another session holds the registration of this collector's id, and the address that it gives.
    pub id_taken: Option<(Mono, String)>,
    /// The address of another collector that has this one's id.
    pub id_shared: Option<String>,
    /// Since when there is a session, or none; `None` before the first attempt.
    pub since: Option<WallMs>,
    /// The ZooKeeper servers as configured.
    pub servers: String,
    /// Last error, for people.
    pub last_error: String,
}

impl Directory {
    /// Who leads; empty if nobody is known to. This collector names itself only while its lease holds.
    pub fn leader(&self, now: Mono) -> &str {
        match &self.lease {
            Some(lease) if !lease.holds(now) => "",
            _ => &self.last_leader,
        }
    }

    /// Whether this collector leads, everything known is published, and its lease holds.
    pub fn leads(&self, now: Mono) -> bool {
        self.phase == "leader" && self.lease.is_some_and(|lease| lease.holds(now))
    }

    /// Takes the state of the connection, at this wall-clock time.
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

    /// Where there is no session: since when, and which servers were tried with what result.
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

    /// Takes whose the registration of the own id is. A former session of this collector keeps it until it expires;
    /// what keeps it for longer than `session_timeout` and a half is another collector.
    pub(crate) fn note_id(&mut self, taken_by: Option<String>, now: Mono, session_timeout: Duration) {
        let since = self.id_taken.as_ref().map_or(now, |(since, _)| *since);
        self.id_taken = taken_by.map(|address| (since, address));
        let long = |(since, _): &&(Mono, String)| now.since(*since) > session_timeout * 3 / 2;
        self.id_shared = self.id_taken.as_ref().filter(long).map(|(_, by)| by.clone());
    }

    /// Where another collector has the id of this one: which one, and what to do.
    pub fn shares_id(&self) -> Option<String> {
        let other = self.id_shared.as_ref()?;
        Some(format!(
            "another collector, which gives {other} as its address, is registered in ZooKeeper under the id of this one; give each collector its own `id`"
        ))
    }

    /// When the lease runs out, which no change tells.
    pub fn lease_ends(&self) -> Option<Mono> {
        self.lease.and_then(|lease| lease.ends())
    }

    /// Age of the oldest status that is known and not yet published, in seconds; 0 where there is none.
    pub fn behind(&self, now: Mono) -> f64 {
        self.oldest_pending.map_or(0.0, |at| now.since(at).as_secs_f64())
    }
}
