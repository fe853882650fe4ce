//! Tests of the begin of a term: closed buckets, the mirror of a follower, and its proof.

use super::{tests::*, *};
use crate::status::Reason;
use proptest::prelude::*;
use std::time::Duration;

/// What is in a bucket now.
fn found(store: &Store, bucket: Bucket) -> Found {
    let held = store.nodes.iter().filter(|(id, _)| id.bucket() == bucket);
    Found {
        data: store.buckets.get(&bucket).copied(),
        held: held
            .map(|(id, r)| (id.clone(), StoredStatus::Record(r.clone())))
            .collect(),
    }
}

/// A mirror that has read everything.
fn mirror(store: &Store) -> Mirror {
    let mut mirror = Mirror::default();
    Bucket::all().for_each(|bucket| mirror.read(bucket, found(store, bucket)));
    mirror
}

#[test]
fn nothing_is_written_in_a_closed_bucket() {
    let desired: BTreeMap<_, _> = (0..500).map(|n| (id(n), record(n, Reason::Ok))).collect();
    let mut p = Publisher::new(Epoch(2), Mirror::default(), 10);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    let next = |p: &mut Publisher| p.next_batch(Mono(0), |id| desired.get(id).cloned()).cloned();
    assert_eq!((next(&mut p), p.next_deadline()), (None, None));
    let first = id(1).bucket();
    assert!(!p.is_proven(first, None), "nothing is known of it");
    p.read(first, Found::default());
    assert!(p.is_proven(first, None));
    p.open(first);
    let batch = next(&mut p).unwrap();
    assert!(batch.ops.iter().all(|op| op.bucket() == first));
    assert!(matches!(batch.ops[0], Op::Bucket(_, data, true) if data.epoch == Epoch(2)));
    assert!(!p.all_open() && !p.is_closed(first) && p.closed().all(|bucket| bucket != first));
}

#[test]
fn the_search_for_differences_is_done_in_parts() {
    let desired: BTreeMap<_, _> = (0..20_000).map(|n| (id(n), record(n, Reason::Ok))).collect();
    let mut store = Store::default();
    let mut p = publisher(&store);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    drain(&mut p, &mut store, &desired);
    // Everything is doubtful, and the last one differs.
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    let looked_at = std::cell::Cell::new(0);
    let desired = |id: &InstanceId| {
        looked_at.set(looked_at.get() + 1);
        desired.get(id).cloned()
    };
    let mut calls = 0;
    while p.pending() > 0 {
        looked_at.set(0);
        assert_eq!(p.next_batch(Mono(0), desired), None);
        assert!(looked_at.get() < LOOKED_AT_MAX + 200, "{}", looked_at.get());
        calls += 1;
        let more = (p.pending() > 0).then_some(Mono(0));
        assert_eq!(p.next_deadline(), more, "at once, while there is more");
    }
    assert!(calls >= 4, "{calls}");
}

/// More instances flap than one search looks at: it waits until the first of them may be written.
#[test]
fn those_that_must_wait_are_not_looked_at_again_and_again() {
    let reasons = [Reason::Ok, Reason::Loading, Reason::ConnectionRefused];
    let (mut store, count) = (Store::default(), LOOKED_AT_MAX as u32 + 2_000);
    let mut p = publisher(&store);
    let mut desired = BTreeMap::new();
    let at = |round: usize| Mono::from_millis(1_000 + round as u64);
    for round in 0..6 {
        desired.extend((0..count).map(|n| (id(n), record(n, reasons[round % 3]))));
        desired.keys().for_each(|id| p.mark(at(round), id));
        let mut calls = 0;
        loop {
            calls += 1;
            assert!(calls < 200, "it never waits");
            if let Some(batch) = p.next_batch(at(round), |id| desired.get(id).cloned()).cloned() {
                store.apply(&batch).unwrap();
                p.acknowledged(batch.number);
            } else if !p.is_searching(at(round)) {
                break;
            }
        }
    }
    let due = p.next_deadline().unwrap();
    assert!(due > at(5) + Duration::from_secs(2), "{due:?}");
    assert_eq!(p.pending(), count as usize);
    // One that changes back need not wait.
    desired.insert(id(1), store.nodes[&id(1)].clone());
    p.mark(at(5), &id(1));
    p.next_batch(at(5), |id| desired.get(id).cloned());
    assert_eq!(p.pending(), count as usize - 1);
    while p.pending() > 0 {
        let now = p.next_deadline().map_or(due, |next| next.max(due));
        if let Some(batch) = p.next_batch(now, |id| desired.get(id).cloned()).cloned() {
            store.apply(&batch).unwrap();
            p.acknowledged(batch.number);
        }
    }
    agree(&store, &desired);
}

#[test]
fn a_term_that_ends_leaves_its_mirror_behind() {
    let (mut store, mut desired) = (Store::default(), BTreeMap::new());
    desired.extend((0..600).map(|n| (id(n), record(n, Reason::Ok))));
    let mut p = publisher(&store);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    drain(&mut p, &mut store, &desired);
    // One batch has no outcome when the term ends.
    p.put(Mono(0), record(7, Reason::Loading));
    p.next_batch(Mono(0), |id| desired.get(id).cloned()).unwrap();
    let left = p.into_mirror();
    assert_eq!(left.len(), 600);
    for bucket in Bucket::all() {
        let data = store.buckets.get(&bucket).copied();
        assert_eq!(left.is_proven(bucket, data), bucket != id(7).bucket(), "{bucket}");
    }
    // Nothing of it is lost in a term that opens nothing.
    let again = Publisher::new(Epoch(3), left.clone(), 10).into_mirror();
    assert_eq!(again, left);
}

