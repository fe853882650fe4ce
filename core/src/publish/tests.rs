use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    fleet::message_order::Origin,
    ids::AgentId,
    limits::{BACKLOG, BATCH_OPS_BACKLOG_MAX, BATCHES_IN_FLIGHT_MAX},
    status::{Identity, Reason, Role, Stage, Status, Verdict},
    time::WallMs,
};
use proptest::prelude::*;

pub(super) fn id(n: u32) -> InstanceId {
    InstanceId::new(&format!("db:{n}")).unwrap()
}

pub(super) fn record(n: u32, reason: Reason) -> Record {
    let mut verdict = Verdict::blank(reason, Stage::Reply, "", WallMs(0));
    verdict.role = Role::Master;
    let status = Status {
        identity: Identity {
            id: id(n),
            cluster: None,
            address: "127.0.0.1:1".into(),
            labels: Arc::default(),
        },
        agent: AgentId::new("db").unwrap(),
        verdict,
    };
    Record::of(&Arc::new(status), Origin::default())
}

/// A znode store that applies a batch whole or not at all, as ZooKeeper does.
#[derive(Clone, Default)]
pub(super) struct Store {
    pub(super) nodes: BTreeMap<InstanceId, Record>,
    pub(super) buckets: BTreeMap<Bucket, BucketData>,
    writes: usize,
}

impl Store {
    pub(super) fn apply(&mut self, batch: &Batch) -> Result<(), (usize, Refusal)> {
        let mut next = self.clone();
        for (index, op) in batch.ops.iter().enumerate() {
            let (exists, create) = match op {
                Op::Put(r, create) => {
                    if !next.buckets.contains_key(&r.id().bucket()) {
                        return Err((index, Refusal::Missing));
                    }
                    (next.nodes.contains_key(r.id()), *create)
                }
                Op::Delete(id) => (next.nodes.contains_key(id), false),
                Op::Bucket(b, _, create) => (next.buckets.contains_key(b), *create),
            };
            match (exists, create) {
                (true, true) => return Err((index, Refusal::Exists)),
                (false, false) => return Err((index, Refusal::Missing)),
                _ => {}
            }
            match op {
                Op::Put(r, _) => {
                    next.nodes.insert(r.id().clone(), r.clone());
                }
                Op::Delete(id) => {
                    next.nodes.remove(id);
                }
                Op::Bucket(b, d, _) => {
                    next.buckets.insert(*b, *d);
                }
            }
        }
        next.writes += batch.ops.len();
        *self = next;
        Ok(())
    }
}

pub(super) fn drain(publisher: &mut Publisher, store: &mut Store, desired: &BTreeMap<InstanceId, Record>) {
    let mut now = Mono(0);
    for _ in 0..1_000 {
        let Some(batch) = publisher.next_batch(now, |id| desired.get(id).cloned()).cloned() else {
            match publisher.next_deadline() {
                Some(due) => now = due,
                None => return,
            }
            continue;
        };
        let waited = publisher.dirty.len() + batch.ops.len();
        let room = if waited > BACKLOG {
            BATCH_OPS_BACKLOG_MAX
        } else {
            BATCH_OPS_MAX
        };
        assert!(batch.ops.len() <= room, "{} of {waited}", batch.ops.len());
        match store.apply(&batch) {
            Ok(()) => drop(publisher.acknowledged(batch.number)),
            Err((index, refusal)) => drop(publisher.refused(batch.number, index, refusal)),
        }
    }
    panic!("does not come to rest");
}

pub(super) fn agree(store: &Store, desired: &BTreeMap<InstanceId, Record>) {
    assert_eq!(store.nodes.len(), desired.len());
    for (id, record) in desired {
        assert!(store.nodes[id].same(record));
    }
    for (bucket, data) in &store.buckets {
        let count = store.nodes.keys().filter(|id| id.bucket() == *bucket).count();
        assert_eq!(data.count, count as u64, "count of bucket {bucket}");
    }
}

