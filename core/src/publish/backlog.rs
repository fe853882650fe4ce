//! The statuses that may differ from what is published, by bucket. A set of ids, so an outage cannot make it larger than
//! the fleet.

use std::collections::{BTreeMap, btree_map::Entry};

use super::Record;
use crate::{
    ids::{Bucket, InstanceId},
    time::Mono,
};

/// An id preceded by its hash, because numbers are compared faster than names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Key {
    hash: u64,
    pub(super) id: InstanceId,
}

impl Key {
    fn of(id: &InstanceId) -> Self {
        Self {
            hash: id.hash64(),
            id: id.clone(),
        }
    }

    /// The id with its hash.
    pub(super) fn hashed(&self) -> (u64, &InstanceId) {
        (self.hash, &self.id)
    }
}

/// Why an instance may have to be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Dirty {
    /// Time since which the published status may differ.
    pub(super) since: Mono,
    /// The newest status, if it was passed in; otherwise it is looked up.
    pub(super) newest: Option<Record>,
    /// Until then its rate limit holds it back, unless it changes.
    pub(super) due: Option<Mono>,
}

/// The set. No bucket in it is empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Backlog {
    buckets: BTreeMap<Bucket, BTreeMap<Key, Dirty>>,
    len: usize,
}

impl Backlog {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The entry of an instance, created with this time if there is none.
    pub(super) fn entry(&mut self, id: &InstanceId, since: Mono) -> &mut Dirty {
        match self.buckets.entry(id.bucket()).or_default().entry(Key::of(id)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                self.len += 1;
                entry.insert(Dirty {
                    since,
                    newest: None,
                    due: None,
                })
            }
        }
    }

    pub(super) fn contains(&self, id: &InstanceId) -> bool {
        let entries = self.buckets.get(&id.bucket());
        entries.is_some_and(|entries| entries.contains_key(&Key::of(id)))
    }

    /// Time since which the oldest entry waits.
    pub(super) fn oldest(&self) -> Option<Mono> {
        let all = self.buckets.values().flat_map(BTreeMap::values);
        all.map(|dirty| dirty.since).min()
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &InstanceId> {
        self.buckets.values().flat_map(BTreeMap::keys).map(|key| &key.id)
    }

    /// The buckets with entries, from this one on, and then those before it.
    pub(super) fn buckets_from(&self, first: Bucket) -> Vec<Bucket> {
        let from = self.buckets.range(first..).chain(self.buckets.range(..first));
        from.map(|(bucket, _)| *bucket).collect()
    }

    /// Looks at the entries of a bucket one by one until it has seen enough. Returns how many were dealt with.
    pub(super) fn look(&mut self, bucket: Bucket, mut look: impl FnMut(&Key, &mut Dirty) -> Look) -> usize {
        let Some(entries) = self.buckets.get_mut(&bucket) else {
            return 0;
        };
        let (before, mut dealt_with, mut enough) = (entries.len(), 0, false);
        entries.retain(|key, dirty| {
            if enough {
                return true;
            }
            let what = look(key, dirty);
            dealt_with += usize::from(what != Look::Wait);
            enough = what == Look::Enough;
            what != Look::Remove
        });
        self.len -= before - entries.len();
        if entries.is_empty() {
            self.buckets.remove(&bucket);
        }
        dealt_with
    }
}

/// What to do with an entry that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Look {
    /// It stays.
    Keep,
    /// It stays, and was not worth a look.
    Wait,
    /// It is dealt with.
    Remove,
    /// It stays, and the others are not looked at.
    Enough,
}
