//! What every query needs: the view, the leader, and the tokens with which a watcher resumes.

use std::time::Duration;

use redkeeper_core::{ids::Revision, time::Mono};
use redkeeper_proto::{convert, v1};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};

use super::wire::count;
use crate::{
    fleet::view::{View, ViewHandle},
    grpc::errors::Failure,
    leader::leadership::{self, Leadership},
    metrics::Metrics,
    peers,
    store::records::PublisherJson,
};

/// Answers queries.
#[derive(Clone)]
pub struct Queries {
    /// Id of this collector.
    pub id: String,
    /// Id of this process, part of resume tokens: revisions of another process mean nothing here.
    pub boot: String,
    /// The view.
    pub view: ViewHandle,
    /// The leader, and this collector's standing.
    pub leadership: leadership::Reader,
    /// Answers of the other collectors.
    pub peers: peers::Reader,
    /// True if the collector runs without ZooKeeper.
    pub standalone: bool,
    /// Clock.
    pub clock: Clock,
    /// Owner of the watchers' tasks.
    pub supervisor: Supervisor,
    /// Counters.
    pub metrics: Metrics,
}

impl Queries {
    /// Header of an answer: who answers, who leads, and how old the data is.
    pub(super) fn header(&self, view: &View) -> v1::ResponseHeader {
        let (leadership, now) = (self.leadership.borrow(), self.clock.now());
        v1::ResponseHeader {
            served_by: self.id.clone(),
            leader: leadership.leader(now).to_owned(),
            epoch: leadership.epoch,
            revision: view.revision.0,
            data_age: view.data_age(now).map(convert::duration_to_wire),
            publishing: publishing(&leadership, now),
            held: view.held.map(|held| v1::Held {
                agents: count(held.agents),
                of: count(held.of),
                age: Some(convert::duration_to_wire(now.since(held.since))),
            }),
        }
    }

    /// Token with which a watcher resumes that has seen everything up to here.
    pub(super) fn token(&self, revision: Revision) -> String {
        format!("{}-{}", self.boot, revision.0)
    }

    pub(super) fn resume(&self, token: &str) -> Result<Revision, Failure> {
        let (boot, revision) = token.rsplit_once('-').ok_or_else(|| {
            Failure::InvalidArgument(format!(
                "resume_token: {token:?} is not a token of this collector"
            ))
        })?;
        match revision.parse() {
            Ok(revision) if boot == self.boot => Ok(Revision(revision)),
            _ => Err(Failure::RevisionCompacted),
        }
    }
}

fn publishing(leadership: &Leadership, now: Mono) -> Option<v1::Publishing> {
    let PublisherJson {
        phase,
        mark,
        pending,
        oldest_pending_ms,
        wrong,
        ..
    } = leadership.publisher.clone();
    let age = |ms| convert::duration_to_wire(Duration::from_millis(ms));
    (leadership.publisher.epoch > 0).then(|| v1::Publishing {
        phase,
        mark,
        mark_age: Some(convert::duration_to_wire(now.since(leadership.mark_seen))),
        pending,
        oldest_pending_age: (pending > 0).then(|| age(oldest_pending_ms)),
        wrong,
    })
}
