//! The read-back: one bucket at a time is compared with the books, so that a znode which somebody else deleted,
//! edited or added is found, repaired and counted (`reference/zookeeper.md` section 6 step 11). Orphans, which
//! are statuses that nobody stands behind any more, are deleted here, slowly and not too many.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{BucketData, Held, Publisher, Record};
use crate::{
    ids::{Bucket, InstanceId},
    time::Mono,
};

/// How long a status must have been an orphan before it is deleted; it must also have been seen as one in two
/// passes over all buckets.
pub const ORPHAN_GRACE: Duration = Duration::from_secs(10);
/// As many orphans are deleted whatever their share: a small fleet must be able to shrink.
const ORPHANS_ALWAYS: usize = 10;
/// A bucket that is written all the time is left for the next pass after so many attempts.
const ATTEMPTS_MAX: u32 = 8;

/// What a bucket holds, read back.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Found {
    /// Its data; `None` where it does not exist.
    pub data: Option<BucketData>,
    /// Its statuses.
    pub held: BTreeMap<InstanceId, Held>,
}

/// Something that is not as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// A status was deleted.
    Deleted(InstanceId),
    /// A status was edited.
    Edited(InstanceId),
    /// A status that was not written here.
    Foreign(InstanceId, Held),
    /// A bucket was deleted or edited.
    Bucket(Bucket),
    /// An orphan is deleted now.
    Orphan(InstanceId),
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Audit {
    next: Bucket,
    attempts: u32,
    pass: u64,
    /// The bucket that is being read, until it is written.
    reading: Option<Bucket>,
    /// In which pass, and when, each orphan was first seen.
    orphans: BTreeMap<InstanceId, (u64, Mono)>,
    orphans_max_percent: u8,
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
        }
    }

    /// What is read of a bucket that is written meanwhile proves nothing.
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
    /// The bucket to be read now; the answer goes to [`audited`](Self::audited). `None` while it is being written.
    pub fn audit_next(&mut self) -> Option<Bucket> {
        let bucket = self.audit.next;
        let busy = self.in_flight.values().any(|sent| sent.buckets.contains(&bucket));
        // Its first write is still to come, or will come again: there is nothing to compare.
        if self.new_buckets.contains(&bucket) || self.audit.attempts >= ATTEMPTS_MAX {
            self.audit.advance();
            self.refusals.remove(&bucket);
            return None;
        }
        self.audit.attempts += 1;
        self.audit.reading = (!busy).then_some(bucket);
        self.audit.reading
    }

    /// Compares what was read with the books. What differs becomes dirty and so is repaired. `abandoned` says of
    /// a status whether its agent has told that it no longer has the instance.
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
        self.paces.forget_quiet(now);
        self.refusals.remove(&bucket);
        let Some(data) = found.data else {
            self.bucket_is_gone(now, bucket);
            return vec![Difference::Bucket(bucket)];
        };
        let held = found.held;
        let mut differences = self.compare(now, bucket, &held);
        let is_known = differences.is_empty();
        let books = self.buckets.entry(bucket).or_default();
        let count = held.len() as u64;
        if *books != data || data.count != count {
            differences.push(Difference::Bucket(bucket));
        }
        if !differences.is_empty() {
            // A generation only grows, so that whoever watches it sees the repair.
            books.generation = books.generation.max(data.generation);
            books.count = count;
            self.stale_buckets.insert(bucket);
        }
        // What is as it was stays: its name and status are shared with the view, and what was read is a copy.
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

    /// Statuses that nobody stands behind, as far as they have been found.
    pub fn orphans(&self) -> usize {
        self.audit.orphans.len()
    }

    /// Whether there are too many orphans to be deleted without an operator's word.
    pub fn orphans_kept(&self) -> bool {
        let share = self.mirror.len() * usize::from(self.audit.orphans_max_percent) / 100;
        self.audit.orphans.len() > share.max(ORPHANS_ALWAYS)
    }

    fn compare(&mut self, now: Mono, bucket: Bucket, found: &BTreeMap<InstanceId, Held>) -> Vec<Difference> {
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

    /// What ZooKeeper refused may be allowed by now: one of a bucket in a pass, so that many do not hold up the rest.
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
        if self.orphans_kept() {
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
