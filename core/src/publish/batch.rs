//! Defines a batch of writes, and builds the next one from what differs.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Publisher, REFUSALS_MAX, REV_MAX, Sent,
    backlog::{Key, Look},
    record::{BucketData, Record, StoredStatus},
};
use crate::{
    ids::{Bucket, InstanceId},
    limits::{BACKLOG, BATCH_OPS_BACKLOG_MAX, BATCH_OPS_MAX, BATCHES_IN_FLIGHT_MAX},
    status::Reason,
    time::Mono,
};

/// About so many statuses are compared in the search for one batch, which takes some milliseconds. The search goes on where
/// it stopped.
pub const LOOKED_AT_MAX: usize = 4_096;

/// One write of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Write a status; true creates the znode.
    Put(Record, bool),
    /// Delete a status.
    Delete(InstanceId),
    /// Write a bucket; true creates it. A bucket that is created comes before its statuses.
    Bucket(Bucket, BucketData, bool),
}

/// Operations that must be applied together, conditional on the epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    /// Number by which the outcome is reported.
    pub number: u64,
    /// The operations, in order.
    pub ops: Vec<Op>,
}

/// Why one operation was refused, which undid its whole batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The znode to create exists.
    Exists,
    /// The znode to write or delete, or the parent of the znode to create, does not exist.
    Missing,
    /// Refused for a reason that does not pass by itself, such as somebody else's ACL or a quota: the instance is left
    /// out until its status changes, so that it does not hold up the others.
    Forbidden,
}

impl Op {
    /// The instance that the operation writes; `None` for a bucket.
    pub fn id(&self) -> Option<&InstanceId> {
        match self {
            Self::Put(record, _) => Some(record.id()),
            Self::Delete(id) => Some(id),
            Self::Bucket(..) => None,
        }
    }

    /// The bucket in which the operation writes.
    pub fn bucket(&self) -> Bucket {
        match self {
            Self::Put(record, _) => record.id().bucket(),
            Self::Delete(id) => id.bucket(),
            Self::Bucket(bucket, _, _) => *bucket,
        }
    }
}

