//! Publishes this collector's standing to the rest of the daemon, through the watched [`Leadership`]: its session, the
//! leader, the registered collectors, and what ZooKeeper refuses.

use std::time::Duration;

use redkeeper_core::{
    election::{Election, lease::Lease},
    time::Mono,
};

use super::{Coordinator, leadership::Leadership, membership::MembershipSnapshot};
use crate::{
    publish::LeaderTerm,
    store::{Connection, Store, records::CollectorJson},
};

impl<S: Store> Coordinator<S> {
    /// Reports that there is no session. Without one the leader is unknown, and this collector is certainly not it.
    pub(super) fn offline(&self, error: Option<String>) {
        self.metrics.pending.set(0);
        self.tell(|d| {
            d.note_connection(None, self.clock.wall());
            d.phase = "offline";
            (d.lease, d.oldest_pending, d.refused) = (None, None, None);
            (d.id_taken, d.id_shared) = (None, None);
            d.candidate.clear();
            d.leader_hint.clear();
            if let Some(error) = error {
                d.last_error = error;
            }
        });
    }

    pub(super) fn tell(&self, change: impl FnOnce(&mut Leadership)) {
        self.leadership.send_if_modified(|leadership| {
            let before = leadership.clone();
            change(leadership);
            *leadership != before
        });
    }

    pub(super) fn note_phase(
        &self,
        election: &Election,
        publishing: Option<&LeaderTerm<S>>,
        connection: Connection,
        lease: Lease,
    ) {
        if publishing.is_none() {
            self.metrics.pending.set(0);
        }
        let phase = match publishing {
            Some(publishing) if connection == Connection::Connected => publishing.phase(),
            _ => election.phase(),
        };
        let own = self.id.as_str();
        self.tell(|d| {
            d.note_connection(Some(connection), self.clock.wall());
            d.phase = phase;
            election.node().unwrap_or_default().clone_into(&mut d.candidate);
            d.lease = election.term().map(|_| lease);
            match election.term() {
                Some(term) if connection == Connection::Connected => {
                    d.epoch = term.epoch.0;
                    own.clone_into(&mut d.leader_hint);
                }
                Some(_) => d.leader_hint.clear(),
                None => {}
            }
        });
        if let Some(term) = election.term() {
            self.metrics
                .epoch
                .set(i64::try_from(term.epoch.0).unwrap_or(i64::MAX));
        }
    }

    pub(super) fn note_membership(
        &self,
        seen: MembershipSnapshot,
        election: &Election,
        session_timeout: Duration,
        (oldest_pending, refused): (Option<Mono>, Option<(String, usize)>),
    ) {
        let epoch = election.newest().0;
        self.metrics.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
        self.tell(|d| {
            d.members = seen.members;
            d.note_publisher(seen.publisher.clone(), self.clock.now());
            d.note_id(seen.taken_by, self.clock.now(), session_timeout);
            (d.oldest_pending, d.refused) = (oldest_pending, refused);
            // The snapshot may be older than an own claim.
            if election.term().is_none() {
                d.epoch = epoch;
                d.leader_hint = seen.publisher.holder;
                // The znode of a former session of this collector, which has not expired yet: no leader is known.
                if d.leader_hint == self.id.as_str() {
                    d.leader_hint.clear();
                }
            }
        });
    }

    pub(super) fn membership(&self) -> CollectorJson {
        CollectorJson {
            id: self.id.to_string(),
            grpc: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }
}
