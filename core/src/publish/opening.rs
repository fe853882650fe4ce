//! The begin of a term: every bucket is closed at first, so that nothing is written over what is not known. A bucket is
//! opened when the mirror is proven to be right for it, or when it was read; each bucket for itself, so that the first
//! change is written before the last bucket is compared.

use std::collections::BTreeSet;

use super::{
    BucketData, Found, Mirror, Publisher, REV_MAX, Record, StoredStatus,
    mirror::{proves, share},
};
use crate::{
    ids::{Bucket, InstanceId},
    time::Mono,
};

impl Publisher {
    /// True if a bucket that is closed has this data, and everything in it is known.
    pub fn is_proven(&self, bucket: Bucket, data: Option<BucketData>) -> bool {
        let known = self.closed.get(&bucket).copied().flatten();
        known.is_some_and(|known| proves(known, data))
    }

    /// The buckets that are closed.
    pub fn closed(&self) -> impl Iterator<Item = Bucket> {
        self.closed.keys().copied()
    }

    /// True once all buckets are open.
    pub fn all_open(&self) -> bool {
        self.closed.is_empty()
    }

    /// True if nothing is written in the bucket yet.
    pub fn is_closed(&self, bucket: Bucket) -> bool {
        self.closed.contains_key(&bucket)
    }

    /// Number of statuses of a bucket.
    pub fn held_count(&self, bucket: Bucket) -> usize {
        self.mirror.bucket_len(bucket)
    }

    /// What the znode of an instance is known to hold.
    pub fn held_of(&self, id: &InstanceId) -> Option<&StoredStatus> {
        self.mirror.get(id)
    }

    /// The statuses of a bucket.
    pub fn held(&self, bucket: Bucket) -> impl Iterator<Item = &StoredStatus> {
        self.mirror.bucket(bucket).map(|(_, held)| held)
    }

    /// Takes what was read of a bucket, as the mirror's content.
    pub fn read(&mut self, bucket: Bucket, found: Found) {
        if let Some(known) = self.closed.get_mut(&bucket) {
            *known = Some(found.data);
            drop(self.mirror.take_bucket(bucket));
            for (id, held) in found.held {
                self.mirror.insert(id, held);
            }
        }
    }

    /// Opens a bucket for writing. Its statuses are as proven, or as read.
    pub fn open(&mut self, bucket: Bucket) {
        let Some(Some(data)) = self.closed.remove(&bucket) else {
            return;
        };
        match data {
            Some(data) => {
                self.buckets.insert(bucket, data);
            }
            None => {
                self.new_buckets.insert(bucket);
            }
        }
        let records = self.mirror.bucket(bucket).filter_map(|(_, held)| held.record());
        let revs = records.map(|record| record.rev).filter(|rev| *rev <= REV_MAX);
        self.rev_max = revs.max().unwrap_or(0).max(self.rev_max);
    }

    /// Compares the newest status of an instance with what is published, and marks it if they differ.
    pub fn compare(&mut self, now: Mono, newest: Record) {
        let id = newest.id();
        let held = self.mirror.get(id);
        if matches!(held, Some(StoredStatus::Record(held)) if held.same(&newest)) {
            share(&mut self.mirror, &newest);
        } else {
            self.doubt(now, &id.clone());
        }
    }

    /// Ends the term. What is returned is known still; buckets with a batch in flight, or that are known to be damaged,
    /// are not.
    pub fn into_mirror(self) -> Mirror {
        let in_flight = self.in_flight.values().flat_map(|sent| &sent.buckets);
        let doubtful: BTreeSet<_> = in_flight
            .chain(&self.new_buckets)
            .chain(&self.stale_buckets)
            .chain(self.refusals.keys())
            .copied()
            .collect();
        let open = self
            .buckets
            .into_iter()
            .map(|(bucket, data)| (bucket, Some(data)));
        let closed = self.closed.into_iter();
        let closed = closed.filter_map(|(bucket, known)| Some((bucket, known?)));
        Mirror {
            statuses: self.mirror,
            known: open
                .filter(|(bucket, _)| !doubtful.contains(bucket))
                .chain(closed)
                .collect(),
        }
    }
}
