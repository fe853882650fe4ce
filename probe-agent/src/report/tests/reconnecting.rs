//! How streams end, and when the next attempt follows.

use tonic::Code;

use super::*;
use crate::tests_log::Log;

const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(3);

/// Longest pauses of a collector that cannot be reached: up to a third of `silent_after`.
const UNREACHED_MS: [u64; 7] = [100, 200, 400, 800, 1_000, 1_000, 1_000];
/// Longest pauses of a collector that refuses this agent.
const REFUSED_MS: [u64; 7] = [100, 200, 400, 800, 1_600, 3_200, 5_000];

#[tokio::test(start_paused = true)]
async fn an_address_where_nothing_listens_is_dialed_at_least_three_times_within_silent_after() {
    let (log, agent) = (Log::start(), Agent::with_instances(0));
    let mut collector = agent.uplink();
    collector.becomes(Path::Refused);
    tokio::time::sleep(Duration::from_secs(30)).await;
    let dialed = collector.dialed();
    assert_pauses(&pauses(&dialed[..8]), &UNREACHED_MS);
    assert!(
        pauses(&dialed)
            .iter()
            .all(|pause| *pause <= SILENT / 3 + ROUNDING)
    );
    assert_eq!(log.lines_with("stream ended").len(), 1, "told at each attempt");
    assert_eq!(
        log.lines_with("connection refused: nothing listens there").len(),
        1
    );

    // The collector starts, and what it says of itself counts from then on: pauses are never longer than 5 s.
    collector.becomes(Path::Open);
    let mut call = collector.opened(HEARTBEAT, SILENT * 10).await;
    call.keep(&agent, STABLE_AFTER + HEARTBEAT).await;
    collector.becomes(Path::Refused);
    drop(call);
    let before = collector.dialed().len();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let dialed = collector.dialed();
    let since = &dialed[before..];
    assert_pauses(&pauses(&since[..7]), &REFUSED_MS[1..]);
    assert_eq!(
        log.lines_with("stream ended").len(),
        3,
        "end, and the new cause once"
    );
}

