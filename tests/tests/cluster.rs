//! What is told of the cluster itself: by `redkeeper cluster`, `/readyz`, the metrics and the log.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use redkeeper_proto::v1::{GetClusterStatusRequest, GetClusterStatusResponse};
use redkeeper_tests::{
    Sandbox,
    daemons::{Collector, http_get},
    eventually,
    servers::ZooKeeper,
};

/// The answer of a collector.
async fn asked(collector: &Collector) -> Option<GetClusterStatusResponse> {
    let mut client = collector.client().await;
    let request = client.get_cluster_status(GetClusterStatusRequest {});
    Some(request.await.ok()?.into_inner())
}

/// Kinds of faults that it tells.
async fn faults(collector: &Collector) -> Vec<String> {
    let warnings = asked(collector).await.map(|answer| answer.warnings);
    let warnings = warnings.unwrap_or_default();
    warnings.into_iter().map(|warning| warning.code).collect()
}

/// Output and exit code of `redkeeper cluster`.
fn cluster(sandbox: &Sandbox, collector: &Collector) -> (String, Option<i32>) {
    let mut command = sandbox.command("redkeeper");
    let endpoint = format!("127.0.0.1:{}", collector.grpc.number);
    let output = command
        .args(["--endpoints", &endpoint, "cluster"])
        .output()
        .unwrap();
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        output.status.code(),
    )
}

fn ready(collector: &Collector) -> String {
    http_get(collector.http.number, "/readyz").unwrap_or_default()
}

/// Two collectors of which the first leads.
async fn pair(sandbox: &Sandbox, zookeeper: &ZooKeeper, session_timeout: &str) -> [Collector; 2] {
    let text = format!(
        "heartbeat_interval = \"200ms\"\nsilent_after = \"1s\"\n[zookeeper]\nservers = \"127.0.0.1:{}\"\n\
         session_timeout = \"{session_timeout}\"\n",
        zookeeper.port.number
    );
    let a = sandbox.collector_with("a", &text).await;
    a.leads().await;
    let b = sandbox.collector_with("b", &text).await;
    let both = |answer: &Option<GetClusterStatusResponse>| {
        answer.as_ref().is_some_and(|answer| answer.members.len() == 2)
    };
    for collector in [&a, &b] {
        eventually("both are there", || asked(collector), both).await;
    }
    [a, b]
}

#[tokio::test]
async fn an_agent_that_reaches_a_follower_only_is_relayed_and_told_by_all() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let redis = sandbox.redis().await;
    let [a, b] = pair(&sandbox, &zookeeper, "2s").await;
    let all = sandbox.agent("db01", &[redis.port.number], &[&a, &b]).await;
    let lost = sandbox.agent("db02", &[redis.port.number], &[&b]).await;
    for collector in [&a, &b] {
        let unheard = |codes: &Vec<String>| codes == &["AGENT_RELAYED"];
        eventually("it is told", || faults(collector), unheard).await;
        let told = || async { collector.metric("redkeeper_agents_unheard") };
        eventually("it is counted", told, |n| *n == Some(1.0)).await;
        let page = ready(collector);
        assert!(
            page.starts_with(
                "ok\nwarning: 1 agent(s) reach the leader a only by way of collectors that relay them"
            ),
            "{page}"
        );
        assert!(page.contains("db02 (heard by b)"), "{page}");
        let (text, code) = cluster(&sandbox, collector);
        assert!(
            text.contains("warning: 1 agent(s)") && code == Some(3),
            "{code:?} {text}"
        );
        let log = || async { collector.process.log() };
        eventually("the log tells it", log, |log| {
            log.contains("code=\"AGENT_RELAYED\"")
        })
        .await;
    }
    // Gone, and with it the fault.
    drop(lost);
    for collector in [&a, &b] {
        eventually("all is well", || faults(collector), Vec::is_empty).await;
    }
    assert_eq!(ready(&a), "ok\n");
    let (text, code) = cluster(&sandbox, &a);
    assert_eq!(code, Some(0), "{text}");
    drop(all);
}

