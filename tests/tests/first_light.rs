//! The whole path: Redis -> agent -> collectors -> ZooKeeper and gRPC.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    check::{self, Deaf, Intervals, Silence, Truth},
    eventually, holds_for, txnlog,
};

const UP: &str = "UP/OK";
/// As the collectors of [`Sandbox`] are set.
const SILENCE: Silence = Silence {
    after: 1_000,
    heartbeat: 200,
    lag: 500,
};
/// A state is in ZooKeeper this long after it began, in milliseconds: `hang_after` and a busy machine.
const BOUND: u64 = 3_000;

#[tokio::test]
async fn crash_restart_and_hang_reach_zookeeper_and_both_collectors() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let (mut first, second, third) = (
        sandbox.redis().await,
        sandbox.redis().await,
        sandbox.redis().await,
    );
    let (a, b) = (
        sandbox.collector("a", Some(&zookeeper)).await,
        sandbox.collector("b", Some(&zookeeper)).await,
    );
    let ports = [first.port.number, second.port.number, third.port.number];
    let _agent = sandbox.agent("db01", &ports, &[&a, &b]).await;
    let reader = zookeeper.client().await;
    let ids = ports.map(|port| format!("db01:{port}"));

    for id in &ids {
        eventually("UP in ZooKeeper", || zookeeper.state(&reader, id), |s| s == UP).await;
        for collector in [&a, &b] {
            eventually("UP over gRPC", || collector.state(id), |s| s == UP).await;
        }
    }
    let status = zookeeper.status(&reader, &ids[0]).await.unwrap();
    assert_eq!(status["run_id"], first.run_id());
    assert_eq!(
        (&status["role"], &status["reads"], &status["agent"]),
        (&"master".into(), &"yes".into(), &"db01".into())
    );

    let began = check::wall_clock();
    let mut truth: Truth = ids
        .iter()
        .map(|id| (id.clone(), vec![(began, "UP".to_owned())]))
        .collect();
    let mut now = |id: &String, state: &str| {
        truth
            .entry(id.clone())
            .or_default()
            .push((check::wall_clock(), state.to_owned()));
    };
    now(&ids[0], "DOWN");
    first.process.kill();
    eventually(
        "killed: DOWN in ZooKeeper",
        || zookeeper.state(&reader, &ids[0]),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
    eventually(
        "killed: DOWN at b",
        || b.state(&ids[0]),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;

    sandbox.restart(&mut first).await;
    now(&ids[0], "UP");
    let id = first.run_id();
    eventually(
        "restarted: UP with the new run_id",
        || zookeeper.status(&reader, &ids[0]),
        |s| {
            s.as_ref()
                .is_some_and(|s| s["state"] == "UP" && s["run_id"] == id.as_str())
        },
    )
    .await;

    // Stopped: DOWN after hang_after (1 s) since the last reply, and not before. The last reply came at most
    // one interval (100 ms) before the stop.
    let stopped = Instant::now();
    now(&ids[1], "DOWN");
    second.process.signal(Signal::SIGSTOP);
    holds_for(
        "not before hang_after",
        Duration::from_millis(850),
        || zookeeper.state(&reader, &ids[1]),
        |s| s == UP,
    )
    .await;
    eventually(
        "stopped: REPLY_TIMEOUT",
        || zookeeper.state(&reader, &ids[1]),
        |s| s == "DOWN/REPLY_TIMEOUT",
    )
    .await;
    assert!(
        stopped.elapsed() >= Duration::from_millis(900),
        "too early: {:?}",
        stopped.elapsed()
    );
    second.process.signal(Signal::SIGCONT);
    now(&ids[1], "UP");
    eventually("continued: UP", || zookeeper.state(&reader, &ids[1]), |s| s == UP).await;
    assert_eq!(
        zookeeper.state(&reader, &ids[2]).await,
        UP,
        "the third was never touched"
    );
    // What has just begun is judged by the waits above.
    let txns = txnlog::read(&zookeeper.data);
    let time = began..check::wall_clock();
    assert_eq!(
        check::published_in_time(&txns, &truth, &time, BOUND).map(drop),
        Ok(())
    );
    let none = BTreeSet::new();
    assert_eq!(check::no_false_down(&txns, &truth, &none, BOUND), Ok(()));
    assert_eq!(
        check::silence_is_real(&txns, &Deaf::new(), &none, SILENCE),
        Ok(())
    );
}

#[tokio::test]
async fn a_dead_agent_is_unknown_never_down() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let (_redis, _a, mut agent, id) = sandbox.reported_redis(Some(&zookeeper)).await;
    let reader = zookeeper.client().await;
    eventually("UP in ZooKeeper", || zookeeper.state(&reader, &id), |s| s == UP).await;

    let mut deaf = Intervals::default();
    deaf.begin(check::wall_clock());
    agent.process.kill();
    eventually(
        "UNKNOWN",
        || zookeeper.state(&reader, &id),
        |s| s == "UNKNOWN/AGENT_SILENT",
    )
    .await;
    sandbox.restart_agent(&mut agent);
    eventually("UP again", || zookeeper.state(&reader, &id), |s| s == UP).await;
    deaf.end(check::wall_clock());
    let txns = txnlog::read(&zookeeper.data);
    let truth = [(id, vec![(0, "UP".to_owned())])].into();
    assert_eq!(
        check::no_false_down(&txns, &truth, &BTreeSet::new(), 0),
        Ok(()),
        "silence was written as DOWN"
    );
    let deaf = [(("db01".to_owned(), "a".to_owned()), deaf)].into();
    assert_eq!(
        check::silence_is_real(&txns, &deaf, &BTreeSet::new(), SILENCE),
        Ok(())
    );
    assert_eq!(check::no_stale_overwrite(&txns, &BTreeSet::new()), Ok(()));
}

