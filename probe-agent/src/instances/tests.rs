#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use prost::Message as _;
use redkeeper_core::{
    ids::InstanceId,
    limits::{
        ADDRESS_BYTES_MAX, AGENT_INSTANCES_MAX, AGENT_MESSAGE_BYTES_MAX, EVIDENCE_BYTES_MAX, LABEL_BYTES_MAX,
        LABELS_MAX, NAMES_TOTAL_BYTES_MAX, REPORTS_PER_MESSAGE_MAX, REPORTS_PER_SNAPSHOT_PART_MAX,
        RUN_ID_BYTES_MAX, VERSION_BYTES_MAX,
    },
    status::{Reason, Stage},
    time::WallMs,
};
use redkeeper_proto::v1::report_status_request::Message;
use tokio::time::timeout;

use super::*;

fn verdict(reason: Reason) -> Verdict {
    Verdict::blank(reason, Stage::Reply, "", WallMs(0))
}

fn identity(name: &str) -> Identity {
    Identity {
        id: InstanceId::new(name).unwrap(),
        cluster: None,
        address: "127.0.0.1:1".into(),
        labels: Arc::default(),
    }
}

fn add(table: &InstanceTable, name: &str) -> Handle {
    let limit = Duration::from_secs(1);
    table.add(identity(name), verdict(Reason::NotProbed), limit).0
}

#[tokio::test(start_paused = true)]
async fn changes_are_told_by_generation_and_wake_their_readers() {
    let table = InstanceTable::new(Clock::simulated());
    let (a, b) = (add(&table, "a"), add(&table, "b"));
    let all = table.changed_since(0);
    assert_eq!(all.handles, [a, b]);
    assert_eq!(all.all, Some(BTreeSet::from([a, b])));

    let changed = table.changed_after(all.generation);
    let limit = Duration::from_secs(1);
    assert!(timeout(limit, table.changed_after(all.generation)).await.is_err());
    table.set(b, verdict(Reason::Ok));
    timeout(limit, changed).await.unwrap();
    let after = table.changed_since(all.generation);
    assert_eq!(
        (after.handles, after.all),
        (vec![b], None),
        "nothing was added or removed"
    );

    table.remove(a);
    assert_eq!(
        table.changed_since(after.generation).all,
        Some(BTreeSet::from([b]))
    );
    assert_eq!(table.verdict(a), None);
}

#[test]
fn a_message_has_a_higher_number_than_any_before_and_the_newest_state() {
    let table = InstanceTable::new(Clock::new());
    let a = add(&table, "a");
    let hello = table.hello_seq();
    table.set(a, verdict(Reason::Loading));
    table.set(a, verdict(Reason::Ok));
    let (first, message) = table.compose(&Next::Changes(vec![a, Handle(99)]));
    let Some(v1::report_status_request::Message::Changes(changes)) = message.message else {
        panic!("{message:?}");
    };
    let reasons: Vec<_> = changes
        .instances
        .iter()
        .filter_map(|one| one.verdict.as_ref())
        .map(|v| v.reason)
        .collect();
    assert_eq!(reasons, [i32::from(v1::Reason::Ok)], "what is gone is left out");
    let (second, _) = table.compose(&Next::Heartbeat);
    assert!(hello < first && first < second);
    assert_eq!(message.sequence, first.0);
}

#[test]
fn an_instance_that_returns_is_another_one() {
    let table = InstanceTable::new(Clock::new());
    let (a, b) = (add(&table, "a"), add(&table, "b"));
    table.set(a, verdict(Reason::Ok));
    let before = table.changed_since(0).generation;
    table.remove(a);
    let again = add(&table, "a");
    assert!(again > b, "a handle was used again");
    let changed = table.changed_since(before);
    assert_eq!(changed.handles, [again]);
    assert_eq!(changed.all, Some(BTreeSet::from([b, again])));
    assert_eq!(table.verdict(again).unwrap().reason, Reason::NotProbed);
    // A worker that has not ended yet can no longer say anything of it.
    table.set(a, verdict(Reason::Loading));
    table.update(a, identity("a"), Duration::from_secs(9));
    assert_eq!(table.entries().len(), 2);
    assert!(table.changed_since(changed.generation).handles.is_empty());
}

#[test]
fn an_update_changes_the_identity_and_keeps_the_verdict() {
    let table = InstanceTable::new(Clock::new());
    let (a, _) = (add(&table, "a"), add(&table, "b"));
    table.set(a, verdict(Reason::Ok));
    let before = table.changed_since(0).generation;
    let mut moved = identity("a");
    moved.address = "127.0.0.1:2".into();
    table.update(a, moved.clone(), Duration::from_secs(9));
    let changed = table.changed_since(before);
    assert_eq!((changed.handles, changed.all), (vec![a], None));
    let row = &table.entries()[&a];
    assert_eq!((&row.identity, row.verdict.reason), (&moved, Reason::Ok));
    assert_eq!(row.freshness_limit, Duration::from_secs(9));
}

