//! What to write to ZooKeeper, in which batches. The leader's part of `reference/zookeeper.md` section 6.
//!
//! The desired state is compared with a mirror of what ZooKeeper is known to hold; what differs is dirty.
//! The backlog is a set of ids, so it cannot grow past the fleet, and each id is written with its newest
//! state. No two batches in flight touch the same bucket, so no id has two writes under way.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    ids::{AgentId, Bucket, ClusterName, Epoch, InstanceId},
    limits::{BATCH_OPS_MAX, BATCHES_IN_FLIGHT_MAX},
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
    /// When state or reason last changed. Not compared.
    pub since: WallMs,
    /// Term in which it was written. Not compared.
    pub epoch: Epoch,
    /// Number of writes of this znode's content. Not compared.
    pub rev: u64,
}

impl Record {
    /// The record of a status; `epoch` and `rev` are filled in when it is written.
    pub fn of(status: &Status) -> Self {
        Self {
            id: status.identity.id.clone(),
            cluster: status.identity.cluster.clone(),
            address: status.identity.address.clone(),
            reason: status.verdict.reason,
            role: status.verdict.role,
            run_id: status.verdict.run_id.clone(),
            agent: status.agent.clone(),
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
    /// A readable status.
    Record(Record),
    /// A znode with other content: damaged, or of unknown content.
    Unreadable,
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

/// The leader's books of one term.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Publisher {
    epoch: Epoch,
    mirror: BTreeMap<InstanceId, Held>,
    buckets: BTreeMap<Bucket, BucketData>,
    dirty: BTreeSet<(Bucket, InstanceId)>,
    removed: BTreeSet<InstanceId>,
    new_buckets: BTreeSet<Bucket>,
    in_flight: BTreeMap<u64, Batch>,
    quarantined: BTreeSet<InstanceId>,
    next: u64,
}

impl Publisher {
    /// Starts a term with what ZooKeeper holds, read after the claim.
    pub fn new(
        epoch: Epoch,
        held: BTreeMap<InstanceId, Held>,
        buckets: BTreeMap<Bucket, BucketData>,
    ) -> Self {
        let new_buckets = Bucket::all()
            .filter(|bucket| !buckets.contains_key(bucket))
            .collect();
        let dirty = held.keys().map(|id| (id.bucket(), id.clone())).collect();
        Self {
            epoch,
            mirror: held,
            buckets,
            dirty,
            removed: BTreeSet::new(),
            new_buckets,
            in_flight: BTreeMap::new(),
            quarantined: BTreeSet::new(),
            next: 1,
        }
    }

    /// Notes that a status may differ from what is published.
    pub fn mark(&mut self, id: &InstanceId) {
        self.removed.remove(id);
        self.quarantined.remove(id);
        self.dirty.insert((id.bucket(), id.clone()));
    }

    /// Notes that an instance was explicitly forgotten: only then is its znode deleted.
    pub fn remove(&mut self, id: &InstanceId) {
        self.removed.insert(id.clone());
        self.dirty.insert((id.bucket(), id.clone()));
    }

    /// Statuses not yet acknowledged.
    pub fn pending(&self) -> usize {
        self.dirty.len()
            + self
                .in_flight
                .values()
                .map(|batch| batch.ops.len())
                .sum::<usize>()
    }

    /// What ZooKeeper is known to hold.
    pub fn mirror(&self) -> &BTreeMap<InstanceId, Held> {
        &self.mirror
    }

    /// Instances whose znodes ZooKeeper refuses to let us write.
    pub fn quarantined(&self) -> usize {
        self.quarantined.len()
    }

    /// Number of batches without an outcome.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The next batch to be sent, if anything differs and the window has room. `desired` is the newest status.
    pub fn next_batch(&mut self, desired: impl Fn(&InstanceId) -> Option<Record>) -> Option<Batch> {
        if self.in_flight.len() >= BATCHES_IN_FLIGHT_MAX {
            return None;
        }
        let busy: BTreeSet<Bucket> = self
            .in_flight
            .values()
            .flat_map(|batch| batch.ops.iter().map(bucket_of))
            .collect();
        let (mut ops, mut done, mut touched) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (bucket, id) in self.dirty.iter().filter(|(bucket, _)| !busy.contains(bucket)) {
            // The writes of the touched buckets count too.
            if ops.len() + touched.len() + 2 > BATCH_OPS_MAX {
                break;
            }
            done.push((*bucket, id.clone()));
            if let Some(op) = self.op(id, desired(id)) {
                touched.insert(*bucket);
                ops.push(op);
            }
        }
        for key in &done {
            self.dirty.remove(key);
        }
        for bucket in self.new_buckets.iter().filter(|bucket| !busy.contains(bucket)) {
            if ops.len() + touched.len() + 1 > BATCH_OPS_MAX {
                break;
            }
            touched.insert(*bucket);
        }
        if touched.is_empty() {
            return None;
        }
        let mut all = Vec::with_capacity(ops.len() + touched.len());
        for bucket in touched {
            let create = self.new_buckets.contains(&bucket);
            let mut data = self.buckets.get(&bucket).copied().unwrap_or_default();
            data.generation += 1;
            let own: Vec<_> = ops.extract_if(.., |op| bucket_of(op) == bucket).collect();
            for op in &own {
                match op {
                    Op::Put(_, true) => data.count += 1,
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
        let batch = Batch {
            number: self.next,
            ops: all,
        };
        self.next += 1;
        self.in_flight.insert(batch.number, batch.clone());
        Some(batch)
    }

    fn op(&self, id: &InstanceId, desired: Option<Record>) -> Option<Op> {
        if self.quarantined.contains(id) {
            return None;
        }
        let held = self.mirror.get(id);
        let Some(mut record) = desired else {
            return (self.removed.contains(id) && held.is_some()).then(|| Op::Delete(id.clone()));
        };
        let rev = match held {
            Some(Held::Record(held)) if held.same(&record) => return None,
            Some(Held::Record(held)) => held.rev,
            _ => 0,
        };
        record.epoch = self.epoch;
        record.rev = rev + 1;
        Some(Op::Put(record, held.is_none()))
    }

    /// The batch was applied.
    pub fn acknowledged(&mut self, number: u64) {
        let Some(batch) = self.in_flight.remove(&number) else {
            return;
        };
        for op in batch.ops {
            match op {
                Op::Put(record, _) => {
                    self.mirror.insert(record.id.clone(), Held::Record(record));
                }
                Op::Delete(id) => {
                    self.mirror.remove(&id);
                    self.removed.remove(&id);
                }
                Op::Bucket(bucket, data, _) => {
                    self.new_buckets.remove(&bucket);
                    self.buckets.insert(bucket, data);
                }
            }
        }
    }

    /// Nothing of the batch was applied, because of the operation at `index`: the mirror was wrong there.
    pub fn refused(&mut self, number: u64, index: usize, refusal: Refusal) {
        let Some(batch) = self.in_flight.remove(&number) else {
            return;
        };
        match (batch.ops.get(index), refusal) {
            (Some(Op::Put(record, true)), Refusal::Missing) => self.bucket_is_gone(record.id.bucket()),
            (Some(Op::Bucket(bucket, _, _)), Refusal::Missing) => self.bucket_is_gone(*bucket),
            (Some(Op::Bucket(bucket, _, _)), Refusal::Exists) => {
                self.new_buckets.remove(bucket);
            }
            (Some(Op::Put(record, _)), Refusal::Exists) => {
                self.mirror.insert(record.id.clone(), Held::Unreadable);
            }
            (Some(Op::Put(Record { id, .. }, false) | Op::Delete(id)), Refusal::Missing) => {
                self.mirror.remove(id);
            }
            (Some(Op::Put(Record { id, .. }, _) | Op::Delete(id)), Refusal::Forbidden) => {
                self.quarantined.insert(id.clone());
            }
            (Some(Op::Delete(_)) | None, _) | (Some(Op::Bucket(..)), Refusal::Forbidden) => {}
        }
        self.again(&batch);
    }

    /// Whether batches were applied is not known: everything in flight is dirty again. Returns the ids and
    /// buckets whose znodes must be read back and given to [`settle`](Self::settle) and
    /// [`settle_bucket`](Self::settle_bucket) before the next batch.
    pub fn unknown(&mut self) -> (BTreeSet<InstanceId>, BTreeSet<Bucket>) {
        let (mut ids, mut buckets) = (BTreeSet::new(), BTreeSet::new());
        for batch in std::mem::take(&mut self.in_flight).into_values() {
            for op in &batch.ops {
                match op {
                    Op::Put(record, _) => ids.insert(record.id.clone()),
                    Op::Delete(id) => ids.insert(id.clone()),
                    Op::Bucket(bucket, _, _) => buckets.insert(*bucket),
                };
            }
            self.again(&batch);
        }
        (ids, buckets)
    }

    /// What a znode holds, read after the outcome became unknown.
    pub fn settle(&mut self, id: &InstanceId, held: Option<Held>) {
        match held {
            Some(held) => self.mirror.insert(id.clone(), held),
            None => self.mirror.remove(id),
        };
    }

    /// What a bucket znode holds, read after the outcome became unknown.
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

    /// Somebody deleted a bucket with everything in it: all of it is written again.
    fn bucket_is_gone(&mut self, bucket: Bucket) {
        self.new_buckets.insert(bucket);
        self.buckets.entry(bucket).or_default().count = 0;
        let lost: Vec<_> = self
            .mirror
            .keys()
            .filter(|id| id.bucket() == bucket)
            .cloned()
            .collect();
        for id in lost {
            self.mirror.remove(&id);
            self.dirty.insert((bucket, id));
        }
    }

    fn again(&mut self, batch: &Batch) {
        for op in &batch.ops {
            if let Op::Put(Record { id, .. }, _) | Op::Delete(id) = op {
                self.dirty.insert((id.bucket(), id.clone()));
            }
        }
    }
}

fn bucket_of(op: &Op) -> Bucket {
    match op {
        Op::Put(record, _) => record.id.bucket(),
        Op::Delete(id) => id.bucket(),
        Op::Bucket(bucket, _, _) => *bucket,
    }
}

#[cfg(test)]
mod tests;
