//! What every query needs: the view, who leads, and the tokens with which a watcher resumes.

use redkeeper_core::ids::Revision;
use redkeeper_proto::{convert, v1};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};

use crate::{
    fleet::view::{Shared, View},
    grpc::errors::Failure,
    leader::leadership,
    metrics::Metrics,
    peers,
};

/// Answers queries.
#[derive(Clone)]
pub struct Queries {
    /// Own name.
    pub id: String,
    /// Own life, part of resume tokens: revisions of another process mean nothing here.
    pub boot: String,
    /// The view.
    pub view: Shared,
    /// Who leads.
    pub directory: leadership::Reader,
    /// What the other collectors answer.
    pub peers: peers::Reader,
    /// Whether it runs without ZooKeeper.
    pub standalone: bool,
    /// Time.
    pub clock: Clock,
    /// Owner of the watchers' tasks.
    pub supervisor: Supervisor,
    /// Counters.
    pub metrics: Metrics,
}

impl Queries {
    /// Who answers, who leads, and how old the data is.
    pub(super) fn header(&self, view: &View) -> v1::ResponseHeader {
        let (directory, now) = (self.directory.borrow(), self.clock.now());
        v1::ResponseHeader {
            served_by: self.id.clone(),
            leader: directory.leader(now).to_owned(),
            epoch: directory.epoch,
            revision: view.revision.0,
            data_age: view.data_age(now).map(convert::duration_to_wire),
        }
    }

    /// What a watcher that has seen everything up to here resumes with.
    pub(super) fn token(&self, revision: Revision) -> String {
        format!("{}-{}", self.boot, revision.0)
    }

    pub(super) fn resume(&self, token: &str) -> Result<Revision, Failure> {
        let (boot, revision) = token
            .rsplit_once('-')
            .ok_or_else(|| Failure::InvalidArgument(format!("resume_token: {token:?} is none of ours")))?;
        match revision.parse() {
            Ok(revision) if boot == self.boot => Ok(Revision(revision)),
            _ => Err(Failure::RevisionCompacted),
        }
    }
}
