//! The begin of a term: what is proven, what is read, and when the first change is written.

use redkeeper_core::publish::{BucketWrites, Found as Content};

use super::*;
use crate::publish::load::{read_bucket, read_data};

/// What is published now, as a follower knows it.
async fn mirror(rig: &Rig) -> Mirror {
    let mut mirror = Mirror::default();
    for bucket in Bucket::all() {
        let found = read_bucket(Arc::clone(&rig.session), rig.layout.clone(), bucket).await;
        mirror.read(bucket, found.unwrap());
    }
    mirror
}

/// Ids of different buckets.
fn ids(count: usize) -> Vec<String> {
    let mut buckets = std::collections::BTreeSet::new();
    let names = (0..).map(|n| format!("db:{n}"));
    names
        .filter(|name| buckets.insert(id(name).bucket()))
        .take(count)
        .collect()
}

/// The znodes of instances that are OK.
fn all_ok(names: &[String]) -> Vec<(&str, Vec<u8>)> {
    let one = |name: &String| stored(name, Reason::Ok);
    names.iter().map(|name| (name.as_str(), one(name))).collect()
}

/// A follower that knows everything claims: it lists no bucket, and reads no status.
#[tokio::test(start_paused = true)]
async fn what_is_proven_is_not_read() {
    let names = ids(3);
    let held = all_ok(&names);
    let known = mirror(&Rig::over(&held).await).await;
    let mut rig = Rig::knowing(&held, known.clone()).await;
    rig.put_agent(false, false);
    rig.put(&names[0], Reason::Loading);
    rig.store.take_calls();
    rig.until_live().await;
    let calls = rig.store.take_calls();
    assert!(!calls.contains(&Call::Children), "{calls:?}");
    assert_eq!(rig.reason(&names[0]).await.as_deref(), Some("LOADING"));
    // What only the former leader had heard is adopted.
    let adopted: usize = rig.adopted().iter().map(|(ids, _)| ids.len()).sum();
    assert_eq!(adopted, 2);
    // One bucket was written meanwhile: it alone is read.
    let mut rig = Rig::knowing(&held, known).await;
    let bucket = rig.layout.bucket(id(&names[1]).bucket());
    rig.edit(&names[1], &stored(&names[1], Reason::ConnectionRefused))
        .await;
    set(&rig.hand, &bucket, br#"{"gen":4,"count":1,"epoch":1}"#).await;
    rig.store.take_calls();
    rig.put(&names[1], Reason::Ok);
    rig.until_live().await;
    let listed = rig
        .store
        .take_calls()
        .iter()
        .filter(|call| **call == Call::Children)
        .count();
    assert_eq!(listed, 1);
    assert_eq!(rig.reason(&names[1]).await.as_deref(), Some("OK"));
}

/// ZooKeeper answers slowly, so that reading takes long.
#[tokio::test(start_paused = true)]
async fn a_change_in_a_proven_bucket_does_not_wait_for_others_to_be_read() {
    let names = ids(40);
    let held = all_ok(&names);
    let mut known = mirror(&Rig::over(&held).await).await;
    for name in &names[1..] {
        known.doubt(id(name).bucket());
    }
    let mut rig = Rig::knowing(&held, known).await;
    for name in &names {
        rig.put(name, Reason::Ok);
    }
    rig.put(&names[0], Reason::Loading);
    for _ in 0..39 {
        let slow = Fault::After(Box::pin(tokio::time::sleep(Duration::from_secs(2))));
        rig.store.plan_fault(Call::Children, slow);
    }
    let start = Instant::now();
    rig.until_reason(&names[0], Some("LOADING")).await;
    assert!(
        start.elapsed() < Duration::from_millis(100),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(rig.phase().await, "", "nobody is told that the term is live");
    rig.until_live().await;
    assert!(start.elapsed() >= Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_cannot_be_read_is_read_again_after_the_next_verification() {
    let names = ids(3);
    let held = all_ok(&names);
    let mut rig = Rig::over(&held).await;
    rig.put(&names[0], Reason::Loading);
    let error = StoreError::Unknown("planned".to_owned());
    rig.store.plan_fault(Call::Children, Fault::Fails(error));
    assert_eq!(rig.told().await, Input::Unknown);
    rig.term.resume();
    rig.until_live().await;
    assert_eq!(rig.reason(&names[0]).await.as_deref(), Some("LOADING"));
    assert_eq!(rig.batches("refused"), 0);
}

/// A term of a large fleet gives others their turn all the time.
#[tokio::test(start_paused = true)]
async fn the_work_is_done_in_parts() {
    let mut rig = Rig::new().await;
    for n in 0..5_000 {
        rig.view.put(&status(&format!("db:{n}"), Reason::Ok), ORIGIN);
    }
    rig.publisher.replace(rig.view.clone());
    let mut turns = 0u32;
    let live = async {
        rig.until_live().await;
    };
    let others = async {
        loop {
            tokio::task::yield_now().await;
            turns += 1;
        }
    };
    tokio::select! { biased; () = live => (), () = others => () }
    assert!(turns > 256 + 5_000 / 1_024, "{turns}");
    assert_eq!(rig.metrics.writes.get(), 5_000);
}

/// What a leader tells of its writes is what a follower reads.
#[tokio::test(start_paused = true)]
async fn what_is_told_of_writes_is_what_was_written() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    let mut told = rig.links.subscribe();
    let mut follower = mirror(&rig).await;
    for (name, reason) in [
        ("db:1", Reason::Ok),
        ("db:2", Reason::Ok),
        ("db:1", Reason::Loading),
    ] {
        rig.put(name, reason);
        rig.until_reason(name, Some(if reason == Reason::Ok { "OK" } else { "LOADING" }))
            .await;
    }
    rig.remove("db:2");
    rig.until_reason("db:2", None).await;
    rig.run_for(Duration::from_millis(10)).await;
    while let Ok(writes) = told.try_recv() {
        let writes = replicate::decode(PublishedWrites::clone(&writes)).collect::<Vec<BucketWrites>>();
        assert!(writes.into_iter().all(|writes| follower.apply(writes)));
    }
    assert_eq!(follower, mirror(&rig).await);
    let data = read_data(&*rig.session, &rig.layout, &Bucket::all().collect())
        .await
        .unwrap();
    for (bucket, data) in Bucket::all().zip(data) {
        assert!(follower.is_proven(bucket, data), "{bucket}");
    }
    assert_eq!(follower.len(), 1);
    // What makes no sense is left out.
    let mut nonsense = PublishedWrites::default();
    nonsense.buckets.push(redkeeper_proto::v1::PublishedBucket {
        bucket: 256,
        ..Default::default()
    });
    nonsense.buckets.push(redkeeper_proto::v1::PublishedBucket {
        deleted_ids: vec!["no id".to_owned()],
        ..Default::default()
    });
    assert_eq!(replicate::decode(nonsense).count(), 0);
    assert_eq!(follower.bucket(id("db:1").bucket()).count(), 1);
    follower.read(id("db:1").bucket(), Content::default());
    assert!(follower.is_empty());
}