#[tokio::test]
async fn a_stopped_leader_is_shown_as_one_that_does_not_answer() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    // Nobody else leads while it is told.
    let [a, b] = pair(&sandbox, &zookeeper, "10s").await;
    // Its kernel still takes connections: that proves nothing.
    a.process.signal(Signal::SIGSTOP);
    let silent = |answer: &Option<GetClusterStatusResponse>| {
        let members = answer.iter().flat_map(|answer| &answer.members);
        members
            .clone()
            .any(|member| member.id == "a" && member.silent_since_time.is_some() && member.leader)
    };
    eventually("the leader is silent", || asked(&b), silent).await;
    let (text, code) = cluster(&sandbox, &b);
    assert!(
        text.contains("no answer for") && text.contains("the leader, collector a at"),
        "{text}"
    );
    assert_eq!(code, Some(3), "{text}");
    assert!(b.metric("redkeeper_warnings{code=\"COLLECTOR_SILENT\"}") == Some(1.0));
    // When its session has ended, it is no member any more, and b leads.
    eventually("all is well", || faults(&b), Vec::is_empty).await;
}

#[tokio::test]
async fn a_killed_leader_is_shown_as_one_that_does_not_answer_while_the_next_one_leads() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let [mut a, b] = pair(&sandbox, &zookeeper, "10s").await;
    a.process.kill();
    let taken_over = |answer: &Option<GetClusterStatusResponse>| {
        let members = answer.iter().flat_map(|answer| &answer.members);
        let mut members = members.map(|member| (member.leader, member.silent_since_time.is_some()));
        members.next() == Some((false, true)) && members.next() == Some((true, false))
    };
    eventually("a is silent and b leads", || asked(&b), taken_over).await;
    let (text, code) = cluster(&sandbox, &b);
    assert!(
        text.contains("warning: collector a at") && code == Some(3),
        "{text}"
    );
    // When its session has ended, it is no member any more.
    eventually("all is well", || faults(&b), Vec::is_empty).await;
}

#[tokio::test]
async fn a_second_collector_of_an_id_says_with_whom_it_shares_it() {
    let (sandbox, other) = (Sandbox::new(), Sandbox::new());
    let zookeeper = sandbox.zookeeper().await;
    let [a, b] = pair(&sandbox, &zookeeper, "2s").await;
    let copied = format!(
        "[zookeeper]\nservers = \"127.0.0.1:{}\"\nsession_timeout = \"2s\"\n",
        zookeeper.port.number
    );
    let second = other.collector_with("a", &copied).await;
    let shared = |codes: &Vec<String>| codes.contains(&"COLLECTOR_ID_SHARED".to_owned());
    eventually("it is told", || faults(&second), shared).await;
    let text = format!(
        "another collector, which gives 127.0.0.1:{} as its address, is registered in ZooKeeper under the id of this one",
        a.grpc.number
    );
    assert!(ready(&second).contains(&text), "{}", ready(&second));
    let log = || async { second.process.log() };
    eventually("the log tells it", log, |log| log.contains(&text)).await;
    for collector in [&a, &b] {
        assert_eq!(
            faults(collector).await,
            Vec::<String>::new(),
            "nothing is wrong with the others"
        );
    }
    drop(a);
    // The first one is gone, and its session with it: the second takes its place.
    eventually("all is well", || faults(&second), Vec::is_empty).await;
}

#[tokio::test]
async fn a_zookeeper_that_is_away_is_told_with_address_and_time() {
    let sandbox = Sandbox::new();
    let mut zookeeper = sandbox.zookeeper().await;
    let [a, b] = pair(&sandbox, &zookeeper, "2s").await;
    zookeeper.process.kill();
    let address = format!("127.0.0.1:{}", zookeeper.port.number);
    for collector in [&a, &b] {
        let log = || async { collector.process.log() };
        let frozen = |log: &String| {
            log.lines()
                .any(|line| line.contains("ERROR") && line.contains("statuses in ZooKeeper are frozen"))
        };
        eventually("the log has an error", log, frozen).await;
        let page = || async { ready(collector) };
        let refused = format!("servers tried: {address} ({address}: Connection refused");
        let told =
            |page: &String| page.starts_with("ZooKeeper: no session since 2") && page.contains(&refused);
        eventually("/readyz names server and fault", page, told).await;
        assert_eq!(collector.metric("redkeeper_zookeeper_connected"), Some(0.0));
        let (text, code) = cluster(&sandbox, collector);
        assert!(
            text.contains(&format!("ZooKeeper at {address}: no session since")),
            "{text}"
        );
        assert!(
            text.contains("warning: statuses in ZooKeeper are frozen") && code == Some(3),
            "{text}"
        );
    }
    sandbox.restart_zookeeper(&mut zookeeper).await;
    for collector in [&a, &b] {
        eventually("all is well", || faults(collector), Vec::is_empty).await;
        let connected = || async { collector.metric("redkeeper_zookeeper_connected") };
        eventually("connected", connected, |n| *n == Some(1.0)).await;
        assert_eq!(collector.process.log().matches("are frozen").count(), 1);
    }
}