pub(super) fn publisher(store: &Store) -> Publisher {
    let records = store.nodes.iter();
    let mut held: BTreeMap<_, _> = records
        .map(|(id, r)| (id.clone(), StoredStatus::Record(r.clone())))
        .collect();
    let mut publisher = Publisher::new(Epoch(1), Mirror::default(), 10);
    for bucket in Bucket::all() {
        let found = Found {
            data: store.buckets.get(&bucket).copied(),
            held: held
                .extract_if(.., |id: &InstanceId, _| id.bucket() == bucket)
                .collect(),
        };
        publisher.read(bucket, found);
        publisher.open(bucket);
    }
    store.nodes.keys().for_each(|id| publisher.doubt(Mono(0), id));
    publisher
}

#[test]
fn equal_statuses_cause_no_write() {
    let (mut store, desired) = (Store::default(), [(id(1), record(1, Reason::Ok))].into());
    let mut p = publisher(&store);
    p.mark(Mono(0), &id(1));
    drain(&mut p, &mut store, &desired);
    agree(&store, &desired);
    assert_eq!(store.buckets.len(), 256);
    let writes = store.writes;
    for _ in 0..10 {
        p.mark(Mono(0), &id(1));
        drain(&mut p, &mut store, &desired);
    }
    let mut p = publisher(&store);
    drain(&mut p, &mut store, &desired);
    assert_eq!(store.writes, writes);
}

#[test]
fn an_unconfirmed_status_is_kept() {
    let mut store = Store::default();
    let mut p = publisher(&store);
    p.mark(Mono(0), &id(1));
    drain(&mut p, &mut store, &[(id(1), record(1, Reason::Ok))].into());
    let mut p = publisher(&store);
    drain(&mut p, &mut store, &BTreeMap::new());
    assert!(store.nodes.contains_key(&id(1)), "nobody said that it is gone");
    p.remove(Mono(0), &id(1));
    drain(&mut p, &mut store, &BTreeMap::new());
    assert!(store.nodes.is_empty());
}

#[test]
fn a_bucket_deleted_by_hand_is_written_again_whole() {
    let (mut store, mut desired) = (Store::default(), BTreeMap::new());
    for n in 0..2_000 {
        desired.insert(id(n), record(n, Reason::Ok));
    }
    let mut p = publisher(&store);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    drain(&mut p, &mut store, &desired);
    let bucket = id(7).bucket();
    store.buckets.remove(&bucket);
    store.nodes.retain(|id, _| id.bucket() != bucket);
    desired.insert(id(7), record(7, Reason::Loading));
    p.mark(Mono(0), &id(7));
    drain(&mut p, &mut store, &desired);
    agree(&store, &desired);
}

#[test]
fn one_forbidden_znode_does_not_hold_up_the_others() {
    let (mut store, desired) = (
        Store::default(),
        (0..50)
            .map(|n| (id(n), record(n, Reason::Ok)))
            .collect::<BTreeMap<_, _>>(),
    );
    let mut p = publisher(&store);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    for _ in 0..100 {
        let Some(batch) = p.next_batch(Mono(0), |id| desired.get(id).cloned()).cloned() else {
            break;
        };
        let bad = batch
            .ops
            .iter()
            .position(|op| matches!(op, Op::Put(r, _) if *r.id() == id(7)));
        match (bad, store.clone().apply(&batch)) {
            (Some(index), _) => drop(p.refused(batch.number, index, Refusal::Forbidden)),
            (None, Ok(())) => {
                store.apply(&batch).unwrap();
                p.acknowledged(batch.number);
            }
            (None, Err((index, refusal))) => drop(p.refused(batch.number, index, refusal)),
        }
    }
    assert_eq!((store.nodes.len(), p.quarantined(), p.pending()), (49, 1, 0));
}