#[test]
fn rows_are_listed_in_short_and_found_by_their_id() {
    let table = InstanceTable::new(Clock::new());
    let (a, _) = (add(&table, "a"), add(&table, "b"));
    table.set(a, verdict(Reason::Ok));
    table.find("b").unwrap().progress.completed(Mono(7));
    let summaries = table.summaries().into_iter();
    let rows: Vec<_> = summaries
        .map(|row| (row.id.to_string(), row.reason, row.last_round))
        .collect();
    assert_eq!(
        rows,
        [
            ("a".to_owned(), Reason::Ok, None),
            ("b".to_owned(), Reason::NotProbed, Some(Mono(7)))
        ]
    );
    assert_eq!(table.find("a").unwrap().verdict.reason, Reason::Ok);
    assert!(table.find("c").is_none() && table.find("").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_change_before_the_wait_began_is_not_missed() {
    let table = InstanceTable::new(Clock::simulated());
    let seen = table.changed_since(0).generation;
    let a = add(&table, "a");
    let limit = Duration::from_secs(1);
    timeout(limit, table.changed_after(seen)).await.unwrap();
    let seen = table.changed_since(seen).generation;
    // All who wait are woken, each by the one change.
    let waits = || timeout(limit, table.changed_after(seen));
    let change = async { table.set(a, verdict(Reason::Ok)) };
    let (one, other, ()) = tokio::join!(waits(), waits(), change);
    one.unwrap();
    other.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_tells_ages_of_those_that_were_probed() {
    let table = InstanceTable::new(Clock::simulated());
    let progress = [identity("a"), identity("b"), identity("c")]
        .map(|identity| table.add(identity, verdict(Reason::Ok), Duration::from_secs(1)));
    progress[0].1.completed(table.clock.now());
    tokio::time::advance(Duration::from_millis(700)).await;
    progress[2].1.completed(table.clock.now());
    tokio::time::advance(Duration::from_millis(50)).await;
    let Some(Message::Heartbeat(heartbeat)) = table.compose(&Next::Heartbeat).1.message else {
        panic!("no heartbeat");
    };
    assert_eq!(heartbeat.handles, [progress[0].0.0, progress[2].0.0]);
    assert_eq!(heartbeat.probe_ages_ms, [750, 50]);
}

/// An instance of which everything is as long as it may be.
fn add_largest(table: &InstanceTable, n: usize) -> Handle {
    let text = |length| "x".repeat(length);
    let address = ADDRESS_BYTES_MAX;
    let id = NAMES_TOTAL_BYTES_MAX - address - 1;
    let labels = (0..LABELS_MAX).map(|n| (format!("{n:0LABEL_BYTES_MAX$}"), text(LABEL_BYTES_MAX)));
    let identity = Identity {
        id: InstanceId::new(&format!("{n:0id$}")).unwrap(),
        cluster: None,
        address: text(address).into(),
        labels: Arc::new(labels.collect()),
    };
    let mut verdict = Verdict::blank(
        Reason::Ok,
        Stage::Reply,
        &text(EVIDENCE_BYTES_MAX),
        WallMs(1 << 40),
    );
    verdict.run_id = text(RUN_ID_BYTES_MAX).as_str().into();
    verdict.server_version = text(VERSION_BYTES_MAX).into();
    verdict.master_address = text(address).into();
    verdict.restarts = u32::MAX;
    let (handle, progress) = table.add(identity, verdict, Duration::MAX);
    progress.completed(Mono(1));
    handle
}

#[test]
fn the_largest_messages_are_smaller_than_collectors_accept() {
    let table = InstanceTable::new(Clock::new());
    let handles: Vec<_> = (0..AGENT_INSTANCES_MAX).map(|n| add_largest(&table, n)).collect();
    let some = handles[..REPORTS_PER_MESSAGE_MAX].to_vec();
    let part = handles[..REPORTS_PER_SNAPSHOT_PART_MAX].to_vec();
    for next in [
        Next::Changes(some.clone()),
        Next::Snapshot(part, false),
        Next::Gone(some),
        Next::Heartbeat,
    ] {
        let length = table.compose(&next).1.encoded_len();
        assert!(length <= AGENT_MESSAGE_BYTES_MAX, "{next:?}: {length} bytes");
    }
    // `REPORTS_PER_MESSAGE_MAX` rests on this.
    let one = table.compose(&Next::Changes(handles[..1].to_vec())).1;
    let length = one.encoded_len();
    assert!((2_500..3_500).contains(&length), "{length} bytes");
}
