//! A ZooKeeper that refuses for good to let some statuses be written.
#![allow(clippy::unwrap_used)]

use redkeeper_proto::v1::{
    self, Changes, Snapshot, agent_service_client::AgentServiceClient, report_status_request::Message,
};
use redkeeper_tests::{
    Sandbox,
    daemons::http_get,
    eventually,
    fake_agent::{hello, message, report},
    history, txnlog,
};
use tokio_stream::wrappers::ReceiverStream;
use zookeeper_client::{Acl, AuthId, Permission};

const COUNT: u32 = 30;

#[tokio::test]
async fn refused_writes_are_one_line_and_a_warning_and_hold_up_no_other() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    // Without heartbeats the agent would be silent otherwise.
    let text = format!(
        "heartbeat_interval = \"1s\"\nsilent_after = \"60s\"\n[zookeeper]\nservers = \"127.0.0.1:{}\"\nsession_timeout = \"2s\"\n",
        zookeeper.port.number
    );
    let a = sandbox.collector_with("a", &text).await;
    // From then on ZooKeeper has a transaction log.
    a.leads().await;
    let reports = |reason: v1::Reason| (1..=COUNT).map(|n| report("db01", n, reason)).collect::<Vec<_>>();
    let snapshot = Message::Snapshot(Snapshot {
        instances: reports(v1::Reason::Ok),
        last: true,
    });
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    for (n, m) in (1..).zip([hello("db01", 1), snapshot]) {
        sender.send(message(n, m)).await.unwrap();
    }
    let mut client = AgentServiceClient::new(a.channel().await.unwrap());
    let _answers = client.report_status(ReceiverStream::new(receiver)).await.unwrap();
    let paths = || async {
        let txns = txnlog::read(&zookeeper.data);
        let paths = history::status_writes(&txns).map(|(_, _, op)| op.path().to_owned());
        paths.collect::<std::collections::BTreeSet<_>>()
    };
    let paths = eventually("all are published", paths, |paths| paths.len() == COUNT as usize).await;

    // An administrator takes the right to write away from all but one.
    let admin = zookeeper.client().await;
    let read_only = [Acl::new(Permission::READ | Permission::ADMIN, AuthId::anyone())];
    for path in paths.iter().filter(|path| !path.ends_with("/db01:7")) {
        admin.set_acl(path, &read_only, None).await.unwrap();
    }
    let changes = Changes {
        instances: reports(v1::Reason::Loading),
    };
    sender.send(message(3, Message::Changes(changes))).await.unwrap();
    let warned = || async { a.metric("redkeeper_warnings{code=\"WRITES_REFUSED\"}") };
    eventually("it is a warning", warned, |n| *n == Some(1.0)).await;
    let ready = || async { http_get(a.http.number, "/readyz").unwrap_or_default() };
    let wanted = format!("{} status(es)", COUNT - 1);
    let page = eventually("with all of them", ready, |page| page.contains(&wanted)).await;
    assert!(page.contains("/redkeeper/instances/"), "{page}");
    let seven = paths.iter().find(|path| path.ends_with("/db01:7")).unwrap();
    let written = || async {
        let (data, _) = admin.get_data(seven).await.unwrap();
        String::from_utf8(data).unwrap()
    };
    eventually("the others are written", written, |text| text.contains("LOADING")).await;
    // Read-backs find each of them again and again.
    let passes = || async { a.metric("redkeeper_zookeeper_batches_total{result=\"forbidden\"}") };
    eventually("more were refused than are told", passes, |n| {
        *n >= Some(f64::from(COUNT - 1))
    })
    .await;
    let lines = a
        .process
        .log()
        .matches("refuses to let a status be written")
        .count();
    assert_eq!(lines, 1, "{}", a.process.log());

    // The right is given back.
    let all = [Acl::new(Permission::ALL, AuthId::anyone())];
    for path in &paths {
        admin.set_acl(path, &all, None).await.unwrap();
    }
    let changes = Changes {
        instances: reports(v1::Reason::Ok),
    };
    sender.send(message(4, Message::Changes(changes))).await.unwrap();
    eventually("it is over", warned, |n| *n == Some(0.0)).await;
}
