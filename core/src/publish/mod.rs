//! Decides what to write to ZooKeeper, and in which batches: the leader's part of the protocol of `docs/protocol.md`.
//!
//! The desired state is compared with a mirror of what ZooKeeper is known to hold; what differs is dirty. The backlog
//! is a set of ids, so it cannot grow past the fleet, and each id is written with its newest state. No two batches in
//! flight touch the same bucket, so no id has two writes in flight.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    id_map::IdMap,
    ids::{Bucket, Epoch, InstanceId},
    limits::BATCH_OPS_MAX,
    time::Mono,
};
use backlog::Backlog;

pub use audit::{Difference, Found, ORPHAN_GRACE};
pub use batch::{Batch, LOOKED_AT_MAX, Op, Refusal};
pub use mirror::{BucketWrites, Mirror};
pub use outcome::Unknown;
pub use record::{BucketData, Record, StoredStatus};

mod audit;
mod backlog;
mod batch;
mod mirror;
mod opening;
mod outcome;
mod rate_limit;
mod record;
mod unknown_outcome;

/// Refused batches in one bucket without an applied one between them. Each refusal corrects the mirror, so more of them
/// mean that somebody else writes there at the same time: the bucket then waits for its read-back.
const REFUSALS_MAX: u32 = 8;

/// Largest `rev` that is believed where others may have written it: the largest integer that JSON readers represent
/// exactly.
const REV_MAX: u64 = (1 << 53) - 1;

/// A batch without an outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sent {
    batch: Batch,
    buckets: BTreeSet<Bucket>,
    /// When the oldest of its instances became dirty.
    marked: Option<Mono>,
    at: Mono,
}

/// The leader's record of one term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publisher {
    epoch: Epoch,
    /// Mirror of what ZooKeeper is known to hold.
    mirror: IdMap<StoredStatus>,
    buckets: BTreeMap<Bucket, BucketData>,
    /// Buckets in which nothing is written yet, with what the mirror is known to be right for.
    closed: BTreeMap<Bucket, Option<Option<BucketData>>>,
    /// Statuses that may differ from what is published.
    dirty: Backlog,
    /// Where the search for differences goes on.
    next_look: Bucket,
    removed: BTreeSet<InstanceId>,
    /// Buckets to create.
    new_buckets: BTreeSet<Bucket>,
    /// Buckets to write although nothing in them is dirty.
    stale_buckets: BTreeSet<Bucket>,
    in_flight: BTreeMap<u64, Sent>,
    quarantined: BTreeSet<InstanceId>,
    refusals: BTreeMap<Bucket, u32>,
    audit: audit::Audit,
    rate_limits: rate_limit::RateLimits,
    /// Time at which the first of the waiting flapping instances may be written.
    paced_until: Option<Mono>,
    unknown_outcomes: unknown_outcome::UnknownOutcomes,
    /// Upper bound of the `rev` of all statuses. A new status begins above it, so that its `rev` also grows if somebody
    /// had deleted it.
    rev_max: u64,
    next: u64,
}

impl Publisher {
    /// Starts a term with what is known of ZooKeeper. All buckets are closed. At most `orphans_max_percent` of all
    /// statuses are deleted as orphans.
    pub fn new(epoch: Epoch, mirror: Mirror, orphans_max_percent: u8) -> Self {
        let Mirror { statuses, mut known } = mirror;
        Self {
            epoch,
            dirty: Backlog::default(),
            next_look: Bucket(0),
            mirror: statuses,
            buckets: BTreeMap::new(),
            closed: Bucket::all()
                .map(|bucket| (bucket, known.remove(&bucket)))
                .collect(),
            removed: BTreeSet::new(),
            new_buckets: BTreeSet::new(),
            stale_buckets: BTreeSet::new(),
            in_flight: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            refusals: BTreeMap::new(),
            audit: audit::Audit::new(orphans_max_percent),
            rate_limits: rate_limit::RateLimits::default(),
            paced_until: None,
            unknown_outcomes: unknown_outcome::UnknownOutcomes::default(),
            rev_max: 0,
            next: 1,
        }
    }

    /// Marks a status as possibly different from what is published; the newest one is looked up.
    pub fn mark(&mut self, now: Mono, id: &InstanceId) {
        self.changed(now, id, None);
    }

    /// Sets the newest status of an instance.
    pub fn put(&mut self, now: Mono, newest: Record) {
        let id = newest.id().clone();
        self.changed(now, &id, Some(newest));
    }

    fn changed(&mut self, since: Mono, id: &InstanceId, newest: Option<Record>) {
        self.removed.remove(id);
        self.quarantined.remove(id);
        let dirty = self.dirty.entry(id, since);
        (dirty.newest, dirty.due) = (newest, None);
    }

    /// Records that an instance was explicitly forgotten. Only then is its znode deleted.
    pub fn remove(&mut self, now: Mono, id: &InstanceId) {
        self.changed(now, id, None);
        self.removed.insert(id.clone());
    }

    /// Drops forgotten instances that are not published: they need no deletion, and the set would otherwise grow with
    /// each instance that ever existed.
    fn forget_removed(&mut self) {
        if self.in_flight.is_empty() {
            let (mirror, dirty) = (&self.mirror, &self.dirty);
            self.removed
                .retain(|id| mirror.contains_key(id) || dirty.contains(id));
        }
    }

    /// Marks what is published of an instance as doubtful; its newest status stays as it was.
    fn doubt(&mut self, since: Mono, id: &InstanceId) {
        self.dirty.entry(id, since);
    }

    /// Number of statuses not yet acknowledged.
    pub fn pending(&self) -> usize {
        self.dirty.len()
            + self
                .in_flight
                .values()
                .map(|sent| sent.batch.ops.len())
                .sum::<usize>()
    }

    /// Time since which the oldest pending status waits.
    pub fn oldest_pending(&self) -> Option<Mono> {
        let sent = self.in_flight.values().filter_map(|sent| sent.marked);
        self.dirty.oldest().into_iter().chain(sent).min()
    }

    /// The statuses that are not yet acknowledged, if they are at most `max`.
    pub fn pending_ids(&self, max: usize) -> Option<Vec<InstanceId>> {
        if self.pending() > max {
            return None;
        }
        let sent = self.in_flight.values().flat_map(|sent| &sent.batch.ops);
        let sent = sent.filter_map(Op::id);
        Some(self.dirty.ids().chain(sent).cloned().collect())
    }

    /// The first `max` instances whose znodes ZooKeeper refuses to let the leader write.
    pub fn quarantined_ids(&self, max: usize) -> Vec<InstanceId> {
        self.quarantined.iter().take(max).cloned().collect()
    }

    /// Number of instances whose znodes ZooKeeper refuses to let the leader write.
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

    /// True while [`next_batch`](Self::next_batch) has not yet looked at everything that may differ.
    pub fn is_searching(&self, now: Mono) -> bool {
        self.paced_until.is_some_and(|at| at <= now)
    }

    /// Largest number of operations of a batch, which is smaller after batches without an outcome.
    pub fn batch_ops_max(&self) -> usize {
        self.unknown_outcomes.room(BATCH_OPS_MAX)
    }

    /// Number of instances that change so often that their writes are limited.
    pub fn flapping(&self, now: Mono) -> usize {
        self.rate_limits.flapping(now)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_opening;
#[cfg(test)]
mod tests_unknown_outcome;