#[derive(Clone, Debug)]
enum Step {
    /// A new status, which is passed in (true) or looked up.
    Set(u32, usize, bool),
    Remove(u32),
    /// Somebody else deletes or creates a znode.
    Foreign(u32, bool),
    /// Batches are sent; the outcome of each is known (0), unknown and applied (1), or unknown and lost (2).
    Send(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u32..600, 0usize..3, any::<bool>()).prop_map(|(n, r, told)| Step::Set(n, r, told)),
        1 => (0u32..600).prop_map(Step::Remove),
        1 => (0u32..600, any::<bool>()).prop_map(|(n, b)| Step::Foreign(n, b)),
        3 => (0u8..3).prop_map(Step::Send),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever fails in between, once writes succeed again, what is published is what is desired.
    #[test]
    fn converges(steps in proptest::collection::vec(step(), 0..200)) {
        let reasons = [Reason::Ok, Reason::Loading, Reason::ConnectionRefused];
        let (mut store, mut desired) = (Store::default(), BTreeMap::new());
        let mut p = publisher(&store);
        let (mut foreign, mut left_out, mut now) = (BTreeSet::new(), BTreeSet::new(), Mono(0));
        for step in steps {
            match step {
                Step::Set(n, r, told) => {
                    desired.insert(id(n), record(n, reasons[r]));
                    if told { p.put(Mono(0), record(n, reasons[r])); } else { p.mark(Mono(0), &id(n)); }
                }
                Step::Remove(n) => if desired.remove(&id(n)).is_some() { p.remove(Mono(0), &id(n)); },
                Step::Foreign(n, create) => {
                    let exists = store.nodes.contains_key(&id(n));
                    if exists && !create { store.nodes.remove(&id(n)); foreign.insert(n); }
                }
                Step::Send(outcome) => {
                    let mut batches = Vec::new();
                    // Long enough for any pause.
                    now = now + Duration::from_secs(10);
                    while let Some(b) = p.next_batch(now, |id| desired.get(id).cloned()).cloned() { batches.push(b); }
                    prop_assert!(batches.len() <= BATCHES_IN_FLIGHT_MAX);
                    for b in &batches {
                        match outcome {
                            0 => match store.apply(b) {
                                Ok(()) => drop(p.acknowledged(b.number)),
                                Err((i, r)) => drop(p.refused(b.number, i, r)),
                            },
                            1 => { let _applied = store.apply(b); }
                            _ => {}
                        }
                    }
                    if outcome != 0 {
                        let Unknown { ids, buckets, left_out: alone } = p.unknown(now);
                        left_out.extend(alone);
                        for id in ids { let held = store.nodes.get(&id).cloned().map(StoredStatus::Record); p.settle(&id, held); }
                        for b in buckets { p.settle_bucket(b, store.buckets.get(&b).copied()); }
                    }
                }
            }
        }
        // A status that was left out is tried again when it changes.
        for id in left_out { p.mark(Mono(0), &id); if !desired.contains_key(&id) { p.remove(Mono(0), &id); } }
        // Deletions by others are found by marking, as the read-back does.
        for n in foreign { p.settle(&id(n), store.nodes.get(&id(n)).cloned().map(StoredStatus::Record)); p.mark(Mono(0), &id(n)); if !desired.contains_key(&id(n)) { p.remove(Mono(0), &id(n)); } }
        drain(&mut p, &mut store, &desired);
        prop_assert_eq!(store.nodes.len(), desired.len());
        for (id, record) in &desired { prop_assert!(store.nodes[id].same(record)); }
        prop_assert_eq!(p.pending(), 0);
    }
}

/// One pass over all buckets.
fn pass(p: &mut Publisher, store: &Store, now: Mono, abandoned: &[u32]) -> Vec<Difference> {
    let mut all = Vec::new();
    for _ in 0..256 {
        let Some(bucket) = p.audit_next() else { continue };
        let held = store.nodes.iter().filter(|(id, _)| id.bucket() == bucket);
        let found = Found {
            data: store.buckets.get(&bucket).copied(),
            held: held
                .map(|(id, r)| (id.clone(), StoredStatus::Record(r.clone())))
                .collect(),
        };
        let gone = |r: &Record| abandoned.iter().any(|n| *r.id() == id(*n));
        all.extend(p.audited(now, bucket, found, gone));
    }
    all
}

