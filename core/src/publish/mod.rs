//! What to write to ZooKeeper, in which batches. The leader's part of `reference/zookeeper.md` section 6.
//!
//! The desired state is compared with a mirror of what ZooKeeper is known to hold; what differs is dirty.
//! The backlog is a set of ids, so it cannot grow past the fleet, and each id is written with its newest
//! state. No two batches in flight touch the same bucket, so no id has two writes under way.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id_map::IdMap,
    ids::{Bucket, Epoch, InstanceId},
    limits::BATCH_OPS_MAX,
    time::Mono,
};

pub use audit::{Difference, Found, ORPHAN_GRACE};
pub use batch::{Batch, Op, Refusal};
pub use outcome::Unknown;
pub use record::{BucketData, Held, Record};

mod audit;
mod batch;
mod doubts;
mod outcome;
mod rate_limit;
mod record;

/// Refused batches in one bucket without an applied one between them. Each refusal corrects the books, so more
/// means that somebody else writes there at the same time: the bucket waits for its read-back.
const REFUSALS_MAX: u32 = 8;

/// Largest `rev` that is believed where others may have written it: what readers of JSON take exactly.
const REV_MAX: u64 = (1 << 53) - 1;

/// An id with its hash before it, because numbers are compared faster than names. The byte that tells the bucket comes
/// first, so the order is the one in which statuses are written: one bucket after the other.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    hash: u64,
    id: InstanceId,
}

impl Key {
    fn of(id: &InstanceId) -> Self {
        Self {
            hash: id.hash64().rotate_right(8),
            id: id.clone(),
        }
    }

    fn hash64(&self) -> u64 {
        self.hash.rotate_left(8)
    }

    fn bucket(&self) -> Bucket {
        Bucket((self.hash >> 56) as u8)
    }
}

/// Why an instance is looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Dirty {
    /// Since when it may differ.
    since: Mono,
    /// Its newest status, where it was told; else it is looked up.
    newest: Option<Record>,
}

/// A batch without an outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sent {
    batch: Batch,
    buckets: BTreeSet<Bucket>,
    /// When the oldest of its instances became dirty.
    marked: Option<Mono>,
    at: Mono,
}

/// The leader's books of one term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publisher {
    epoch: Epoch,
    /// What ZooKeeper is known to hold.
    mirror: IdMap<Held>,
    buckets: BTreeMap<Bucket, BucketData>,
    /// What may differ.
    dirty: BTreeMap<Key, Dirty>,
    removed: BTreeSet<InstanceId>,
    /// Buckets to be created.
    new_buckets: BTreeSet<Bucket>,
    /// Buckets to be written although nothing in them is dirty.
    stale_buckets: BTreeSet<Bucket>,
    in_flight: BTreeMap<u64, Sent>,
    quarantined: BTreeSet<InstanceId>,
    refusals: BTreeMap<Bucket, u32>,
    audit: audit::Audit,
    paces: rate_limit::Paces,
    /// When the first of the flapping instances that wait may be written.
    paced_until: Option<Mono>,
    doubts: doubts::Doubts,
    /// No `rev` of a status is higher. A status that is created begins above it, so that its `rev` also grows where
    /// somebody had deleted it.
    rev_max: u64,
    next: u64,
}

impl Publisher {
    /// Starts a term with what ZooKeeper holds, read after the claim. Of all statuses at most this share, in
    /// percent, is deleted as orphans.
    pub fn new(
        now: Mono,
        epoch: Epoch,
        held: BTreeMap<InstanceId, Held>,
        buckets: BTreeMap<Bucket, BucketData>,
        orphans_max_percent: u8,
    ) -> Self {
        let new_buckets = Bucket::all()
            .filter(|bucket| !buckets.contains_key(bucket))
            .collect();
        let mut mirror = IdMap::default();
        let ids: Vec<_> = held.keys().cloned().collect();
        let revs = held.values().filter_map(Held::record).map(|record| record.rev);
        let rev_max = revs.filter(|rev| *rev <= REV_MAX).max().unwrap_or(0);
        for (id, held) in held {
            mirror.insert(id, held);
        }
        let mut publisher = Self {
            epoch,
            dirty: BTreeMap::new(),
            mirror,
            buckets,
            removed: BTreeSet::new(),
            new_buckets,
            stale_buckets: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            refusals: BTreeMap::new(),
            audit: audit::Audit::new(orphans_max_percent),
            paces: rate_limit::Paces::default(),
            paced_until: None,
            doubts: doubts::Doubts::default(),
            rev_max,
            next: 1,
        };
        ids.iter().for_each(|id| publisher.doubt(now, id));
        publisher
    }

    /// Notes that a status may differ from what is published; the newest is looked up.
    pub fn mark(&mut self, now: Mono, id: &InstanceId) {
        self.changed(now, id, None);
    }

    /// Notes the newest status of an instance.
    pub fn put(&mut self, now: Mono, newest: Record) {
        let id = newest.id().clone();
        self.changed(now, &id, Some(newest));
    }

    fn changed(&mut self, since: Mono, id: &InstanceId, newest: Option<Record>) {
        self.removed.remove(id);
        self.quarantined.remove(id);
        let fresh = Dirty { since, newest: None };
        self.dirty.entry(Key::of(id)).or_insert(fresh).newest = newest;
    }

    /// Notes that an instance was explicitly forgotten: only then is its znode deleted.
    pub fn remove(&mut self, now: Mono, id: &InstanceId) {
        self.changed(now, id, None);
        self.removed.insert(id.clone());
    }

    /// What was forgotten and is not published needs no deletion; else the set would grow with each instance that ever was.
    fn forget_removed(&mut self) {
        if self.in_flight.is_empty() {
            let (mirror, dirty) = (&self.mirror, &self.dirty);
            self.removed
                .retain(|id| mirror.contains_key(id) || dirty.contains_key(&Key::of(id)));
        }
    }

    /// What is published of an instance is in doubt; its newest status stays what it was.
    fn doubt(&mut self, since: Mono, id: &InstanceId) {
        let fresh = Dirty { since, newest: None };
        self.dirty.entry(Key::of(id)).or_insert(fresh);
    }

    /// Statuses not yet acknowledged.
    pub fn pending(&self) -> usize {
        self.dirty.len()
            + self
                .in_flight
                .values()
                .map(|sent| sent.batch.ops.len())
                .sum::<usize>()
    }

    /// Since when the longest waiting of them waits.
    pub fn oldest_pending(&self) -> Option<Mono> {
        let sent = self.in_flight.values().filter_map(|sent| sent.marked);
        self.dirty.values().map(|dirty| dirty.since).chain(sent).min()
    }

    /// Instances whose znodes ZooKeeper refuses to let us write.
    pub fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// Number of batches without an outcome.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// When [`next_batch`](Self::next_batch) has something to send if nothing else happens.
    pub fn next_deadline(&self) -> Option<Mono> {
        self.paced_until
    }

    /// Operations that a batch has at most, where former ones had to be made smaller.
    pub fn batch_ops_max(&self) -> usize {
        self.doubts.room(BATCH_OPS_MAX)
    }

    /// Instances that change so often that their writes are limited.
    pub fn flapping(&self, now: Mono) -> usize {
        self.paces.flapping(now)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_doubts;
