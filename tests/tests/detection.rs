//! How deaths, hangs, restarts and our own pauses are told apart, with real processes.
#![allow(clippy::unwrap_used)]

use std::{
    io::Read,
    net::TcpStream,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector},
    eventually, history,
    servers::{Flavour, Redis},
    txnlog,
};

const UP: &str = "UP/OK";
/// Every reason of DOWN that a server which lives could be given.
const DOWN: [&str; 6] = [
    "REPLY_TIMEOUT",
    "CONNECTION_REFUSED",
    "CONNECTION_RESET",
    "CONNECT_TIMEOUT",
    "SOCKET_MISSING",
    "PROCESS_GONE",
];

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
    // 1.1 KB for each key: 4.5 GB.
    const KEYS: u64 = 4_000_000;
    let needed = KEYS * 1_200 / 1_000_000 + 1_000;
    if available_megabytes() < needed {
        redkeeper_tests::skipped!(
            "a large Redis needs {needed} MB, {} MB are free",
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
    // As it is configured where nobody changed it: most of the time no PING is under way.
    let text = format!("[[instances]]\naddress = '127.0.0.1:{}'\n", redis.port.number);
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == UP).await;
    // INFO has told the number and the size of the process.
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

/// A Redis, the collector `a`, and an agent between them that probes each half second. The text is the id of the
/// instance.
async fn probed_each_half_second(sandbox: &Sandbox) -> (Redis, Collector, Agent, String) {
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let (interval, port) = (Duration::from_millis(500), redis.port.number);
    let agent = sandbox
        .agent_every(interval, "db01", &[port], &[a.grpc.number])
        .await;
    (redis, a, agent, format!("db01:{port}"))
}

/// Coarse bounds, so that a busy machine does not break them; `./bench detect` and `./bench hang` measure.
#[tokio::test]
async fn death_is_seen_at_once_and_a_hang_in_its_time() {
    let sandbox = Sandbox::new();
    let (mut redis, a, _agent, id) = probed_each_half_second(&sandbox).await;
    eventually("UP", || a.state(&id), |s| s == UP).await;
    for _ in 0..5 {
        let start = Instant::now();
        redis.process.kill();
        eventually("DOWN", || a.state(&id), |s| s == "DOWN/CONNECTION_REFUSED").await;
        assert!(
            start.elapsed() < Duration::from_millis(400),
            "{:?}",
            start.elapsed()
        );
        sandbox.restart(&mut redis).await;
        eventually("UP", || a.state(&id), |s| s == UP).await;
    }
    let start = Instant::now();
    redis.process.signal(Signal::SIGSTOP);
    eventually("hung", || a.state(&id), |s| s == "DOWN/REPLY_TIMEOUT").await;
    // The last reply came up to an interval before.
    let (least, most) = (Duration::from_millis(500), Duration::from_millis(1_400));
    assert!((least..most).contains(&start.elapsed()), "{:?}", start.elapsed());
    redis.process.signal(Signal::SIGCONT);
}

#[tokio::test]
async fn a_hundred_restarts_within_an_interval_are_all_seen() {
    let sandbox = Sandbox::new();
    let (mut redis, a, _agent, id) = probed_each_half_second(&sandbox).await;
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
    // 10 PINGs a second. The machine itself may stand still for a second while the servers are stopped.
    let mut text = "[probe]\ninterval = '100ms'\nhang_after = '4s'\n".to_owned();
    for server in &servers {
        text += &format!("[[instances]]\naddress = '127.0.0.1:{}'\n", server.port.number);
    }
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let _agent = sandbox.agent_with("db01", &collectors, &text).await;
    let up = || async { a.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all UP", up, |n| *n == Some(SERVERS as f64)).await;
    let transitions = || a.metric("redkeeper_transitions_total{reason=\"OK\"}");
    let before = transitions();
    for n in 0..STALLS {
        servers
            .iter()
            .for_each(|server| server.process.signal(Signal::SIGSTOP));
        // Up to half a second, at every phase of the interval.
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
    let (redis, other) = (sandbox.redis().await, sandbox.redis().await);
    let a = sandbox.collector("a", None).await;
    let ports = [redis.port.number, other.port.number];
    let agent = sandbox.agent("db01", &ports, &[&a]).await;
    let id = format!("db01:{}", redis.port.number);
    let up = || async { a.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all UP", up, |n| *n == Some(2.0)).await;
    agent.process.signal(Signal::SIGSTOP);
    let start = Instant::now();
    eventually("silent", || a.state(&id), |s| s == "UNKNOWN/AGENT_SILENT").await;
    // The length of the pause is what is tested.
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(start.elapsed())).await;
    agent.process.signal(Signal::SIGCONT);
    eventually("UP again", up, |n| *n == Some(2.0)).await;
    for reason in DOWN {
        let line = format!("redkeeper_transitions_total{{reason=\"{reason}\"}}");
        assert_eq!(a.metric(&line), None, "{reason}");
    }
    // Once, however many instances there are.
    assert_eq!(agent.metric("redkeeper_agent_pauses_total"), Some(1.0));
}

#[tokio::test]
async fn a_flapping_instance_is_written_once_a_second_and_ends_true() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let (mut redis, a, _agent, id) = sandbox.reported_redis(Some(&zookeeper)).await;
    let reader = zookeeper.client().await;
    eventually("UP in ZooKeeper", || zookeeper.state(&reader, &id), |s| s == UP).await;
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