fn published(n: u32) -> (Publisher, Store, BTreeMap<InstanceId, Record>) {
    let desired: BTreeMap<_, _> = (0..n).map(|n| (id(n), record(n, Reason::Ok))).collect();
    let mut store = Store::default();
    let mut p = publisher(&store);
    desired.keys().for_each(|id| p.mark(Mono(0), id));
    drain(&mut p, &mut store, &desired);
    (p, store, desired)
}

#[test]
fn a_read_back_keeps_the_statuses_that_are_shared() {
    let (mut p, mut store, _) = published(20);
    let shared = store.nodes.clone();
    for node in store.nodes.values_mut() {
        node.status = Arc::new(Status::clone(&node.status));
    }
    assert_eq!(pass(&mut p, &store, Mono(0), &[]), []);
    for (id, record) in shared {
        let held = p.mirror.get(&id).unwrap().record().unwrap();
        assert!(Arc::ptr_eq(&held.status, &record.status), "{id}");
    }
}

#[test]
fn what_others_delete_edit_or_add_is_found_and_repaired() {
    let (mut p, mut store, desired) = published(500);
    assert_eq!(pass(&mut p, &store, Mono(0), &[]), []);
    store.nodes.remove(&id(1));
    store.nodes.insert(id(2), record(2, Reason::ConnectionRefused));
    store.nodes.insert(id(900), record(900, Reason::Ok));
    store.buckets.get_mut(&id(3).bucket()).unwrap().generation += 7;
    let found = pass(&mut p, &store, Mono(5), &[]);
    assert!(found.contains(&Difference::Deleted(id(1))), "{found:?}");
    assert!(found.contains(&Difference::Edited(id(2))));
    assert!(
        matches!(found.iter().find(|d| matches!(d, Difference::Foreign(..))), Some(Difference::Foreign(n, _)) if *n == id(900))
    );
    assert!(found.contains(&Difference::Bucket(id(3).bucket())));
    assert_eq!(p.oldest_pending(), Some(Mono(5)));
    drain(&mut p, &mut store, &desired);
    store.nodes.remove(&id(900));
    store.buckets.get_mut(&id(900).bucket()).unwrap().count -= 1;
    agree(&store, &desired);
}

#[test]
fn a_bucket_written_while_it_is_read_is_not_judged() {
    let (mut p, mut store, mut desired) = published(500);
    let bucket = p.audit_next().unwrap();
    let n = (0..500).find(|n| id(*n).bucket() == bucket).unwrap();
    desired.insert(id(n), record(n, Reason::Loading));
    p.mark(Mono(0), &id(n));
    drain(&mut p, &mut store, &desired);
    // An answer from before the write, as if everything had been deleted.
    let old = Found {
        data: Some(BucketData::default()),
        held: BTreeMap::new(),
    };
    assert_eq!(p.audited(Mono(0), bucket, old, |_| false), []);
    assert_eq!(p.pending(), 0);
    assert_eq!(p.audit_next(), Some(bucket), "it is read again");
}

#[test]
fn orphans_are_deleted_late_and_never_too_many() {
    let (mut p, mut store, mut desired) = published(200);
    let later = |n: u64| Mono(0) + ORPHAN_GRACE * n as u32 + Duration::from_secs(1);
    desired.remove(&id(7));
    assert_eq!(pass(&mut p, &store, later(0), &[7]), []);
    assert_eq!(pass(&mut p, &store, later(1), &[7]), []);
    assert_eq!(pass(&mut p, &store, later(2), &[7]), [Difference::Orphan(id(7))]);
    drain(&mut p, &mut store, &desired);
    agree(&store, &desired);
    // More than a tenth at once: none of them is deleted until an operator consents.
    let many: Vec<u32> = (50..100).collect();
    for n in 3..8 {
        assert_eq!(pass(&mut p, &store, later(n), &many), []);
    }
    assert!(p.too_many_orphans());
    assert_eq!(p.orphans(), 50);
    // An instance that came back is no orphan.
    pass(&mut p, &store, later(9), &many[..5]);
    pass(&mut p, &store, later(10), &many[..5]);
    desired.retain(|other, _| many[..5].iter().all(|n| *other != id(*n)));
    drain(&mut p, &mut store, &desired);
    agree(&store, &desired);
}

