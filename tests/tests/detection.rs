//! How deaths, hangs, restarts and our own pauses are told apart, with real processes.
#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{Sandbox, eventually, history, servers::Flavour, txnlog};

const UP: &str = "UP/OK";

/// Megabytes that can be used without swapping, as the kernel estimates.
fn available_megabytes() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))
        .unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1_024
}

#[tokio::test]
async fn a_large_redis_is_down_before_its_connection_closes() {
    // 1.1 KB for each key: 3.4 GB.
    const KEYS: u64 = 3_000_000;
    let needed = KEYS * 1_200 / 1_000_000 + 1_000;
    if available_megabytes() < needed {
        eprintln!(
            "SKIPPED: a large Redis needs {needed} MB, {} MB are free",
            available_megabytes()
        );
        return;
    }
    let sandbox = Sandbox::new();
    let mut redis = sandbox.redis().await;
    // Populating takes longer than a usual answer.
    std::thread::scope(|scope| {
        scope.spawn(|| redis.ask(&format!("DEBUG POPULATE {KEYS} k 900")).ok());
    });
    let filled = || async { redis.ask("DBSIZE").unwrap_or_default() };
    let wanted = format!(":{KEYS}");
    eventually("filled", filled, |text| text.starts_with(&wanted)).await;

    let a = sandbox.collector("a", None).await;
    let agent = sandbox
        .agent_every(
            Duration::from_millis(20),
            "db01",
            &[redis.port.number],
            &[a.grpc.number],
        )
        .await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == UP).await;
    // INFO has told the number of the process.
    let rounds = || async { agent.metric("redkeeper_probe_rounds_total") };
    eventually("some rounds", rounds, |n| n.is_some_and(|n| n > 10.0)).await;

    let mut bare = TcpStream::connect(("127.0.0.1", redis.port.number)).unwrap();
    let start = Instant::now();
    let eof = std::thread::spawn(move || {
        let mut byte = [0];
        // A reset is an end as well.
        drop(bare.read(&mut byte));
        start.elapsed()
    });
    redis.process.signal(Signal::SIGKILL);
    let state = eventually("DOWN", || a.state(&id), |s| s.starts_with("DOWN")).await;
    let down = start.elapsed();
    let eof = eof.join().unwrap();
    assert_eq!(state, "DOWN/PROCESS_GONE");
    assert!(
        down < eof,
        "DOWN after {down:?}, the connection closed after {eof:?}"
    );
    eprintln!("DOWN after {down:?} (read by polling), connection closed after {eof:?}");
    redis.process.kill();
    eventually("refused", || a.state(&id), |s| s == "DOWN/CONNECTION_REFUSED").await;
}

#[tokio::test]
async fn a_hundred_restarts_within_an_interval_are_all_seen() {
    let sandbox = Sandbox::new();
    let mut redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let _agent = sandbox
        .agent_every(
            Duration::from_millis(500),
            "db01",
            &[redis.port.number],
            &[a.grpc.number],
        )
        .await;
    let id = format!("db01:{}", redis.port.number);
    let run_id = || async { a.instance(&id).await.and_then(|i| i.verdict).map(|v| v.run_id) };
    for _ in 0..100 {
        sandbox.restart(&mut redis).await;
        let now = Some(redis.run_id());
        eventually("the new run_id", run_id, |seen| *seen == now).await;
    }
    let restarts = a.instance(&id).await.unwrap().verdict.unwrap().restarts;
    assert!(
        (99..=100).contains(&restarts),
        "{restarts} restarts were recorded"
    );
}

#[tokio::test]
async fn a_thousand_short_stalls_cause_nothing() {
    const SERVERS: usize = 25;
    const STALLS: u64 = 40;
    let sandbox = Sandbox::new();
    let servers: Vec<_> = (0..SERVERS)
        .map(|_| sandbox.server(Flavour::Redis70, &[]))
        .collect();
    let a = sandbox.collector("a", None).await;
    let ports: Vec<_> = servers.iter().map(|server| server.port.number).collect();
    // 10 PINGs a second, hang_after 1 s.
    let _agent = sandbox.agent("db01", &ports, &[&a]).await;
    let up = || async { a.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all UP", up, |n| *n == Some(SERVERS as f64)).await;
    let transitions = || a.metric("redkeeper_transitions_total{reason=\"OK\"}");
    let before = transitions();
    for n in 0..STALLS {
        servers
            .iter()
            .for_each(|server| server.process.signal(Signal::SIGSTOP));
        // Up to half of hang_after, at every phase of the interval.
        tokio::time::sleep(Duration::from_millis(20 + n * 480 / STALLS)).await;
        servers
            .iter()
            .for_each(|server| server.process.signal(Signal::SIGCONT));
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    assert_eq!(up().await, Some(SERVERS as f64));
    assert_eq!(transitions(), before, "something changed and came back");
    assert_eq!(
        a.metric("redkeeper_transitions_total{reason=\"REPLY_TIMEOUT\"}"),
        None
    );
}

#[tokio::test]
async fn an_agent_that_slept_for_twenty_seconds_accuses_nobody() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == UP).await;
    agent.process.signal(Signal::SIGSTOP);
    let start = Instant::now();
    eventually("silent", || a.state(&id), |s| s == "UNKNOWN/AGENT_SILENT").await;
    // The length of the pause is what is tested.
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(start.elapsed())).await;
    agent.process.signal(Signal::SIGCONT);
    eventually("UP again", || a.state(&id), |s| s == UP).await;
    assert_eq!(
        a.metric("redkeeper_instances{state=\"DOWN\",reason=\"REPLY_TIMEOUT\"}"),
        None
    );
    assert_eq!(
        a.metric("redkeeper_transitions_total{reason=\"REPLY_TIMEOUT\"}"),
        None
    );
    assert!(
        agent.metric("redkeeper_agent_pauses_total").unwrap() >= 1.0,
        "the pause is counted"
    );
}

#[tokio::test]
async fn a_flapping_instance_is_written_once_a_second_and_ends_true() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let mut redis = sandbox.redis().await;
    let a = sandbox.collector("a", Some(&zookeeper)).await;
    let _agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let reader = zookeeper.client().await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || zookeeper.state(&reader, &id), |s| s == UP).await;
    let start = Instant::now();
    let mut changes = 0;
    // It dies and comes back as fast as it can.
    while start.elapsed() < Duration::from_secs(12) {
        redis.process.kill();
        eventually("DOWN", || a.state(&id), |s| s.starts_with("DOWN")).await;
        sandbox.restart(&mut redis).await;
        eventually("UP", || a.state(&id), |s| s == UP).await;
        changes += 2;
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let now = Some(redis.run_id());
    let published = || async {
        let status = zookeeper.status(&reader, &id).await?;
        Some((status["state"] == "UP").then(|| status["run_id"].as_str().map(str::to_owned))?)?
    };
    eventually("the true end state", published, |run_id| *run_id == now).await;
    let txns = txnlog::read(&zookeeper.data);
    let writes = history::status_writes(&txns).count();
    assert!(changes > 2 * seconds, "only {changes} changes in {seconds} s");
    // The first, the end, and one a second between them.
    assert!(
        writes <= seconds + 2,
        "{writes} writes in {seconds} s for {changes} changes"
    );
    eprintln!("{changes} changes, {writes} writes in {seconds} s");
}
