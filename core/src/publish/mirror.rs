//! The mirror: what ZooKeeper is known to hold, bucket by bucket. A follower keeps its own up to date by what the leader
//! tells of its writes, so that at a take-over it reads only the buckets whose data differs from what it knows.

use std::{collections::BTreeMap, sync::Arc};

use super::{Batch, BucketData, Found, Op, Record, StoredStatus};
use crate::{
    id_map::IdMap,
    ids::{Bucket, Epoch, InstanceId},
};

/// Writes in one bucket that were applied together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketWrites {
    /// The bucket.
    pub bucket: Bucket,
    /// Its data as written with them.
    pub data: BucketData,
    /// The statuses that were written.
    pub written: Vec<(InstanceId, StoredStatus)>,
    /// The statuses that were deleted.
    pub deleted: Vec<InstanceId>,
}

/// Whether equal data proves that nothing was written in between. A bucket without a generation is damaged: it has been
/// written by somebody else.
pub(super) fn proves(known: Option<BucketData>, data: Option<BucketData>) -> bool {
    known == data && data.is_none_or(|data| data.generation > 0)
}

/// Replaces a copy of the same content, which takes as much memory again.
pub(super) fn share(statuses: &mut IdMap<StoredStatus>, status: &Record) {
    let Some(StoredStatus::Record(held)) = statuses.get(status.id()) else {
        return;
    };
    let is_copy = !Arc::ptr_eq(&held.status, &status.status)
        && held.same(status)
        && held.status.verdict.since == status.status.verdict.since;
    if is_copy {
        let shared = Record {
            status: Arc::clone(&status.status),
            ..held.clone()
        };
        statuses.insert(status.id().clone(), StoredStatus::Record(shared));
    }
}

impl Batch {
    /// What the batch writes, bucket by bucket.
    pub fn by_bucket(&self) -> Vec<BucketWrites> {
        let (mut written, mut deleted) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::<_, Vec<_>>::new());
        let mut buckets = Vec::new();
        for op in &self.ops {
            match op {
                Op::Put(record, _) => written
                    .entry(op.bucket())
                    .or_default()
                    .push((record.id().clone(), StoredStatus::Record(record.clone()))),
                Op::Delete(id) => deleted.entry(op.bucket()).or_default().push(id.clone()),
                Op::Bucket(bucket, data, _) => buckets.push((*bucket, *data)),
            }
        }
        let writes = |(bucket, data)| BucketWrites {
            bucket,
            data,
            written: written.remove(&bucket).unwrap_or_default(),
            deleted: deleted.remove(&bucket).unwrap_or_default(),
        };
        buckets.into_iter().map(writes).collect()
    }
}

/// What ZooKeeper is known to hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Mirror {
    pub(super) statuses: IdMap<StoredStatus>,
    /// The data of each bucket of which all statuses are known; `None` where the znode does not exist. The generation
    /// grows with each write in a bucket, and each term has its own epoch, so equal data means equal statuses.
    pub(super) known: BTreeMap<Bucket, Option<BucketData>>,
}

impl Mirror {
    /// Number of statuses.
    pub fn len(&self) -> usize {
        self.statuses.len()
    }

    /// True where no status is known.
    pub fn is_empty(&self) -> bool {
        self.statuses.is_empty()
    }

    /// True if the bucket has this data, and everything in it is known.
    pub fn is_proven(&self, bucket: Bucket, data: Option<BucketData>) -> bool {
        self.known.get(&bucket).is_some_and(|known| proves(*known, data))
    }

    /// The statuses of one bucket.
    pub fn bucket(&self, bucket: Bucket) -> impl Iterator<Item = &StoredStatus> {
        self.statuses.bucket(bucket).map(|(_, held)| held)
    }

    /// Takes what was read of a bucket. The caller has made sure that nothing was written there meanwhile.
    pub fn read(&mut self, bucket: Bucket, found: Found) {
        drop(self.statuses.take_bucket(bucket));
        for (id, held) in found.held {
            self.statuses.insert(id, held);
        }
        self.known.insert(bucket, found.data);
    }

    /// Takes writes that the leader has made. Where one is missing between them and what is known, the bucket is not
    /// known any more. Returns whether it is.
    pub fn apply(&mut self, writes: BucketWrites) -> bool {
        let BucketWrites { bucket, data, .. } = writes;
        let Some(known) = self.known.get(&bucket).copied() else {
            return false;
        };
        let before = known.unwrap_or_default();
        if data.epoch == before.epoch && data.generation <= before.generation {
            // Read meanwhile.
            return true;
        }
        let follows = data.epoch >= before.epoch && data.generation == before.generation.saturating_add(1);
        if follows {
            for (id, written) in writes.written {
                self.statuses.insert(id, written);
            }
            for id in &writes.deleted {
                self.statuses.remove(id);
            }
            self.known.insert(bucket, Some(data));
        }
        // The leader also corrects the number of what others deleted or added, without writing it.
        let is_known = follows && self.statuses.bucket_len(bucket) as u64 == data.count;
        if !is_known {
            self.known.remove(&bucket);
        }
        is_known
    }

    /// Shares a status with its other holders, if it is what is published.
    pub fn share(&mut self, status: &Record) {
        share(&mut self.statuses, status);
    }

    /// What is known of a bucket is no longer proven.
    pub fn doubt(&mut self, bucket: Bucket) {
        self.known.remove(&bucket);
    }

    /// Newest term that wrote one of the statuses of a bucket.
    pub fn newest_epoch(&self, bucket: Bucket) -> Epoch {
        let records = self.bucket(bucket).filter_map(StoredStatus::record);
        records.map(|record| record.epoch).max().unwrap_or(Epoch(0))
    }
}
