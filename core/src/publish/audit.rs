//! The audit, or read-back: compares one bucket at a time with the mirror, so that a znode which somebody else deleted,
//! edited or added is found, repaired and counted (`docs/protocol.md`, "Audit"). Orphans, which are statuses that no
//! agent reports any more, are deleted here, slowly and in limited numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{BucketData, Publisher, Record, StoredStatus};
use crate::{
    ids::{Bucket, InstanceId},
    time::Mono,
};

/// How long a status must have been an orphan before it is deleted. It must also have been an orphan in two passes over
/// all buckets.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// This many orphans may always be deleted, so that a small fleet can shrink.
const ORPHANS_ALWAYS: usize = 10;
/// After this many attempts, a bucket that is written all the time is left for the next pass.
const ATTEMPTS_MAX: u32 = 8;

/// Content of a bucket, as read back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Its data; `None` where it does not exist.
    pub data: Option<BucketData>,
    /// Its statuses.
    pub held: BTreeMap<InstanceId, StoredStatus>,
}

/// A difference between what was read and what was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// A status was deleted.
    Deleted(InstanceId),
    /// A status was edited.
    Edited(InstanceId),
    /// A status that this leader did not write.
    Foreign(InstanceId, StoredStatus),
    /// A bucket was deleted or edited.
    Bucket(Bucket),
    /// An orphan is deleted now.
    Orphan(InstanceId),
}

