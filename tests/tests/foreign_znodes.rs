//! A ZooKeeper in which others leave znodes behind, or keep rights for themselves.
#![allow(clippy::unwrap_used)]

use redkeeper_proto::v1::GetClusterStatusRequest;
use redkeeper_tests::{Sandbox, daemons::Collector, eventually, servers::ZooKeeper};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Permission};

async fn persistent(client: &Client, path: &str, data: &str) {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    client.create(path, data.as_bytes(), &options).await.unwrap();
}

async fn names(collector: &Collector) -> Option<(String, Vec<String>)> {
    let mut client = collector.client().await;
    let request = client.get_cluster_status(GetClusterStatusRequest {});
    let answer = request.await.ok()?.into_inner();
    let members = answer.members.into_iter().map(|member| member.id).collect();
    Some((answer.header?.leader, members))
}

fn config(zookeeper: &ZooKeeper, root: &str) -> String {
    format!(
        "heartbeat_interval = \"200ms\"\nsilent_after = \"1s\"\n[zookeeper]\nservers = \"127.0.0.1:{}\"\n\
         session_timeout = \"2s\"\nroot = \"{root}\"\n",
        zookeeper.port.number
    )
}

/// As a backup tool restores a tree: what sessions owned is persistent now.
#[tokio::test]
async fn what_no_session_owns_neither_blocks_the_election_nor_is_a_member() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let client = zookeeper.client().await;
    for path in ["/redkeeper", "/redkeeper/election", "/redkeeper/collectors"] {
        persistent(&client, path, "").await;
    }
    let left = "/redkeeper/election/_c_00000000000000000000000000000000-n-0000000000";
    persistent(&client, left, "").await;
    let ghost = r#"{"id":"old","grpc":"old:7400","version":"0.1.0"}"#;
    persistent(&client, "/redkeeper/collectors/old", ghost).await;
    persistent(
        &client,
        "/redkeeper/collectors/a",
        r#"{"id":"a","grpc":"old:7400"}"#,
    )
    .await;
    persistent(
        &client,
        "/redkeeper/publisher",
        r#"{"epoch":9,"holder":"old","phase":"live"}"#,
    )
    .await;

    let a = sandbox.collector("a", Some(&zookeeper)).await;
    let b = sandbox.collector("b", Some(&zookeeper)).await;
    let both = vec!["a".to_owned(), "b".to_owned()];
    for collector in [&a, &b] {
        let right = |seen: &Option<(String, Vec<String>)>| {
            seen.as_ref()
                .is_some_and(|(leader, members)| both.contains(leader) && *members == both)
        };
        eventually(
            "one of two leads, and no other is there",
            || names(collector),
            right,
        )
        .await;
    }
    let publisher = zookeeper.json(&client, "/redkeeper/publisher").await.unwrap();
    assert_ne!(publisher["holder"], "old");
    for path in ["/redkeeper/publisher", "/redkeeper/collectors/a"] {
        let stat = client.check_stat(path).await.unwrap().unwrap();
        assert_ne!(stat.ephemeral_owner, 0, "{path}");
    }
    for collector in [&a, &b] {
        let log = collector.process.log();
        assert_eq!(
            log.matches("no session owns, as a restored backup").count(),
            1,
            "{log}"
        );
        assert!(log.contains(left), "{log}");
    }
}

/// The usual thing on a shared ensemble: an administrator made the root, and keeps what is above.
#[tokio::test]
async fn a_parent_that_only_administrators_may_write_is_no_obstacle() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let client = zookeeper.client().await;
    persistent(&client, "/infra", "").await;
    persistent(&client, "/infra/redkeeper", "").await;
    let reading = [Acl::new(Permission::READ, AuthId::anyone())];
    client.set_acl("/infra", &reading, None).await.unwrap();

    let a = sandbox
        .collector_with("a", &config(&zookeeper, "/infra/redkeeper"))
        .await;
    let live = || zookeeper.json(&client, "/infra/redkeeper/publisher");
    eventually("a leads", live, |seen| {
        seen.as_ref().is_some_and(|seen| seen["phase"] == "live")
    })
    .await;
    drop(a);

    // Without a root the right that is missing is named, and where.
    let b = sandbox
        .collector_with("b", &config(&zookeeper, "/infra/other"))
        .await;
    let log = || async { b.process.log() };
    eventually("b says what it needs", log, |log| {
        log.contains("/infra/other needs the right CREATE on /infra")
    })
    .await;
}
