//! Defines the content of a znode: the record of one status, and the data of a bucket.

use std::sync::Arc;

use crate::{
    fleet::message_order::Origin,
    ids::{Epoch, InstanceId},
    status::{Reason, Status},
};

/// A status znode. The status itself is shared with all its other holders. What is not written to the znode, such as
/// the evidence, is not compared.
#[derive(Clone, Debug)]
pub struct Record {
    /// The status.
    pub status: Arc<Status>,
    /// The message that reported it. Not compared by [`same`](Self::same).
    pub origin: Origin,
    /// Term in which it was written. Not compared by [`same`](Self::same).
    pub epoch: Epoch,
    /// Number of writes of this znode's content. Not compared by [`same`](Self::same).
    pub rev: u64,
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        let key = |r: &Self| (r.origin, r.epoch, r.rev, r.status.verdict.since);
        key(self) == key(other) && self.id() == other.id() && self.same(other)
    }
}

impl Eq for Record {}

impl Record {
    /// The record of a status; `epoch` and `rev` are filled in when it is written.
    pub fn of(status: &Arc<Status>, origin: Origin) -> Self {
        Self {
            status: Arc::clone(status),
            origin,
            epoch: Epoch(0),
            rev: 0,
        }
    }

    /// Name of the instance.
    pub fn id(&self) -> &InstanceId {
        &self.status.identity.id
    }

    /// The reason; the state follows from it.
    pub fn reason(&self) -> Reason {
        self.status.verdict.reason
    }

    /// True if consumers cannot distinguish the two records.
    pub fn same(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.status, &other.status) {
            return true;
        }
        let key = |r: &Self| {
            let verdict = &r.status.verdict;
            (verdict.reason, verdict.role, verdict.abilities())
        };
        let ((a, b), (v, w)) = (
            (&self.status.identity, &other.status.identity),
            (&self.status.verdict, &other.status.verdict),
        );
        key(self) == key(other)
            && a.cluster == b.cluster
            && a.address == b.address
            && v.run_id == w.run_id
            && self.status.agent == other.status.agent
    }
}

/// What one znode is known to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StoredStatus {
    /// A status as this version writes it; another version may have written additional fields.
    Record(Record),
    /// A readable status that differs from what is written here: somebody edited it. It counts as what was published,
    /// and is written anew.
    Altered(Record),
    /// A znode with other content: damaged or unknown.
    Unreadable,
}

impl StoredStatus {
    /// The status in the znode, if it is readable.
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
    /// Term in which it was written last.
    pub epoch: Epoch,
}
