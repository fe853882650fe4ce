//! A ZooKeeper that cuts the connection on requests which are too large for it.
#![allow(clippy::unwrap_used)]

use redkeeper_proto::v1::{
    self, Snapshot, agent_service_client::AgentServiceClient, report_status_request::Message,
};
use redkeeper_tests::{
    Sandbox, eventually,
    fake_agent::{hello, message, report},
    history, txnlog,
};
use tokio_stream::StreamExt;

#[tokio::test]
async fn all_is_published_in_requests_that_zookeeper_takes() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper_with_small_requests().await;
    let mut a = sandbox.collector("a", Some(&zookeeper)).await;
    let leads = || async { a.metric("redkeeper_leader") };
    eventually("a leads", leads, |n| *n == Some(1.0)).await;
    let agent = "an-agent-with-a-long-name";
    let instances: Vec<_> = (1..=1_500)
        .map(|n| {
            let mut report = report(agent, n, v1::Reason::Ok);
            report.cluster = "c".repeat(40);
            report.address = format!("{}:{n}", "host".repeat(9));
            report
        })
        .collect();
    let parts = instances.chunks(64).map(|part| Snapshot {
        instances: part.to_vec(),
        last: part.last() == instances.last(),
    });
    let messages = [hello(agent, 1)].into_iter().chain(parts.map(Message::Snapshot));
    let messages: Vec<_> = (1..).zip(messages).map(|(n, m)| message(n, m)).collect();
    let stream = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let mut client = AgentServiceClient::new(a.channel().await.unwrap());
    let _answers = client.report_status(stream).await.unwrap();
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
    eventually(
        "a leads again",
        || async { a.metric("redkeeper_leader") },
        |n| *n == Some(1.0),
    )
    .await;
    let live = || async {
        a.process
            .log()
            .matches("live: everything known is published")
            .count()
    };
    eventually("live again", live, |n| *n == 2).await;
}