#[tokio::test(start_paused = true)]
async fn an_address_that_never_answers_is_given_up_after_two_seconds() {
    let agent = Agent::with_instances(0);
    let collector = agent.uplink();
    collector.becomes(Path::Dead);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let attempts: Vec<_> = collector.dialed()[..5].to_vec();
    let waited: Vec<_> = pauses(&attempts)
        .iter()
        .map(|pause| pause.saturating_sub(CONNECT_TIMEOUT + ROUNDING))
        .collect();
    assert!(waited[0] >= RETRY.0 / 2 - ROUNDING, "{waited:?}");
    assert!(waited.iter().all(|pause| *pause <= SILENT / 3), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_never_welcomes_is_left_after_ten_seconds() {
    let (log, agent) = (Log::start(), Agent::with_instances(0));
    let mut collector = agent.uplink();
    let (first, _) = collector.call().await;
    let (second, _) = collector.call().await;
    let waited = second.at.since(first.at);
    assert!(
        waited >= WELCOME_TIMEOUT && waited <= WELCOME_TIMEOUT + RETRY.0 + ROUNDING,
        "{waited:?}"
    );
    assert_eq!(log.lines_with("no Welcome within 10s").len(), 1);
    assert_eq!(agent.connected(), 0);
}

/// Lets each of some streams fail in this way before its Welcome, and returns the pauses between them.
async fn pauses_of(code: Code) -> (Agent, Vec<Duration>) {
    let agent = Agent::with_instances(1);
    let mut collector = agent.uplink();
    let mut attempts = Vec::new();
    for _ in 0..8 {
        let (call, _) = collector.call().await;
        attempts.push(call.at);
        call.fail(code).await;
    }
    // The end of the last one.
    tokio::time::sleep(ROUNDING).await;
    ends_at_once(&agent, collector.task).await;
    (agent, pauses(&attempts))
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_refused_waits_up_to_five_seconds_and_logs_it_once() {
    for code in [
        Code::AlreadyExists,
        Code::InvalidArgument,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
    ] {
        let log = Log::start();
        let (agent, pauses) = pauses_of(code).await;
        assert_pauses(&pauses, &REFUSED_MS);
        assert_eq!(agent.refused(), 1, "{code:?}");
        assert_eq!(
            log.lines_with("stream ended: refused: so it is").len(),
            1,
            "{code:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn any_other_failure_is_tried_again_within_a_third_of_silent_after() {
    for code in [
        Code::Unauthenticated,
        Code::PermissionDenied,
        Code::Unavailable,
        Code::Aborted,
        Code::Internal,
    ] {
        let log = Log::start();
        let (agent, pauses) = pauses_of(code).await;
        assert_pauses(&pauses, &UNREACHED_MS);
        assert_eq!(agent.refused(), 0, "{code:?}");
        assert_eq!(log.lines_with("stream ended").len(), 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_soon_after_the_welcome_counts_like_one_before_it() {
    let agent = Agent::with_instances(1);
    let mut collector = agent.uplink();
    let mut attempts = Vec::new();
    for _ in 0..6 {
        let call = collector.opened(HEARTBEAT, SILENT).await;
        assert_eq!((agent.connected(), agent.refused()), (1, 0));
        attempts.push(call.at);
        call.fail(Code::AlreadyExists).await;
    }
    assert_pauses(&pauses(&attempts), &REFUSED_MS[..5]);

    // After a stream that lasted, the next attempt follows at once.
    let mut call = collector.opened(HEARTBEAT, SILENT).await;
    call.keep(&agent, STABLE_AFTER + HEARTBEAT).await;
    let ended = agent.clock.now();
    call.fail(Code::AlreadyExists).await;
    let (next, _) = collector.call().await;
    assert_pauses(&[next.at.since(ended)], &REFUSED_MS[..1]);
}

#[tokio::test(start_paused = true)]
async fn streams_that_end_soon_after_each_welcome_are_opened_with_growing_pauses() {
    for code in [Code::OutOfRange, Code::Unauthenticated, Code::Unavailable] {
        let (log, agent) = (Log::start(), Agent::with_instances(1));
        let mut collector = agent.uplink();
        let mut attempts = Vec::new();
        for _ in 0..8 {
            let call = collector.opened(HEARTBEAT, SILENT).await;
            attempts.push(call.at);
            call.fail(code).await;
        }
        // The end of the last one.
        tokio::time::sleep(ROUNDING).await;
        ends_at_once(&agent, collector.task).await;
        assert_pauses(&pauses(&attempts), &UNREACHED_MS);
        assert_eq!(log.lines_with("stream ended").len(), 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_drains_again_and_again_without_a_pause_is_left_with_growing_pauses() {
    let agent = Agent::with_instances(1);
    let mut collector = agent.uplink();
    let mut attempts = Vec::new();
    for _ in 0..8 {
        let call = collector.opened(HEARTBEAT, SILENT).await;
        attempts.push(call.at);
        call.drain(Duration::ZERO).await;
    }
    assert_pauses(&pauses(&attempts), &UNREACHED_MS);
}

#[tokio::test(start_paused = true)]
async fn a_superseded_boot_is_replaced_on_all_streams() {
    let (log, agent) = (Log::start(), Agent::with_instances(1));
    let (mut one, mut other) = (agent.uplink(), agent.uplink());
    let (refusing, former) = one.call().await;
    let (mut kept, same) = other.call().await;
    assert_eq!(former.boot_id, same.boot_id);
    kept.welcome(HEARTBEAT, SILENT).await;
    kept.next().await;

    refusing.fail(Code::FailedPrecondition).await;
    let (refusing, renewed) = one.call().await;
    let (_kept, told) = other.call().await;
    assert_ne!(renewed.boot_id, former.boot_id);
    assert_eq!(renewed.boot_id, told.boot_id);
    assert_eq!(
        log.lines_with("another agent of this id was taken in place")
            .len(),
        1
    );
    // That the id is in use says nothing against the boot.
    refusing.fail(Code::AlreadyExists).await;
    assert_eq!(one.call().await.1.boot_id, renewed.boot_id);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_drains_is_left_for_as_long_as_it_asks_but_at_most_a_minute() {
    let (log, agent) = (Log::start(), Agent::with_instances(1));
    let mut collector = agent.uplink();
    for (asked, left) in [(2, 2), (7, 7), (3_600, 60)] {
        let call = collector.opened(HEARTBEAT, SILENT).await;
        call.drain(Duration::from_secs(asked)).await;
        let drained = agent.clock.now();
        let (next, _) = collector.call().await;
        let (paused, left) = (next.at.since(drained), Duration::from_secs(left));
        assert!(
            paused >= left && paused <= left + ROUNDING,
            "{paused:?} instead of {left:?}"
        );
        next.fail(Code::Unavailable).await;
    }
    let told = log.lines_with("stream ended: the collector asked to reconnect: restart");
    assert_eq!(told.len(), 3);
    assert_eq!(agent.connected(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_breaks_the_protocol_is_left_with_growing_pauses() {
    let (log, agent) = (Log::start(), Agent::with_instances(1));
    let mut collector = agent.uplink();
    let mut attempts = Vec::new();
    // Heartbeats of no length would keep the agent busy; a shorter silence than two heartbeats would always be over.
    for (heartbeat_ms, silent_ms) in [(0, 3_000), (61_000, 300_000), (1_000, 1_999)] {
        let (call, _) = collector.call().await;
        attempts.push(call.at);
        call.welcome(
            Duration::from_millis(heartbeat_ms),
            Duration::from_millis(silent_ms),
        )
        .await;
    }
    let (call, _) = collector.call().await;
    attempts.push(call.at);
    call.ack(1).await;
    let (call, _) = collector.call().await;
    attempts.push(call.at);
    assert_pauses(&pauses(&attempts), &UNREACHED_MS[..4]);
    assert_eq!(log.lines_with("the collector broke the protocol").len(), 4);
    assert_eq!(log.lines_with("the first answer is no Welcome").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_request_to_stop_ends_an_uplink_at_once_whatever_it_waits_for() {
    for path in [Path::Open, Path::Refused, Path::Dead] {
        let agent = Agent::with_instances(1);
        let collector = agent.uplink();
        collector.becomes(path);
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        ends_at_once(&agent, collector.task).await;
    }
    let agent = Agent::with_instances(1);
    let mut collector = agent.uplink();
    let mut call = collector.opened(HEARTBEAT, SILENT).await;
    ends_at_once(&agent, collector.task).await;
    // The collector sees it, and does not have to wait until the agent is silent.
    let end = timeout(LIMIT, call.requests.message()).await.unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    assert_eq!(agent.clock.now().since(call.at), Duration::ZERO);
}

async fn ends_at_once(agent: &Agent, task: Task) {
    let asked = agent.clock.now();
    agent.supervisor.stop().cancel();
    timeout(LIMIT, task.join()).await.unwrap();
    assert_eq!(agent.clock.now(), asked);
}
