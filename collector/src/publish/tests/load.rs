//! Reading what is published.

use std::collections::{BTreeMap, BTreeSet};

use redkeeper_core::publish::{BucketData, StoredStatus};

use super::*;
use crate::publish::load::{news, read_bucket, read_statuses, tell_fleet};

/// The kind of what a znode holds.
fn kind(held: &StoredStatus) -> &'static str {
    match held {
        StoredStatus::Record(_) => "status",
        StoredStatus::Altered(_) => "altered",
        StoredStatus::Unreadable => "unreadable",
    }
}

fn altered(name: &str) -> Vec<u8> {
    let text = String::from_utf8(stored(name, Reason::Ok)).unwrap();
    text.replace("\"UP\"", "\"DOWN\"").into_bytes()
}

/// A name that belongs to another bucket than that of `name`.
fn elsewhere(name: &str) -> String {
    let others = (0..).map(|n| format!("other:{n}"));
    let mut others = others.filter(|other| id(other).bucket() != id(name).bucket());
    others.next().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_no_status_is_told_apart_and_what_is_somebody_elses_is_left_out() {
    let held = [
        ("db:1", stored("db:1", Reason::Loading)),
        ("db:2", altered("db:2")),
        ("db:3", b"nonsense".to_vec()),
        ("db:4", stored("db:1", Reason::Ok)),
    ];
    let rig = Rig::over(&held).await;
    // No id, and an id in the wrong bucket.
    let bucket = rig.layout.bucket(id("db:1").bucket());
    for name in ["no id", &elsewhere("db:1")] {
        let path = format!("{bucket}/{name}");
        rig.hand.create(&path, b"", Kind::Persistent).await.unwrap();
    }
    let mut all = BTreeMap::new();
    for bucket in held
        .iter()
        .map(|(name, _)| id(name).bucket())
        .collect::<BTreeSet<_>>()
    {
        all.extend(read_statuses(&*rig.session, &rig.layout, bucket).await.unwrap());
    }
    let kinds: Vec<_> = all.iter().map(|(id, held)| (id.as_str(), kind(held))).collect();
    let expected = [
        ("db:1", "status"),
        ("db:2", "altered"),
        ("db:3", "unreadable"),
        ("db:4", "unreadable"),
    ];
    assert_eq!(kinds, expected);
    // What is readable is adopted, unless the fleet knows as much.
    let mut view = View::default();
    let ids = |view: &View| {
        let news = news(view, all.values()).into_iter();
        news.map(|(status, _)| status.identity.id.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&view), ["db:1", "db:2"]);
    view.put(&status("db:1", Reason::Ok), ORIGIN);
    assert_eq!(ids(&view), ["db:1", "db:2"], "its agent was never heard here");
    let mut rig = Rig::new().await;
    rig.put_agent(false, false);
    view.agents = rig.view.agents.clone();
    assert_eq!(ids(&view), ["db:2"]);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_cannot_be_listed_counts_as_empty_and_other_errors_do_not() {
    let rig = Rig::over(&[("db:1", stored("db:1", Reason::Ok))]).await;
    let read = || read_statuses(&*rig.session, &rig.layout, id("db:1").bucket());
    for error in [StoreError::Missing, StoreError::Refused(String::new())] {
        rig.store.plan_fault(Call::Children, Fault::Fails(error));
        assert_eq!(read().await, Ok(BTreeMap::new()));
    }
    for error in [StoreError::TimedOut, StoreError::Unknown(String::new())] {
        rig.store.plan_fault(Call::Children, Fault::Fails(error.clone()));
        assert_eq!(read().await, Err(error));
    }
    assert_eq!(read().await.map(|held| held.len()), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_status_that_is_deleted_while_it_is_read_is_left_out() {
    let rig = Rig::over(&[("db:1", stored("db:1", Reason::Ok))]).await;
    let (hand, path) = (
        rig.store.connect().await.unwrap(),
        rig.layout.instance(&id("db:1")),
    );
    let deletes = async move { change(&hand, &path, Write::Delete(path.clone())).await };
    rig.store.plan_fault(Call::Get, Fault::After(Box::pin(deletes)));
    let held = read_statuses(&*rig.session, &rig.layout, id("db:1").bucket()).await;
    assert_eq!(held, Ok(BTreeMap::new()));
}

#[tokio::test(start_paused = true)]
async fn a_bucket_is_read_with_its_data_and_its_statuses() {
    let rig = Rig::over(&[("db:1", stored("db:1", Reason::Ok))]).await;
    let read = |bucket| read_bucket(Arc::clone(&rig.session), rig.layout.clone(), bucket);
    let found = read(id("db:1").bucket()).await.unwrap();
    let data = BucketData {
        generation: 3,
        count: 1,
        epoch: Epoch(1),
    };
    assert_eq!((found.data, found.held.len()), (Some(data), 1));
    let none = Bucket(id("db:1").bucket().0.wrapping_add(1));
    assert_eq!(read(none).await, Ok(Found::default()));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_status_in_another_bucket_does_not_count_there() {
    let (one, other) = ("db:1", elsewhere("db:1"));
    let held = [one, &other].map(|name| (name, stored(name, Reason::Ok)));
    let rig = Rig::over(&held).await;
    let bucket = id(one).bucket();
    let copy = format!("{}/{other}", rig.layout.bucket(bucket));
    let data = stored(&other, Reason::Loading);
    rig.hand.create(&copy, &data, Kind::Persistent).await.unwrap();
    let read = read_bucket(Arc::clone(&rig.session), rig.layout.clone(), bucket);
    let held: Vec<_> = read.await.unwrap().held.into_keys().collect();
    assert_eq!(held, [id(one)]);
}

#[tokio::test(start_paused = true)]
async fn what_is_read_back_says_what_is_there_and_what_is_not() {
    let rig = Rig::over(&[("db:1", stored("db:1", Reason::Ok)), ("db:2", b"".to_vec())]).await;
    let ids = ["db:1", "db:2", "db:3"].map(id);
    let (there, missing) = (id("db:1").bucket(), Bucket(id("db:1").bucket().0.wrapping_add(1)));
    let unresolved = Unresolved {
        ids: ids.into(),
        buckets: [there, missing].into(),
    };
    let read = read_back(Arc::clone(&rig.session), rig.layout.clone(), unresolved).await;
    let ReadBack { instances, buckets } = read.unwrap();
    let kinds: Vec<_> = instances
        .iter()
        .map(|(id, held)| (id.as_str(), held.as_ref().map(kind)))
        .collect();
    let expected = [
        ("db:1", Some("status")),
        ("db:2", Some("unreadable")),
        ("db:3", None),
    ];
    assert_eq!(kinds, expected);
    let mut found: Vec<_> = buckets
        .iter()
        .map(|(bucket, data)| (*bucket, data.is_some()))
        .collect();
    found.sort();
    let mut expected = [(there, true), (missing, false)];
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test(start_paused = true)]
async fn without_the_aggregator_nothing_is_adopted() {
    let (commands, receiver) = mpsc::channel(1);
    drop(receiver);
    let rig = Rig::new().await;
    let statuses = vec![(status("db:1", Reason::Ok), ORIGIN)];
    let told = tell_fleet(&commands, statuses, rig.setup.adopting(false)).await;
    assert!(matches!(told, Err(StoreError::Lost(_))), "{told:?}");
}