#[test]
fn a_bucket_that_others_fight_over_waits_for_its_read_back() {
    let (mut p, store, mut desired) = published(1);
    desired.insert(id(0), record(0, Reason::Loading));
    p.mark(Mono(0), &id(0));
    let mut refused = 0;
    while let Some(batch) = p.next_batch(Mono(0), |id| desired.get(id).cloned()).cloned() {
        let refusal = match &batch.ops[0] {
            Op::Put(_, true) => Refusal::Exists,
            _ => Refusal::Missing,
        };
        p.refused(batch.number, 0, refusal);
        refused += 1;
        assert!(refused < 100, "without bound");
    }
    assert_eq!(p.pending(), 1, "it is not forgotten");
    pass(&mut p, &store, Mono(0), &[]);
    assert!(
        p.next_batch(Mono(0), |id| desired.get(id).cloned())
            .cloned()
            .is_some()
    );
}

#[test]
fn a_flapping_instance_is_written_once_a_second_with_its_newest_state() {
    let (mut p, mut store, mut desired) = published(2);
    let at = Mono::from_millis;
    let (mut writes, mut last) = (Vec::new(), Reason::Ok);
    // Ten changes a second for a minute.
    for n in 0..602u64 {
        let now = at(100_000 + n * 100);
        last = [Reason::Loading, Reason::ConnectionRefused, Reason::Ok][n as usize % 3];
        desired.insert(id(0), record(0, last));
        p.mark(now, &id(0));
        while let Some(batch) = p.next_batch(now, |id| desired.get(id).cloned()).cloned() {
            store.apply(&batch).unwrap();
            p.acknowledged(batch.number);
            writes.push(now);
        }
    }
    assert!(
        (55..=61).contains(&writes.len()),
        "{} writes in a minute",
        writes.len()
    );
    assert_eq!(
        writes[..4],
        [at(100_000), at(100_100), at(100_200), at(100_300)],
        "the first are free"
    );
    assert_eq!(p.flapping(at(160_200)), 1);
    // The final state is written within a second, and `next_deadline` asks for that time.
    let due = p.next_deadline().unwrap();
    assert!(due <= at(161_200));
    let batch = p.next_batch(due, |id| desired.get(id).cloned()).cloned().unwrap();
    store.apply(&batch).unwrap();
    p.acknowledged(batch.number);
    assert_eq!(
        (store.nodes[&id(0)].reason(), p.pending(), p.next_deadline()),
        (last, 0, None)
    );
    // Other instances are not held up, and this one is unlimited again after it was quiet.
    assert_eq!(p.flapping(at(180_000)), 0);
}

#[test]
fn pending_statuses_are_named_while_they_are_few() {
    let (mut store, desired) = (
        Store::default(),
        (0..3)
            .map(|n| (id(n), record(n, Reason::Ok)))
            .collect::<BTreeMap<_, _>>(),
    );
    let mut p = publisher(&store);
    (0..3).for_each(|n| p.mark(Mono(0), &id(n)));
    let named = |p: &Publisher| p.pending_ids(1_000).map(BTreeSet::from_iter);
    let all = Some((0..3).map(id).collect::<BTreeSet<_>>());
    assert_eq!(named(&p), all);
    assert_eq!(p.pending_ids(2), None);
    p.next_batch(Mono(0), |id| desired.get(id).cloned());
    assert_eq!(named(&p), all, "those in flight are pending too");
    let batch = p.in_flight.values().next().unwrap().batch.clone();
    store.apply(&batch).unwrap();
    p.acknowledged(batch.number);
    assert_eq!(named(&p), Some(BTreeSet::new()));
    p.quarantined.extend([id(1), id(2)]);
    assert_eq!(p.quarantined_ids(1), [id(1)]);
}
