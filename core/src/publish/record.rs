//! What one status znode says, and the writes that change it.

use std::sync::Arc;

use crate::{
    dedupe::Origin,
    ids::{AgentId, Bucket, ClusterName, Epoch, InstanceId},
    status::{Ability, Reason, Role, Stage, Status, Verdict},
    time::WallMs,
};

/// A status znode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Name of the instance.
    pub id: InstanceId,
    /// Its group.
    pub cluster: Option<ClusterName>,
    /// `host:port` or a Unix socket path.
    pub address: Arc<str>,
    /// Why; the state follows from it.
    pub reason: Reason,
    /// Replication role.
    pub role: Role,
    /// Last known run_id.
    pub run_id: Arc<str>,
    /// Who reported it.
    pub agent: AgentId,
    /// In which message. Not compared.
    pub origin: Origin,
    /// When state or reason last changed. Not compared.
    pub since: WallMs,
    /// Term in which it was written. Not compared.
    pub epoch: Epoch,
    /// Number of writes of this znode's content. Not compared.
    pub rev: u64,
}

impl Record {
    /// The record of a status; `epoch` and `rev` are filled in when it is written.
    pub fn of(status: &Status, origin: Origin) -> Self {
        Self {
            id: status.identity.id.clone(),
            cluster: status.identity.cluster.clone(),
            address: status.identity.address.clone(),
            reason: status.verdict.reason,
            role: status.verdict.role,
            run_id: status.verdict.run_id.clone(),
            agent: status.agent.clone(),
            origin,
            since: status.verdict.since,
            epoch: Epoch(0),
            rev: 0,
        }
    }

    /// (reads, writes).
    pub fn abilities(&self) -> (Ability, Ability) {
        self.reason.abilities(self.role)
    }

    /// Whether both tell a consumer the same.
    pub fn same(&self, other: &Self) -> bool {
        let key = |r: &Self| {
            (
                r.cluster.clone(),
                r.address.clone(),
                r.reason,
                r.role,
                r.run_id.clone(),
                r.agent.clone(),
            )
        };
        key(self) == key(other)
    }

    /// The status as far as the record tells it.
    pub fn status(&self) -> Status {
        let mut verdict = Verdict::blank(self.reason, Stage::Resolve, "as published before", self.since);
        verdict.role = self.role;
        verdict.run_id = self.run_id.clone();
        Status {
            identity: crate::status::Identity {
                id: self.id.clone(),
                cluster: self.cluster.clone(),
                address: self.address.clone(),
                labels: Arc::default(),
            },
            agent: self.agent.clone(),
            verdict,
        }
    }
}

/// What one znode is known to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Held {
    /// A status, exactly as it is written here.
    Record(Record),
    /// A readable status in other words: edited by hand, or written by another version. It counts as what was
    /// published, and is written anew.
    Altered(Record),
    /// A znode with other content: damaged, or of unknown content.
    Unreadable,
}

impl Held {
    /// The status that it tells, if any.
    pub fn record(&self) -> Option<&Record> {
        match self {
            Self::Record(record) | Self::Altered(record) => Some(record),
            Self::Unreadable => None,
        }
    }
}

/// Data of a bucket znode.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BucketData {
    /// Grows with each write in the bucket.
    pub generation: u64,
    /// Number of instances in it.
    pub count: u64,
}

/// One write of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Write a status; true creates the znode.
    Put(Record, bool),
    /// Delete a status.
    Delete(InstanceId),
    /// Write a bucket; true creates it. First of its bucket when it creates.
    Bucket(Bucket, BucketData, bool),
}

/// Operations that must be applied together, conditional on the epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Number by which the outcome is reported.
    pub number: u64,
    /// In this order.
    pub ops: Vec<Op>,
}

/// Why one operation was refused, which undid its whole batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The znode to be created exists.
    Exists,
    /// The znode to be written or deleted, or the parent of the one to be created, does not.
    Missing,
    /// Refused for a reason that will not pass by itself, such as a foreign ACL or quota: the instance is left
    /// out until its status changes, so that it does not hold up the others.
    Forbidden,
}

impl Op {
    /// The bucket in which it writes.
    pub fn bucket(&self) -> Bucket {
        match self {
            Self::Put(record, _) => record.id.bucket(),
            Self::Delete(id) => id.bucket(),
            Self::Bucket(bucket, _, _) => *bucket,
        }
    }
}
