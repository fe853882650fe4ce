//! Znodes that another hand changes: found, repaired, counted.
#![allow(clippy::unwrap_used)]

use redkeeper_tests::{Sandbox, daemons::Collector, eventually, servers::status_path};
use zookeeper_client::{Acls, CreateMode};

const UP: &str = "UP/OK";

fn repairs(collector: &Collector, kind: &str) -> f64 {
    let line = format!("redkeeper_zookeeper_repairs_total{{kind=\"{kind}\"}}");
    collector.metric(&line).unwrap_or(0.0)
}

async fn counted(collector: &Collector, kind: &str) {
    let count = || async { repairs(collector, kind) };
    eventually(&format!("{kind} is counted"), count, |n| *n == 1.0).await;
}

#[tokio::test]
async fn znodes_deleted_edited_or_added_by_hand_are_repaired() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let redis = [
        sandbox.redis().await,
        sandbox.redis().await,
        sandbox.redis().await,
    ];
    let a = sandbox.collector("a", Some(&zookeeper)).await;
    let ports = [0, 1, 2].map(|n| redis[n].port.number);
    let _agent = sandbox.agent("db01", &ports, &[&a]).await;
    let ids = ports.map(|port| format!("db01:{port}"));
    let reader = zookeeper.client().await;
    for id in &ids {
        eventually("UP", || zookeeper.state(&reader, id), |s| s == UP).await;
    }
    let live = || async { zookeeper.json(&reader, "/redkeeper/publisher").await.unwrap()["phase"] == "live" };
    eventually("live", live, |live| *live).await;
    let state = |id: &String| {
        let (id, zookeeper, reader) = (id.clone(), &zookeeper, &reader);
        async move { zookeeper.state(reader, &id).await }
    };

    let deleted = status_path(&ids[0]);
    reader.delete(&deleted, None).await.unwrap();
    eventually("written again", || state(&ids[0]), |s| s == UP).await;
    counted(&a, "deleted").await;

    // Only the state, which is a word that follows from the reason: a lie all the same.
    let edited = status_path(&ids[1]);
    let (data, _) = reader.get_data(&edited).await.unwrap();
    let lie = String::from_utf8(data).unwrap().replace("\"UP\"", "\"DOWN\"");
    reader.set_data(&edited, lie.as_bytes(), None).await.unwrap();
    assert!(state(&ids[1]).await.starts_with("DOWN"));
    eventually("true again", || state(&ids[1]), |s| s == UP).await;
    counted(&a, "edited").await;

    // The whole bucket, with what is in it.
    let gone = status_path(&ids[2]);
    let bucket = gone.rsplit_once('/').unwrap().0;
    for name in reader.list_children(bucket).await.unwrap() {
        reader.delete(&format!("{bucket}/{name}"), None).await.unwrap();
    }
    reader.delete(bucket, None).await.unwrap();
    eventually("written again", || state(&ids[2]), |s| s == UP).await;

    // A status that nobody reported, of an agent that knows of no such instance: deleted after a grace time.
    let foreign = "db01:1";
    let lie = lie.replace(&ids[1], foreign);
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let planted = status_path(foreign);
    reader.create(&planted, lie.as_bytes(), &options).await.unwrap();
    counted(&a, "foreign").await;
    let there = || async { reader.check_stat(&planted).await.unwrap().is_some() };
    eventually("deleted as an orphan", there, |there| !there).await;
    counted(&a, "orphan").await;
    assert_eq!(a.metric("redkeeper_zookeeper_pending_writes"), Some(0.0));
    assert_eq!(a.metric("redkeeper_zookeeper_behind_seconds"), Some(0.0));
}

#[tokio::test]
async fn a_deleted_publisher_or_candidate_ends_the_term_and_the_next_repairs_it() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let a = sandbox.collector("a", Some(&zookeeper)).await;
    let reader = zookeeper.client().await;
    let live = || async {
        let publisher = zookeeper.json(&reader, "/redkeeper/publisher").await?;
        (publisher["phase"] == "live").then(|| publisher["epoch"].as_u64())?
    };
    eventually("leads", live, |epoch| *epoch == Some(1)).await;
    reader.delete("/redkeeper/publisher", None).await.unwrap();
    eventually("leads again", live, |epoch| *epoch == Some(2)).await;
    let candidates = reader.list_children("/redkeeper/election").await.unwrap();
    for name in candidates {
        reader
            .delete(&format!("/redkeeper/election/{name}"), None)
            .await
            .unwrap();
    }
    eventually("leads once more", live, |epoch| *epoch == Some(3)).await;
    drop(a);
}