impl Difference {
    /// The status that somebody else changed.
    fn id(&self) -> Option<&InstanceId> {
        match self {
            Self::Deleted(id) | Self::Edited(id) | Self::Foreign(id, _) => Some(id),
            Self::Bucket(_) | Self::Orphan(_) => None,
        }
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Audit {
    next: Bucket,
    attempts: u32,
    pass: u64,
    /// The bucket that is being read; cleared if it is written meanwhile.
    reading: Option<Bucket>,
    /// The pass in which, and the time at which, each orphan was first seen.
    orphans: BTreeMap<InstanceId, (u64, Mono)>,
    orphans_max_percent: u8,
    /// Statuses that were found changed by somebody else and are not written anew yet.
    wrong: BTreeSet<InstanceId>,
}

impl Audit {
    pub(super) fn new(orphans_max_percent: u8) -> Self {
        Self {
            next: Bucket(0),
            attempts: 0,
            pass: 0,
            reading: None,
            orphans: BTreeMap::new(),
            orphans_max_percent,
            wrong: BTreeSet::new(),
        }
    }

    /// A status was written.
    pub(super) fn written(&mut self, id: &InstanceId) {
        self.wrong.remove(id);
    }

    /// Discards the reading of a bucket that is written meanwhile, because it proves nothing.
    pub(super) fn touched(&mut self, buckets: &BTreeSet<Bucket>) {
        if self.reading.is_some_and(|bucket| buckets.contains(&bucket)) {
            self.reading = None;
        }
    }

    fn advance(&mut self) {
        self.attempts = 0;
        self.next = Bucket(self.next.0.wrapping_add(1));
        self.pass += u64::from(self.next.0 == 0);
    }
}

impl Publisher {
    /// The bucket to read now; the answer goes to [`audited`](Self::audited). `None` while the bucket is being written.
    pub fn audit_next(&mut self) -> Option<Bucket> {
        let bucket = self.audit.next;
        let busy = self.in_flight.values().any(|sent| sent.buckets.contains(&bucket));
        // The bucket's first write is outstanding, or will be repeated: there is nothing to compare.
        if self.new_buckets.contains(&bucket) || self.audit.attempts >= ATTEMPTS_MAX {
            self.audit.advance();
            self.refusals.remove(&bucket);
            return None;
        }
        self.audit.attempts += 1;
        self.audit.reading = (!busy).then_some(bucket);
        self.audit.reading
    }

    /// Compares what was read with the mirror. What differs becomes dirty and so is repaired. `abandoned` says of a
    /// status whether its agent has reported that it no longer has the instance.
    pub fn audited(
        &mut self,
        now: Mono,
        bucket: Bucket,
        found: Found,
        abandoned: impl Fn(&Record) -> bool,
    ) -> Vec<Difference> {
        if self.audit.reading.take() != Some(bucket) {
            return Vec::new();
        }
        self.audit.advance();
        self.rate_limits.forget_quiet(now);
        self.refusals.remove(&bucket);
        let Some(data) = found.data else {
            self.bucket_is_gone(now, bucket);
            return vec![Difference::Bucket(bucket)];
        };
        let held = found.held;
        let mut differences = self.differences(now, bucket, &held);
        let is_known = differences.is_empty();
        self.audit.wrong.retain(|id| id.bucket() != bucket);
        self.audit
            .wrong
            .extend(differences.iter().filter_map(Difference::id).cloned());
        let books = self.buckets.entry(bucket).or_default();
        let count = held.len() as u64;
        if *books != data || data.count != count {
            differences.push(Difference::Bucket(bucket));
        }
        if !differences.is_empty() {
            // A generation never decreases, so that a consumer that watches it notices the repair.
            books.generation = books.generation.max(data.generation);
            books.count = count;
            self.stale_buckets.insert(bucket);
        }
        // Unchanged statuses are kept: their names and statuses are shared with the view, while what was read is a
        // copy.
        if !is_known {
            let known: BTreeMap<_, _> = self.mirror.take_bucket(bucket).collect();
            for (id, found) in held {
                let same = known.get_key_value(&id).filter(|(_, known)| **known == found);
                let (id, held) = same.map_or((id, found), |(id, known)| (id.clone(), known.clone()));
                self.mirror.insert(id, held);
            }
        }
        self.retry_quarantined(now, bucket);
        self.find_orphans(now, bucket, abandoned, &mut differences);
        differences
    }

    /// The bucket that the audit reads next, and the number of complete passes over all buckets.
    pub fn audit_position(&self) -> (Bucket, u64) {
        (self.audit.next, self.audit.pass)
    }

    /// Number of statuses that are known to differ from what this leader wrote, or that ZooKeeper refuses to let it write.
    pub fn wrong(&self) -> usize {
        let refused = self.quarantined.difference(&self.audit.wrong).count();
        self.audit.wrong.len() + refused
    }

    /// Number of orphans found so far.
    pub fn orphans(&self) -> usize {
        self.audit.orphans.len()
    }

    /// Whether there are too many orphans to delete without an operator's consent.
    pub fn too_many_orphans(&self) -> bool {
        let share = self.mirror.len() * usize::from(self.audit.orphans_max_percent) / 100;
        self.audit.orphans.len() > share.max(ORPHANS_ALWAYS)
    }

    fn differences(
        &mut self,
        now: Mono,
        bucket: Bucket,
        found: &BTreeMap<InstanceId, StoredStatus>,
    ) -> Vec<Difference> {
        let known = self.mirror.bucket(bucket);
        let mut differences: Vec<_> = known
            .filter_map(|(id, held)| match found.get(id) {
                Some(found) if found == held => None,
                Some(_) => Some(Difference::Edited(id.clone())),
                None => Some(Difference::Deleted(id.clone())),
            })
            .collect();
        let foreign = found.iter().filter(|(id, _)| !self.mirror.contains_key(id));
        differences.extend(foreign.map(|(id, held)| Difference::Foreign(id.clone(), held.clone())));
        for difference in &differences {
            if let Difference::Edited(id) | Difference::Deleted(id) | Difference::Foreign(id, _) = difference
            {
                self.doubt(now, id);
            }
        }
        differences
    }

    /// Tries a quarantined status again, because ZooKeeper may accept it by now: one per bucket and pass, so that many
    /// of them do not hold up the rest.
    fn retry_quarantined(&mut self, now: Mono, bucket: Bucket) {
        let one = self.quarantined.iter().find(|id| id.bucket() == bucket).cloned();
        if let Some(id) = one {
            self.quarantined.remove(&id);
            self.doubt(now, &id);
        }
    }

    fn find_orphans(
        &mut self,
        now: Mono,
        bucket: Bucket,
        abandoned: impl Fn(&Record) -> bool,
        differences: &mut Vec<Difference>,
    ) {
        let mut orphans: Vec<InstanceId> = Vec::new();
        for (id, held) in self.mirror.bucket(bucket) {
            if held.record().is_some_and(&abandoned) {
                orphans.push(id.clone());
            }
        }
        self.audit
            .orphans
            .retain(|id, _| id.bucket() != bucket || orphans.contains(id));
        let pass = self.audit.pass;
        for id in &orphans {
            self.audit.orphans.entry(id.clone()).or_insert((pass, now));
        }
        if self.too_many_orphans() {
            return;
        }
        for id in orphans {
            let due = self
                .audit
                .orphans
                .get(&id)
                .is_some_and(|(first, at)| pass > first + 1 && now >= *at + ORPHAN_GRACE);
            if due {
                self.remove(now, &id);
                differences.push(Difference::Orphan(id));
            }
        }
    }
}
