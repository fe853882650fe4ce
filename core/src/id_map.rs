//! A hash map with instance names as keys: a sorted map compares a dozen names in each look-up, and each of them is
//! somewhere else in memory. The map is divided into buckets, so that it grows in small steps and one bucket can be
//! listed alone.

use hashbrown::{HashTable, hash_table::Entry};

use crate::{
    ids::{Bucket, InstanceId},
    limits::BUCKETS,
};

/// Values by instance name. The order of iteration depends only on the insertions and removals.
#[derive(Clone, Debug)]
pub struct IdMap<V> {
    /// Indexed by the number of the bucket.
    buckets: Box<[HashTable<(InstanceId, V)>]>,
    len: usize,
}

impl<V> Default for IdMap<V> {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| HashTable::new()).collect(),
            len: 0,
        }
    }
}

impl<V: PartialEq> PartialEq for IdMap<V> {
    fn eq(&self, other: &Self) -> bool {
        let all = self.buckets.iter().flatten();
        self.len == other.len && all.into_iter().all(|(id, value)| other.get(id) == Some(value))
    }
}

impl<V: Eq> Eq for IdMap<V> {}

/// Spreads the bits of a hash: those that select the bucket are the same for all names in it, so the others must
/// distinguish them.
fn spread(hash: u64) -> u64 {
    // 2^64 over the golden ratio, as in Fibonacci hashing.
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

impl<V> IdMap<V> {
    fn bucket_of(hash: u64) -> usize {
        (hash % BUCKETS as u64) as usize
    }

    fn rehash((id, _): &(InstanceId, V)) -> u64 {
        spread(id.hash64())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are no values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a name.
    pub fn get(&self, id: &InstanceId) -> Option<&V> {
        self.get_hashed(id.hash64(), id)
    }

    /// Like [`get`](Self::get), where the hash of the name is known.
    pub fn get_hashed(&self, hash: u64, id: &InstanceId) -> Option<&V> {
        let found = self.buckets[Self::bucket_of(hash)].find(spread(hash), |(known, _)| known == id);
        found.map(|(_, value)| value)
    }

    /// The mutable value of a name.
    pub fn get_mut(&mut self, id: &InstanceId) -> Option<&mut V> {
        let hash = id.hash64();
        let found = self.buckets[Self::bucket_of(hash)].find_mut(spread(hash), |(known, _)| known == id);
        found.map(|(_, value)| value)
    }

    /// The value of a name, created by `make` if there is none.
    pub fn get_or_insert_with(&mut self, id: &InstanceId, make: impl FnOnce() -> V) -> &mut V {
        let hash = id.hash64();
        let bucket = &mut self.buckets[Self::bucket_of(hash)];
        match bucket.entry(spread(hash), |(known, _)| known == id, Self::rehash) {
            Entry::Occupied(entry) => &mut entry.into_mut().1,
            Entry::Vacant(entry) => {
                self.len += 1;
                &mut entry.insert((id.clone(), make())).into_mut().1
            }
        }
    }

    /// Keeps only the values for which `keep` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&V) -> bool) {
        for bucket in &mut self.buckets {
            bucket.retain(|(_, value)| keep(value));
            Self::give_back(bucket);
        }
        self.len = self.buckets.iter().map(HashTable::len).sum();
    }

    /// Shrinks the bucket once it is less than a quarter full. The cost is bounded by the preceding removals.
    fn give_back(bucket: &mut HashTable<(InstanceId, V)>) {
        if bucket.len() * 4 < bucket.capacity() {
            bucket.shrink_to_fit(Self::rehash);
        }
    }

    /// Iterates over all values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.buckets.iter().flatten().map(|(_, value)| value)
    }

    /// Whether the map has a value for this name.
    pub fn contains_key(&self, id: &InstanceId) -> bool {
        self.get(id).is_some()
    }

    /// Inserts a value; returns the former one.
    pub fn insert(&mut self, id: InstanceId, value: V) -> Option<V> {
        let hash = id.hash64();
        let bucket = &mut self.buckets[Self::bucket_of(hash)];
        match bucket.entry(spread(hash), |(known, _)| *known == id, Self::rehash) {
            // Replaces the name too: the newer copy is the one that other holders share.
            Entry::Occupied(mut entry) => Some(std::mem::replace(entry.get_mut(), (id, value)).1),
            Entry::Vacant(entry) => {
                entry.insert((id, value));
                self.len += 1;
                None
            }
        }
    }

    /// Removes a value and returns it.
    pub fn remove(&mut self, id: &InstanceId) -> Option<V> {
        let hash = id.hash64();
        let bucket = &mut self.buckets[Self::bucket_of(hash)];
        let entry = bucket.find_entry(spread(hash), |(known, _)| known == id).ok()?;
        let ((_, value), _) = entry.remove();
        self.len -= 1;
        Self::give_back(bucket);
        Some(value)
    }

    /// Iterates over one bucket.
    pub fn bucket(&self, bucket: Bucket) -> impl Iterator<Item = (&InstanceId, &V)> {
        self.buckets[usize::from(bucket.0)]
            .iter()
            .map(|(id, value)| (id, value))
    }

    /// Number of values in one bucket.
    pub fn bucket_len(&self, bucket: Bucket) -> usize {
        self.buckets[usize::from(bucket.0)].len()
    }

    /// Removes all values of one bucket and returns them.
    pub fn take_bucket(&mut self, bucket: Bucket) -> impl Iterator<Item = (InstanceId, V)> + use<V> {
        let taken = std::mem::take(&mut self.buckets[usize::from(bucket.0)]);
        self.len -= taken.len();
        taken.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u16) -> InstanceId {
        InstanceId::new(&format!("host-{}:{n}", n % 7)).unwrap()
    }

    proptest! {
        /// The map behaves like a sorted map under any sequence of operations.
        #[test]
        fn does_what_a_sorted_map_does(steps in proptest::collection::vec((0u8..8, 0u16..2_000), 0..600)) {
            let (mut map, mut model) = (IdMap::default(), BTreeMap::new());
            for (what, n) in steps {
                match what {
                    0 => prop_assert_eq!(map.remove(&id(n)), model.remove(&id(n))),
                    1 => {
                        let bucket = id(n).bucket();
                        let taken: BTreeMap<_, _> = map.take_bucket(bucket).collect();
                        let expected = model.extract_if(.., |id: &InstanceId, _| id.bucket() == bucket);
                        prop_assert_eq!(taken, expected.collect());
                    }
                    3 => {
                        map.retain(|value| *value > n);
                        model.retain(|_, value| *value > n);
                    }
                    4 => prop_assert_eq!(
                        *map.get_or_insert_with(&id(n), || n),
                        *model.entry(id(n)).or_insert(n)
                    ),
                    2 => prop_assert_eq!(map.get_mut(&id(n)).map(|value| { *value += 1; *value }),
                        model.get_mut(&id(n)).map(|value| { *value += 1; *value })),
                    _ => prop_assert_eq!(map.insert(id(n), n), model.insert(id(n), n)),
                }
                prop_assert_eq!((map.get(&id(n)), map.len()), (model.get(&id(n)), model.len()));
            }
            let all: BTreeMap<_, _> = Bucket::all().flat_map(|bucket| map.bucket(bucket)).collect();
            prop_assert_eq!(all, model.iter().collect());
            let mut other = IdMap::default();
            for (id, value) in model.into_iter().rev() {
                other.insert(id, value);
            }
            prop_assert_eq!(&map, &other);
            other.insert(id(0), u16::MAX);
            prop_assert_ne!(map, other);
        }
    }

    #[test]
    fn room_is_given_back() {
        let mut map = IdMap::default();
        let ids: Vec<_> = (0..20_000).map(id).collect();
        let room = |map: &IdMap<u16>| map.buckets.iter().map(HashTable::capacity).sum::<usize>();
        for id in &ids {
            map.insert(id.clone(), 1);
        }
        let full = room(&map);
        for id in &ids[100..] {
            map.remove(id);
        }
        assert!(room(&map) < full / 20, "{} of {full}", room(&map));
        map.retain(|_| false);
        assert_eq!(room(&map), 0);
    }

    /// Names of one bucket must be spread over many slots, because a look-up compares all names in its slot.
    #[test]
    fn names_of_a_bucket_are_spread() {
        let ids =
            (0..100_000).map(|n| InstanceId::new(&format!("redis-{:04}.example:{}", n / 50, 6379 + n % 50)));
        let hashes = ids.map(|id| id.unwrap().hash64());
        let one: Vec<u64> = hashes.filter(|hash| hash % 256 == 7).map(spread).collect();
        let places: std::collections::BTreeSet<u64> = one.iter().map(|hash| hash % 512).collect();
        let tags: std::collections::BTreeSet<u64> = one.iter().map(|hash| hash >> 57).collect();
        // Of 391 names distributed at random over 512 slots, 273 slots are hit on average, and about 122 of the 128
        // tags.
        assert!((350..430).contains(&one.len()), "{}", one.len());
        assert!(places.len() > 240, "{}", places.len());
        assert!(tags.len() > 110, "{}", tags.len());
    }
}
