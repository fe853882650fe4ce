//! The freshness mark, as a consumer sees it that reads ZooKeeper only.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix::sys::signal::Signal;
use redkeeper_tests::{Sandbox, eventually, history, holds_for, txnlog};

const INTERVAL: &str = "200ms";

#[tokio::test]
async fn a_new_mark_proves_that_somebody_publishes_and_no_other_znode_is_written() {
    let sandbox = Sandbox::new();
    let (zookeeper, redis) = (sandbox.zookeeper().await, sandbox.redis().await);
    let text = format!(
        "freshness_interval = '{INTERVAL}'\n[zookeeper]\nservers = '127.0.0.1:{}'\nsession_timeout = '10s'\n",
        zookeeper.port.number
    );
    let a = sandbox.collector_with("a", &text).await;
    let agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let (reader, id) = (zookeeper.client().await, format!("db01:{}", redis.port.number));
    eventually("UP", || zookeeper.state(&reader, &id), |s| s == "UP/OK").await;
    let mark = || async {
        let publisher = zookeeper.json(&reader, "/redkeeper/publisher").await?;
        (publisher["phase"] == "live" && publisher["pending"] == 0).then_some(publisher["mark"].as_u64()?)
    };
    let first = eventually("a mark", mark, Option::is_some).await.unwrap();
    let writes = || {
        let txns = txnlog::read(&zookeeper.data);
        history::status_writes(&txns).count()
    };
    let before = writes();
    eventually("ten more", mark, |now| *now >= Some(first + 10)).await;
    assert_eq!(writes(), before, "nothing is written for the instance");

    let get = sandbox
        .command("redkeeper")
        .args(["--endpoints", &format!("127.0.0.1:{}", a.grpc.number), "get", &id])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&get.stdout).into_owned();
    assert!(text.contains("Published live, mark "), "{text}");
    assert!(text.contains(" ago, 0 pending, 0 wrong"), "{text}");

    // A leader that stands still publishes nothing, and says nothing.
    a.process.signal(Signal::SIGSTOP);
    // One may have been on its way.
    let last = mark().await.unwrap() + 1;
    let still = |now: &Option<u64>| *now <= Some(last);
    holds_for("no new mark", Duration::from_secs(2), mark, still).await;
    a.process.signal(Signal::SIGCONT);
    eventually("a new mark", mark, |now| *now > Some(last)).await;
    drop(agent);
}
