//! What is sent on a stream, and when.

use super::*;

const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(3);
/// Long enough that a test is over before acknowledgements are missed.
const PATIENT: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_stream_begins_with_hello_and_the_snapshot_follows_the_welcome() {
    let agent = Agent::with_instances(20);
    let mut collector = agent.uplink();
    let (mut call, hello) = collector.call().await;
    let boot = agent.boot.subscribe().borrow().as_str().to_owned();
    assert_eq!(
        (hello.agent_id.as_str(), hello.boot_id, hello.host.as_str()),
        ("db01", boot, "db01.example")
    );
    call.is_quiet_for(Duration::from_secs(5)).await;
    assert_eq!(agent.connected(), 0);

    // A verdict that changes before the snapshot is part of it, and no change after it.
    agent.set(19, Reason::Ok);
    call.welcome(HEARTBEAT, SILENT).await;
    let mut seen = Vec::new();
    for last in [false, true] {
        let Request::Snapshot(part) = call.next().await else {
            panic!("no snapshot after the Welcome");
        };
        assert_eq!(part.last, last);
        seen.extend(reports(&part.instances));
    }
    let handles: Vec<_> = seen.iter().map(|(handle, _)| *handle).collect();
    assert_eq!(handles, agent.handles);
    assert_eq!(seen[19].1, v1::Reason::Ok);
    call.is_quiet_for(HEARTBEAT / 2).await;
    assert_eq!(agent.connected(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_sent_at_once_and_nothing_else_is() {
    let agent = Agent::with_instances(3);
    let mut collector = agent.uplink();
    let mut call = collector.opened(HEARTBEAT, SILENT).await;
    let opened = agent.clock.now();

    agent.set(1, Reason::Ok);
    assert_eq!(call.changes().await, [(agent.handles[1], v1::Reason::Ok)]);
    let added = add(&agent.table, 7);
    assert_eq!(call.changes().await, [(added, v1::Reason::NotProbed)]);
    agent.table.remove(agent.handles[0]);
    let Request::Gone(gone) = call.next().await else {
        panic!("a removed instance is not told");
    };
    assert_eq!(gone.handles, [agent.handles[0].0]);
    assert_eq!(
        agent.clock.now(),
        opened,
        "something waited although nothing is due"
    );
    call.is_quiet_for(HEARTBEAT * 9 / 10).await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_tell_how_old_the_last_round_of_each_instance_is() {
    let agent = Agent::with_instances(2);
    let progress = agent.table.entries()[&agent.handles[1]].progress.clone();
    progress.completed(agent.clock.now());
    let mut collector = agent.uplink();
    let mut call = collector.opened(HEARTBEAT, SILENT).await;
    let opened = agent.clock.now();
    for n in 1..=3 {
        let Request::Heartbeat(heartbeat) = call.next().await else {
            panic!("no heartbeat");
        };
        let late = agent.clock.now().since(opened + HEARTBEAT * n);
        assert!(late <= ROUNDING * n, "{late:?}");
        assert_eq!(
            heartbeat.handles,
            [agent.handles[1].0],
            "of one that was never probed"
        );
        let age = Duration::from_millis(u64::from(heartbeat.probe_ages_ms[0]));
        assert!(
            age >= HEARTBEAT * n && age <= HEARTBEAT * n + ROUNDING * n,
            "{age:?}"
        );
        call.ack(call.sequence).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_64_messages_wait_for_an_acknowledgement_and_only_the_newest_state_follows_them() {
    let agent = Agent::with_instances(2);
    let mut collector = agent.uplink();
    let mut call = collector.opened(HEARTBEAT, PATIENT).await;
    let first = call.sequence;
    for n in 1..UNACKED_MESSAGES_MAX {
        let reason = if n % 2 == 0 { Reason::Ok } else { Reason::Loading };
        agent.set(0, reason);
        call.changes().await;
    }
    agent.set(0, Reason::Loading);
    agent.set(0, Reason::ConnectionRefused);
    agent.set(1, Reason::Loading);
    agent.set(1, Reason::Ok);
    // Heartbeats wait, too, and an acknowledgement of what was acknowledged before makes no room. An uplink that
    // waited for nothing here would keep virtual time from passing: the test would hang.
    call.ack(first - 1).await;
    call.is_quiet_for(HEARTBEAT * 5).await;

    call.ack(first).await;
    let newest = [
        (agent.handles[0], v1::Reason::ConnectionRefused),
        (agent.handles[1], v1::Reason::Ok),
    ];
    assert_eq!(call.changes().await, newest);
    call.is_quiet_for(HEARTBEAT * 5).await;
    call.ack(call.sequence).await;
    assert!(matches!(call.next().await, Request::Heartbeat(_)));
    call.is_quiet_for(HEARTBEAT * 9 / 10).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_acknowledgements_for_twice_silent_after_is_replaced() {
    let (log, agent) = (crate::tests_log::Log::start(), Agent::with_instances(1));
    let mut collector = agent.uplink();
    let call = collector.opened(HEARTBEAT, SILENT).await;
    // An acknowledgement counts from the message that it leaves as the oldest one: the heartbeats after the snapshot.
    tokio::time::sleep(SILENT * 2 - HEARTBEAT / 2).await;
    call.ack(call.sequence).await;
    let (mut next, _) = collector.call().await;
    let lived = next.at.since(call.at);
    let limit = HEARTBEAT + SILENT * 2;
    assert!(
        lived >= limit && lived <= limit + RETRY.0 + ROUNDING * 4,
        "{lived:?}"
    );
    assert_eq!(log.lines_with("stream ended: no acknowledgement for 6s").len(), 1);
    assert_eq!(agent.metrics.reconnects.get(), 1);
    // It begins anew, whatever was sent before.
    next.welcome(HEARTBEAT, SILENT).await;
    assert!(matches!(next.next().await, Request::Snapshot(part) if part.instances.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn an_acknowledged_stream_stays_open() {
    let agent = Agent::with_instances(1);
    let mut collector = agent.uplink();
    let mut call = collector.opened(HEARTBEAT, SILENT).await;
    call.ack(call.sequence).await;
    for _ in 0..100 {
        assert!(matches!(call.next().await, Request::Heartbeat(_)));
        call.ack(call.sequence).await;
    }
    assert_eq!((agent.connected(), agent.metrics.reconnects.get()), (1, 0));
}
