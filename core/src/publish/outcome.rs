//! Applies the outcomes of batches: applied, refused, or unknown.

use std::collections::BTreeSet;

use super::{
    Batch, Bucket, BucketData, InstanceId, Mono, Op, Publisher, REFUSALS_MAX, Refusal, Sent, StoredStatus,
};

/// What to do after an unknown outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unknown {
    /// Statuses to read back.
    pub ids: BTreeSet<InstanceId>,
    /// Buckets to read back.
    pub buckets: BTreeSet<Bucket>,
    /// A status that is not written again until it changes.
    pub left_out: Option<InstanceId>,
}

impl Publisher {
    /// A batch that is in flight.
    pub fn sent(&self, number: u64) -> Option<&Batch> {
        self.in_flight.get(&number).map(|sent| &sent.batch)
    }

    /// The batch was applied. Returns the number of statuses in it.
    pub fn acknowledged(&mut self, number: u64) -> u64 {
        let Some(sent) = self.in_flight.remove(&number) else {
            return 0;
        };
        self.unknown_outcomes.applied();
        let mut written = 0;
        for op in sent.batch.ops {
            match op {
                Op::Put(record, _) => {
                    written += 1;
                    let id = record.id().clone();
                    self.rate_limits.written(&id, sent.at);
                    self.rev_max = self.rev_max.max(record.rev);
                    self.audit.written(&id);
                    self.mirror.insert(id, StoredStatus::Record(record));
                }
                Op::Delete(id) => {
                    written += 1;
                    self.mirror.remove(&id);
                    self.removed.remove(&id);
                    self.audit.written(&id);
                }
                Op::Bucket(bucket, data, _) => {
                    self.new_buckets.remove(&bucket);
                    self.refusals.remove(&bucket);
                    self.buckets.insert(bucket, data);
                }
            }
        }
        written
    }

    /// Nothing of the batch was applied, because of the operation at `index`: the mirror was wrong there. Returns true
    /// if the parent of the buckets is missing, which only a new session repairs.
    pub fn refused(&mut self, number: u64, index: usize, refusal: Refusal) -> bool {
        let Some(sent) = self.in_flight.remove(&number) else {
            return false;
        };
        let marked = sent.marked.unwrap_or(sent.at);
        let op = sent.batch.ops.get(index);
        match (op, refusal) {
            (Some(Op::Bucket(_, _, true)), Refusal::Missing) => {
                self.again(&sent);
                return true;
            }
            (Some(Op::Put(record, true)), Refusal::Missing) => {
                self.bucket_is_gone(marked, record.id().bucket())
            }
            (Some(Op::Bucket(bucket, _, _)), Refusal::Missing) => self.bucket_is_gone(marked, *bucket),
            (Some(Op::Bucket(bucket, _, _)), Refusal::Exists) => {
                self.new_buckets.remove(bucket);
            }
            (Some(Op::Put(record, _)), Refusal::Exists) => {
                self.counts(record.id().bucket(), 1);
                self.mirror.insert(record.id().clone(), StoredStatus::Unreadable);
            }
            (Some(op @ (Op::Put(_, false) | Op::Delete(_))), Refusal::Missing) => {
                self.counts(op.bucket(), -1);
                if let Some(id) = op.id() {
                    self.mirror.remove(id);
                }
            }
            (Some(op @ (Op::Put(..) | Op::Delete(_))), Refusal::Forbidden) => {
                self.quarantined.extend(op.id().cloned());
            }
            // The whole bucket cannot be written: it waits for its read-back.
            (Some(Op::Bucket(bucket, _, _)), Refusal::Forbidden) => {
                self.refusals.insert(*bucket, REFUSALS_MAX);
            }
            (Some(Op::Delete(_)) | None, _) => {}
        }
        // A forbidden status makes the next batch smaller, so no other bound is needed.
        let shrinks = refusal == Refusal::Forbidden && !matches!(op, Some(Op::Bucket(..)));
        for bucket in sent.buckets.iter().filter(|_| !shrinks) {
            *self.refusals.entry(*bucket).or_default() += 1;
        }
        self.again(&sent);
        false
    }

    /// Corrects the number of statuses in a bucket by what was found there.
    fn counts(&mut self, bucket: Bucket, change: i64) {
        let data = self.buckets.entry(bucket).or_default();
        data.count = data.count.saturating_add_signed(change);
    }

    /// Marks everything in flight as dirty again, because it is not known whether the batches were applied. Returns the
    /// ids and buckets whose znodes must be read back and passed to [`settle`](Self::settle) and
    /// [`settle_bucket`](Self::settle_bucket) before the next batch. Also returns the status, if any, that is left out
    /// until it changes, because each attempt to write it ended without an outcome.
    pub fn unknown(&mut self, now: Mono) -> Unknown {
        let (mut ids, mut buckets) = (BTreeSet::new(), BTreeSet::new());
        let largest = self.in_flight.values().map(|sent| sent.batch.ops.len()).max();
        let mut alone = Vec::new();
        if let (Some(sent), 1) = (self.in_flight.values().next(), self.in_flight.len()) {
            alone.extend(sent.batch.ops.iter().filter_map(Op::id));
        }
        let left_out = self.unknown_outcomes.unknown(now, largest.unwrap_or(0), &alone);
        for sent in std::mem::take(&mut self.in_flight).into_values() {
            for op in &sent.batch.ops {
                match op {
                    Op::Put(record, _) => ids.insert(record.id().clone()),
                    Op::Delete(id) => ids.insert(id.clone()),
                    Op::Bucket(bucket, _, _) => buckets.insert(*bucket),
                };
            }
            self.again(&sent);
        }
        self.quarantined.extend(left_out.clone());
        Unknown {
            ids,
            buckets,
            left_out,
        }
    }

    /// Takes what a znode holds, as read after the outcome became unknown.
    pub fn settle(&mut self, id: &InstanceId, held: Option<StoredStatus>) {
        match held {
            Some(held) => self.mirror.insert(id.clone(), held),
            None => self.mirror.remove(id),
        };
    }

    /// Takes what a bucket znode holds, as read after the outcome became unknown.
    pub fn settle_bucket(&mut self, bucket: Bucket, data: Option<BucketData>) {
        match data {
            Some(data) => {
                self.new_buckets.remove(&bucket);
                self.buckets.insert(bucket, data);
            }
            None => {
                self.new_buckets.insert(bucket);
            }
        }
    }

    /// Somebody deleted a bucket with everything in it: all its statuses are written again.
    pub(super) fn bucket_is_gone(&mut self, now: Mono, bucket: Bucket) {
        self.new_buckets.insert(bucket);
        self.buckets.entry(bucket).or_default().count = 0;
        for (id, _) in self.mirror.take_bucket(bucket) {
            self.doubt(now, &id);
        }
    }

    fn again(&mut self, sent: &Sent) {
        for id in sent.batch.ops.iter().filter_map(Op::id) {
            self.doubt(sent.marked.unwrap_or(sent.at), id);
        }
    }
}
