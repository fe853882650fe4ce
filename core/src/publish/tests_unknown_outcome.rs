//! Tests of batches that ZooKeeper never answers, and of numbers that a consumer may rely on.

use super::{tests::*, *};
use crate::status::Reason;
use std::time::Duration;

/// Sends until nothing is left. Batches with more operations than `limit`, and those that write `poison`, are never
/// answered. Returns the sizes of all batches.
fn send(
    p: &mut Publisher,
    store: &mut Store,
    desired: &BTreeMap<InstanceId, Record>,
    limit: usize,
    poison: Option<&InstanceId>,
) -> Vec<usize> {
    let (mut now, mut sizes) = (Mono::from_millis(1), Vec::new());
    for _ in 0..20_000 {
        let Some(batch) = p.next_batch(now, |id| desired.get(id).cloned()).cloned() else {
            match p.next_deadline() {
                Some(at) => {
                    assert!(at > now && at.since(now) <= Duration::from_secs(5));
                    now = at;
                    continue;
                }
                None => return sizes,
            }
        };
        sizes.push(batch.ops.len());
        let poisoned = batch.ops.iter().filter_map(Op::id).any(|id| Some(id) == poison);
        if batch.ops.len() > limit || poisoned {
            // The server closed the connection before it read the request.
            let unknown = p.unknown(now);
            for id in &unknown.ids {
                p.settle(id, store.nodes.get(id).cloned().map(StoredStatus::Record));
            }
            for bucket in &unknown.buckets {
                p.settle_bucket(*bucket, store.buckets.get(bucket).copied());
            }
        } else {
            store.apply(&batch).unwrap();
            p.acknowledged(batch.number);
        }
    }
    panic!("does not end: {sizes:?}");
}

fn fleet(n: u32) -> (Publisher, Store, BTreeMap<InstanceId, Record>) {
    let desired: BTreeMap<_, _> = (0..n).map(|n| (id(n), record(n, Reason::Ok))).collect();
    let store = Store::default();
    let mut p = publisher(&store);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    (p, store, desired)
}

#[test]
fn batches_that_are_never_answered_become_smaller() {
    for limit in [2, 3, 10, 60, 127] {
        let (mut p, mut store, desired) = fleet(1_000);
        let sizes = send(&mut p, &mut store, &desired, limit, None);
        assert_eq!(store.nodes.len(), desired.len(), "limit {limit}");
        let refused = sizes.iter().filter(|size| **size > limit).count();
        // Halving finds the size; later, larger batches are tried only rarely.
        assert!(
            refused <= 12 + sizes.len() / 200,
            "limit {limit}: {refused} of {}",
            sizes.len()
        );
        assert_eq!(p.quarantined(), 0);
    }
}

#[test]
fn one_status_that_is_never_answered_holds_up_no_other() {
    let (mut p, mut store, mut desired) = fleet(300);
    let poison = id(77);
    send(&mut p, &mut store, &desired, usize::MAX, Some(&poison));
    assert_eq!((store.nodes.len(), p.quarantined()), (299, 1));
    assert!(!store.nodes.contains_key(&poison));
    // A status that was left out is tried again when it changes.
    desired.insert(poison.clone(), record(77, Reason::Loading));
    p.mark(Mono(0), &poison);
    send(&mut p, &mut store, &desired, usize::MAX, None);
    assert_eq!((store.nodes.len(), p.quarantined()), (300, 0));
}

/// One lost connection changes nothing.
#[test]
fn one_unknown_outcome_changes_no_size_and_delays_nothing() {
    let (mut p, _, desired) = fleet(1_000);
    let first = p
        .next_batch(Mono(0), |id| desired.get(id).cloned())
        .unwrap()
        .ops
        .len();
    p.unknown(Mono(0));
    let again = p
        .next_batch(Mono(0), |id| desired.get(id).cloned())
        .unwrap()
        .ops
        .len();
    assert_eq!(first, again);
}

/// `rev` of a status and `gen` of a bucket never decrease, whatever others do to the znodes; nothing overflows.
/// The freshness mark is written alone: connections that break over it, however often, accuse no batch.
#[test]
fn unknown_outcomes_without_a_batch_change_nothing() {
    let (mut p, mut store, desired) = fleet(1_000);
    for n in 0..20 {
        p.unknown(Mono::from_millis(n));
    }
    let (mut untouched, mut other, _) = fleet(1_000);
    let sizes = send(&mut p, &mut store, &desired, usize::MAX, None);
    assert_eq!(
        sizes,
        send(&mut untouched, &mut other, &desired, usize::MAX, None)
    );
    // And the first batch without an answer is the first.
    p.mark(Mono::from_millis(50), &id(1));
    p.unknown(Mono::from_millis(50));
    assert_eq!(p.next_deadline(), None);
}

#[test]
fn numbers_that_consumers_compare_only_grow() {
    let (mut p, mut store, desired) = fleet(50);
    send(&mut p, &mut store, &desired, usize::MAX, None);
    let mut desired = desired;
    let mut revs = BTreeMap::new();
    for round in 0..20u32 {
        let n = id(round % 5);
        // Somebody deletes it, every other time.
        if round % 2 == 0 {
            store.nodes.remove(&n);
            p.settle(&n, None);
        }
        let reason = if round % 3 == 0 {
            Reason::Loading
        } else {
            Reason::Ok
        };
        desired.insert(n.clone(), record(round % 5, reason));
        p.mark(Mono(0), &n);
        let before: BTreeMap<_, _> = store.buckets.iter().map(|(b, d)| (*b, d.generation)).collect();
        send(&mut p, &mut store, &desired, usize::MAX, None);
        let rev = store.nodes[&n].rev;
        let former = revs.insert(n.clone(), rev);
        assert!(
            former.is_none_or(|former| rev >= former),
            "{n}: {former:?} -> {rev}"
        );
        assert!(round % 2 == 1 || former.is_none_or(|former| rev > former));
        assert!(store.buckets.iter().all(|(b, d)| d.generation >= before[b]));
    }
    // No content of the bucket znodes causes an overflow.
    for bucket in Bucket::all() {
        p.settle_bucket(
            bucket,
            Some(BucketData {
                generation: u64::MAX,
                count: u64::MAX,
                epoch: Epoch(u64::MAX),
            }),
        );
    }
    store
        .buckets
        .values_mut()
        .for_each(|data| (data.generation, data.count) = (u64::MAX, u64::MAX));
    store.nodes.clear();
    for n in 0..50 {
        p.settle(&id(n), None);
        p.mark(Mono(0), &id(n));
    }
    send(&mut p, &mut store, &desired, usize::MAX, None);
    assert_eq!(store.nodes.len(), 50);
}

#[test]
fn what_is_forgotten_leaves_nothing_behind() {
    let (mut p, mut store, mut desired) = fleet(50);
    send(&mut p, &mut store, &desired, usize::MAX, None);
    for n in 0..10_000 {
        // Known only for a moment, and never published.
        p.remove(Mono(0), &id(1_000 + n));
        desired.remove(&id(n));
        if n < 50 {
            p.remove(Mono(0), &id(n));
        }
        send(&mut p, &mut store, &desired, usize::MAX, None);
    }
    assert_eq!((store.nodes.len(), p.removed.len()), (0, 0));
}
