//! A ZooKeeper that cuts the connection on requests which are too large for it.
#![allow(clippy::unwrap_used)]

use redkeeper_proto::v1;
use redkeeper_tests::{Sandbox, eventually, fake_agent::report, history, txnlog};

#[tokio::test]
async fn all_is_published_in_requests_that_zookeeper_takes() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper_with_small_requests().await;
    let mut a = sandbox.collector("a", Some(&zookeeper)).await;
    a.leads().await;
    let agent = "an-agent-with-a-long-name";
    let instances: Vec<_> = (1..=1_500)
        .map(|n| {
            let mut report = report(agent, n, v1::Reason::Ok);
            report.cluster = "c".repeat(40);
            report.address = format!("{}:{n}", "host".repeat(9));
            report
        })
        .collect();
    let _answers = a.hear(agent, &instances).await;
    let published = || async {
        let txns = txnlog::read(&zookeeper.data);
        let ids: std::collections::BTreeSet<_> = history::status_writes(&txns)
            .map(|(_, id, _)| id.to_owned())
            .collect();
        ids.len()
    };
    eventually("all are published", published, |n| *n == 1_500).await;
    let log = a.process.log();
    assert!(log.contains("smaller ones are sent"), "{log}");
    // A few cut connections, not hundreds in each second, each with a line.
    let lines = log.lines().filter(|line| line.contains("publish")).count();
    assert!(lines < 20, "{lines} lines:\n{log}");

    // A term that begins reads all of it back, in requests that are taken too.
    sandbox.restart_collector(&mut a);
    a.leads().await;
    let live = || async {
        a.process
            .log()
            .matches("live: everything known is published")
            .count()
    };
    eventually("live again", live, |n| *n == 2).await;
}