impl Publisher {
    /// The next batch to send, if anything differs and the window has room. `desired` looks up the newest status.
    pub fn next_batch(
        &mut self,
        now: Mono,
        desired: impl Fn(&InstanceId) -> Option<Record>,
    ) -> Option<&Batch> {
        self.paced_until = None;
        if let Some(at) = self.unknown_outcomes.wait(now) {
            self.paced_until = Some(at);
            return None;
        }
        let window = if self.unknown_outcomes.one_at_a_time() {
            1
        } else {
            BATCHES_IN_FLIGHT_MAX
        };
        if self.in_flight.len() >= window {
            return None;
        }
        let mut busy: BTreeSet<Bucket> = self
            .in_flight
            .values()
            .flat_map(|sent| sent.buckets.iter().copied())
            .collect();
        let refused = self.refusals.iter().filter(|(_, n)| **n >= REFUSALS_MAX);
        busy.extend(refused.map(|(bucket, _)| *bucket));
        busy.extend(self.closed.keys());
        let room = if self.dirty.len() > BACKLOG {
            BATCH_OPS_BACKLOG_MAX
        } else {
            BATCH_OPS_MAX
        };
        let room = self.unknown_outcomes.room(room);
        let (mut ops, mut touched) = (Vec::new(), BTreeSet::new());
        let (mut oldest, mut paced) = (None::<Mono>, None::<Mono>);
        let mut dirty = std::mem::take(&mut self.dirty);
        let (mut looked_at, mut is_cut) = (0, false);
        for bucket in dirty.buckets_from(self.next_look) {
            if busy.contains(&bucket) {
                continue;
            }
            if looked_at >= LOOKED_AT_MAX || is_cut {
                (self.next_look, is_cut) = (bucket, true);
                break;
            }
            looked_at += dirty.look(bucket, |key, dirty| {
                // The writes of the touched buckets count too.
                if ops.len() + touched.len() + 2 > room {
                    is_cut = true;
                    return Look::Enough;
                }
                if let Some(due) = dirty.due.filter(|due| *due > now) {
                    paced = Some(paced.map_or(due, |first: Mono| first.min(due)));
                    return Look::Wait;
                }
                let op = self.op(key, dirty.newest.take().or_else(|| desired(&key.id)));
                let Some(op) = op else {
                    return Look::Remove;
                };
                if let Some(due) = self.rate_limits.due(key.hashed(), now) {
                    // Else the search would look at the same ones again and again.
                    dirty.due = Some(due);
                    paced = Some(paced.map_or(due, |first| first.min(due)));
                    return Look::Keep;
                }
                touched.insert(bucket);
                oldest = oldest.min(Some(dirty.since)).or(Some(dirty.since));
                ops.push(op);
                Look::Remove
            });
        }
        self.dirty = dirty;
        self.paced_until = if is_cut && ops.is_empty() {
            Some(now)
        } else {
            paced
        };
        let buckets = self.new_buckets.union(&self.stale_buckets);
        for bucket in buckets.filter(|bucket| !busy.contains(bucket)) {
            if ops.len() + touched.len() + 1 > room {
                break;
            }
            touched.insert(*bucket);
        }
        if touched.is_empty() {
            self.forget_removed();
            return None;
        }
        let mut all = Vec::with_capacity(ops.len() + touched.len());
        let mut by_bucket: BTreeMap<Bucket, Vec<Op>> = BTreeMap::new();
        for op in ops {
            by_bucket.entry(op.bucket()).or_default().push(op);
        }
        for &bucket in &touched {
            let create = self.new_buckets.contains(&bucket);
            let mut data = self.buckets.get(&bucket).copied().unwrap_or_default();
            data.generation = data.generation.saturating_add(1);
            data.epoch = self.epoch;
            let own = by_bucket.remove(&bucket).unwrap_or_default();
            for op in &own {
                match op {
                    Op::Put(_, true) => data.count = data.count.saturating_add(1),
                    Op::Delete(_) => data.count = data.count.saturating_sub(1),
                    _ => {}
                }
            }
            if create {
                all.push(Op::Bucket(bucket, data, true));
                all.extend(own);
            } else {
                all.extend(own);
                all.push(Op::Bucket(bucket, data, false));
            }
        }
        let number = self.next;
        let batch = Batch { number, ops: all };
        self.next += 1;
        self.audit.touched(&touched);
        self.stale_buckets.retain(|bucket| !touched.contains(bucket));
        let sent = Sent {
            batch,
            buckets: touched,
            marked: oldest,
            at: now,
        };
        Some(&self.in_flight.entry(number).or_insert(sent).batch)
    }

    fn op(&self, key: &Key, desired: Option<Record>) -> Option<Op> {
        if self.quarantined.contains(&key.id) {
            return None;
        }
        let (hash, id) = key.hashed();
        let held = self.mirror.get_hashed(hash, id);
        // Never re-create an unpublished instance only to say AGENT_SILENT: otherwise a deletion by the former leader
        // or an operator would be undone.
        let desired = desired.filter(|record| held.is_some() || record.reason() != Reason::AgentSilent);
        let Some(mut record) = desired else {
            return (self.removed.contains(id) && held.is_some()).then(|| Op::Delete(id.clone()));
        };
        let rev = match held {
            Some(StoredStatus::Record(held)) if held.same(&record) => return None,
            Some(StoredStatus::Record(held) | StoredStatus::Altered(held)) if held.rev <= REV_MAX => held.rev,
            _ => self.rev_max,
        };
        record.epoch = self.epoch;
        record.rev = rev.saturating_add(1);
        Some(Op::Put(record, held.is_none()))
    }
}