#[derive(Clone, Debug)]
enum Step {
    Set(u32, usize),
    Remove(u32),
    /// Batches are sent, and the follower is told of them, or not.
    Send(bool),
    /// Somebody else deletes a znode, or adds one, or deletes a bucket; the leader finds it.
    Foreign(u32, u8),
    /// The follower reads a bucket.
    Read(u32),
    /// Another term begins.
    Term,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u32..60, 0usize..3).prop_map(|(n, r)| Step::Set(n, r)),
        1 => (0u32..60).prop_map(Step::Remove),
        6 => (0u8..5).prop_map(|n| Step::Send(n > 0)),
        1 => (0u32..60, 0u8..3).prop_map(|(n, what)| Step::Foreign(n, what)),
        2 => (0u32..60).prop_map(Step::Read),
        1 => Just(Step::Term),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    /// Whatever the follower misses: where the data of a bucket is what its mirror says, all statuses are as well.
    #[test]
    fn what_is_proven_is_true(steps in proptest::collection::vec(step(), 0..120)) {
        let reasons = [Reason::Ok, Reason::Loading, Reason::ConnectionRefused];
        let (mut store, mut desired) = (Store::default(), BTreeMap::new());
        let mut p = publisher(&store);
        let mut follower = Mirror::default();
        let (mut now, mut epoch) = (Mono(0), 1);
        for step in steps {
            now = now + Duration::from_secs(10);
            match step {
                Step::Set(n, r) => {
                    desired.insert(id(n), record(n, reasons[r]));
                    p.mark(now, &id(n));
                }
                Step::Remove(n) => if desired.remove(&id(n)).is_some() { p.remove(now, &id(n)) },
                Step::Send(told) => while let Some(batch) = p.next_batch(now, |id| desired.get(id).cloned()).cloned() {
                    match store.apply(&batch) {
                        Ok(()) => {
                            p.acknowledged(batch.number);
                            for writes in batch.by_bucket().into_iter().filter(|_| told) { follower.apply(writes); }
                        }
                        Err((index, refusal)) => drop(p.refused(batch.number, index, refusal)),
                    }
                },
                Step::Foreign(n, what) => {
                    let bucket = id(n).bucket();
                    match what {
                        0 => drop(store.nodes.remove(&id(n))),
                        1 if store.buckets.contains_key(&bucket) => drop(store.nodes.insert(id(n), record(n, Reason::Ok))),
                        _ => {
                            store.buckets.remove(&bucket);
                            store.nodes.retain(|id, _| id.bucket() != bucket);
                        }
                    }
                    // The leader finds it, and the follower hears nothing of that: what others do to a znode is found by
                    // the audit, not by the proof.
                    for n in (0..60).filter(|n| id(*n).bucket() == bucket) {
                        p.settle(&id(n), store.nodes.get(&id(n)).cloned().map(StoredStatus::Record));
                        p.mark(now, &id(n));
                    }
                    p.settle_bucket(bucket, store.buckets.get(&bucket).copied());
                    follower.doubt(bucket);
                }
                Step::Read(n) => follower.read(id(n).bucket(), found(&store, id(n).bucket())),
                Step::Term => {
                    epoch += 1;
                    let mut next = Publisher::new(Epoch(epoch), p.into_mirror(), 10);
                    for bucket in next.closed().collect::<Vec<_>>() {
                        let now_there = found(&store, bucket);
                        if !next.is_proven(bucket, now_there.data) { next.read(bucket, now_there); }
                        next.open(bucket);
                    }
                    desired.values().for_each(|record| next.compare(now, record.clone()));
                    p = next;
                }
            }
            for bucket in Bucket::all() {
                let there = found(&store, bucket);
                if follower.is_proven(bucket, there.data) {
                    let known: BTreeMap<_, _> = follower.statuses.bucket(bucket).map(|(id, held)| (id.clone(), held.clone())).collect();
                    prop_assert_eq!(known, there.held, "bucket {}", bucket);
                }
            }
        }
    }
}

/// A follower that is told everything knows everything, and the next leader needs to read nothing.
#[test]
fn who_misses_nothing_has_proven_everything() {
    let reasons = [Reason::Ok, Reason::Loading, Reason::ConnectionRefused];
    let (mut store, mut desired) = (Store::default(), BTreeMap::new());
    let mut p = publisher(&store);
    let mut follower = mirror(&store);
    for round in 0..40u32 {
        let now = Mono::from_millis(u64::from(round) * 10_000);
        for n in 0..30 {
            let n = (n * 7 + round * 13) % 400;
            if round % 5 == 4 && desired.remove(&id(n)).is_some() {
                p.remove(now, &id(n));
            } else {
                desired.insert(id(n), record(n, reasons[(n + round) as usize % 3]));
                p.mark(now, &id(n));
            }
        }
        while let Some(batch) = p.next_batch(now, |id| desired.get(id).cloned()).cloned() {
            store.apply(&batch).unwrap();
            p.acknowledged(batch.number);
            assert!(batch.by_bucket().into_iter().all(|writes| follower.apply(writes)));
        }
        if round == 20 {
            p = Publisher::new(Epoch(9), follower.clone(), 10);
            for bucket in p.closed().collect::<Vec<_>>() {
                assert!(
                    p.is_proven(bucket, store.buckets.get(&bucket).copied()),
                    "{bucket}"
                );
                p.open(bucket);
            }
        }
    }
    agree(&store, &desired);
    assert_eq!(follower, mirror(&store));
}