#[tokio::test]
async fn equal_statuses_cause_no_write() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let (_redis, a, mut agent, id) = sandbox.reported_redis(Some(&zookeeper)).await;
    let reader = zookeeper.client().await;
    eventually("UP in ZooKeeper", || zookeeper.state(&reader, &id), |s| s == UP).await;
    let live = || zookeeper.json(&reader, "/redkeeper/publisher");
    eventually("live", live, |p| p.as_ref().is_some_and(|p| p["phase"] == "live")).await;
    let status_writes = || {
        let txns = txnlog::read(&zookeeper.data);
        let ops = txns.iter().flat_map(|txn| &txn.ops);
        ops.filter(|op| op.path().starts_with("/redkeeper/instances/"))
            .count()
    };
    let before = status_writes();
    assert!(before > 0, "the log shows the first write");

    // Rounds, heartbeats, and a whole new snapshot after the agent's restart: nothing to say.
    let rounds = agent.metric("redkeeper_probe_rounds_total").unwrap();
    eventually(
        "50 more rounds",
        || async { agent.metric("redkeeper_probe_rounds_total") },
        |n| n.is_some_and(|n| n > rounds + 50.0),
    )
    .await;
    sandbox.restart_agent(&mut agent);
    let opened = "redkeeper_agent_reports_total{result=\"accepted\"}";
    let heard = a.metric(opened).unwrap();
    eventually(
        "10 more messages",
        || async { a.metric(opened) },
        |n| n.is_some_and(|n| n > heard + 10.0),
    )
    .await;
    assert_eq!(status_writes(), before);
    assert_eq!(zookeeper.state(&reader, &id).await, UP);
}

#[tokio::test]
async fn standalone_needs_no_zookeeper_and_the_command_asks_it() {
    let sandbox = Sandbox::new();
    let (_redis, a, _agent, id) = sandbox.reported_redis(None).await;

    let ask = |args: &[&str]| {
        let mut command = sandbox.command("redkeeper");
        let output = command
            .args(["--endpoints", &format!("127.0.0.1:1,127.0.0.1:{}", a.grpc.number)])
            .args(args)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, out, _) = ask(&["list"]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains(&id) && out.contains("UP") && out.contains("1 of 1"),
        "{out}"
    );
    let (_, out, _) = ask(&["list", "--state", "down", "-o", "json"]);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["totalSize"],
        serde_json::Value::Null,
        "{out}"
    );
    let (_, out, _) = ask(&["get", &id, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["instance"]["verdict"]["state"], "INSTANCE_STATE_UP");
    let (_, out, _) = ask(&["cluster"]);
    assert!(out.contains("leader a"), "{out}");
    let (code, _, err) = ask(&["get", "nobody"]);
    assert_eq!(code, Some(1));
    assert!(
        err.contains("no instance \"nobody\" is known") && err.contains("hint: "),
        "{err}"
    );
    let (code, _, err) = ask(&["list", "--state", "sideways"]);
    assert_eq!(code, Some(2));
    assert!(err.contains("sideways"), "{err}");
    assert_eq!(ask(&["nonsense"]).0, Some(2));
}
