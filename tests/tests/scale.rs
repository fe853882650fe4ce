//! Many instances in one agent, and instances that never rest.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redkeeper_tests::{Sandbox, daemons::http_get, eventually, history, long, servers::Flavour, txnlog};

/// One server behind 2,000 addresses of the loopback network.
#[tokio::test]
async fn two_thousand_instances_in_one_agent() {
    const INSTANCES: usize = 2_000;
    let sandbox = Sandbox::new();
    let redis = sandbox.server(Flavour::Redis70, &["--bind", "0.0.0.0", "--protected-mode", "no"]);
    let a = sandbox.collector("a", None).await;
    let mut text = String::from("[probe]\ninterval = '1s'\nhang_after = '3s'\n");
    for n in 0..INSTANCES {
        text.push_str(&format!(
            "[[instances]]\naddress = '127.1.{}.{}:{}'\nname = 'i{n}'\n",
            n / 250,
            n % 250 + 1,
            redis.port.number
        ));
    }
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    let count = |state: &'static str, reason: &'static str| {
        let (a, line) = (
            &a,
            format!("redkeeper_instances{{state=\"{state}\",reason=\"{reason}\"}}"),
        );
        move || {
            let value = a.metric(&line);
            async move { value }
        }
    };
    let all = |n: &Option<f64>| *n == Some(INSTANCES as f64);
    eventually("all UP", count("UP", "OK"), all).await;
    // Hung ones are worked on like live ones: the agent keeps up with its rounds.
    redis.process.signal(Signal::SIGSTOP);
    eventually("all hung", count("DOWN", "REPLY_TIMEOUT"), all).await;
    redis.process.signal(Signal::SIGCONT);
    eventually("all UP again", count("UP", "OK"), all).await;
    let page = http_get(agent.admin.number, "/debug/tasks").unwrap();
    let workers = page
        .lines()
        .find(|line| line.starts_with("probe-worker"))
        .unwrap();
    assert_eq!(
        workers.split_whitespace().collect::<Vec<_>>()[1..3],
        ["2000", "2000"],
        "{page}"
    );
    for why in ["ended", "made no progress"] {
        let line = format!("redkeeper_workers_replaced_total{{why=\"{why}\"}}");
        assert_eq!(agent.metric(&line), None, "a worker was replaced: it {why}");
    }
    assert_eq!(
        a.metric("redkeeper_instances{state=\"UNKNOWN\",reason=\"PROBE_STALLED\"}"),
        None
    );
}

/// R3: stopped and continued at 5 Hz, and judged so sharply that each stop is a hang.
#[tokio::test]
async fn an_instance_stopped_and_continued_at_five_hertz_is_written_once_a_second_and_ends_true() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", Some(&zookeeper)).await;
    let text = format!(
        "[probe]\ninterval = '20ms'\nhang_after = '50ms'\n[[instances]]\naddress = '127.0.0.1:{}'\n",
        redis.port.number
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let _agent = sandbox.agent_with("db01", &collectors, &text).await;
    let reader = zookeeper.client().await;
    let id = format!("db01:{}", redis.port.number);
    let state = || zookeeper.state(&reader, &id);
    eventually("UP", state, |s| s == "UP/OK").await;
    let (start, time) = (Instant::now(), Duration::from_secs(if long() { 60 } else { 6 }));
    while start.elapsed() < time {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            redis.process.signal(signal);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).unwrap() + 1;
    let changes = a.metric("redkeeper_transitions_total{reason=\"REPLY_TIMEOUT\"}");
    let writes = history::status_writes(&txnlog::read(&zookeeper.data)).count();
    assert!(
        changes.is_some_and(|n| n > seconds as f64),
        "{changes:?} hangs in {seconds} s: it did not flap"
    );
    // Four at once, before it counts as flapping.
    assert!(writes <= seconds + 4, "{writes} writes in {seconds} s");
    redis.process.signal(Signal::SIGSTOP);
    let end = Instant::now();
    eventually("the true end state", state, |s| s == "DOWN/REPLY_TIMEOUT").await;
    eprintln!(
        "{changes:?} hangs, {writes} writes in {seconds} s, true after {:?}",
        end.elapsed()
    );
    // A second, and what seeing the hang and the look at it take.
    assert!(
        end.elapsed() < Duration::from_millis(1_400),
        "{:?}",
        end.elapsed()
    );
    redis.process.signal(Signal::SIGCONT);
    eventually("UP at last", state, |s| s == "UP/OK").await;
}

/// The agent gets 20 ms of CPU, then none for up to half a second.
#[tokio::test]
async fn an_agent_that_is_starved_accuses_nobody() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, id) = sandbox.reported_redis(None).await;
    for n in 0..24 {
        agent.process.signal(Signal::SIGSTOP);
        tokio::time::sleep(Duration::from_millis(100 + 20 * n)).await;
        agent.process.signal(Signal::SIGCONT);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eventually("UP in the end", || a.state(&id), |s| s == "UP/OK").await;
    for reason in [
        "REPLY_TIMEOUT",
        "CONNECTION_RESET",
        "CONNECT_TIMEOUT",
        "PROCESS_GONE",
    ] {
        let line = format!("redkeeper_transitions_total{{reason=\"{reason}\"}}");
        assert_eq!(a.metric(&line), None, "{reason}");
    }
    assert!(agent.metric("redkeeper_agent_pauses_total").unwrap() >= 1.0);
}
