//! A follower's mirror.

use redkeeper_core::publish::StoredStatus;

use super::*;
use crate::publish::{follow::Follower, load::read_data, replicate::Sender};

/// A follower beside the term, which leads.
struct Pair {
    rig: Rig,
    follower: Follower,
    /// The link, which is slow only where it is not polled.
    links: tokio::sync::broadcast::Receiver<Arc<PublishedWrites>>,
    told: mpsc::Sender<PublishedWrites>,
    session: Arc<FaultySession>,
    setup: Setup,
}

impl Pair {
    async fn new(held: &[(&str, Vec<u8>)]) -> Self {
        let rig = Rig::over(held).await;
        let (told, receiver) = mpsc::channel(2);
        Self {
            follower: Follower::new(receiver),
            links: Sender::subscribe(&rig.links),
            told,
            session: Arc::new(rig.store.connect().await.unwrap()),
            setup: rig.setup.clone(),
            rig,
        }
    }

    async fn catch_up(&mut self) -> Result<Epoch, StoreError> {
        self.follower.catch_up(&self.session, &self.setup).await
    }

    /// The follower runs for this long, and hears what the leader tells.
    async fn follows_for(&mut self, time: Duration) {
        while let Ok(writes) = self.links.try_recv() {
            drop(self.told.try_send(PublishedWrites::clone(&writes)));
        }
        let runs = self.follower.run(&self.session, &self.setup);
        drop(timeout(time, runs).await);
    }

    /// The buckets that the follower cannot prove.
    async fn unproven(&mut self) -> Vec<Bucket> {
        let data = read_data(&*self.session, &self.rig.layout, &Bucket::all().collect())
            .await
            .unwrap();
        let mirror = self.follower.take_mirror();
        let unproven = Bucket::all()
            .zip(data)
            .filter(|(bucket, data)| !mirror.is_proven(*bucket, *data));
        let unproven = unproven.map(|(bucket, _)| bucket).collect();
        self.follower.put_mirror(mirror);
        unproven
    }
}

const MOMENT: Duration = Duration::from_millis(10);

#[tokio::test(start_paused = true)]
async fn a_new_follower_reads_everything_and_has_the_fleet_adopt_it() {
    let mut newer = stored("db:2", Reason::Ok);
    newer = String::from_utf8(newer)
        .unwrap()
        .replace("\"epoch\":1", "\"epoch\":4")
        .into_bytes();
    let held = [
        ("db:1", stored("db:1", Reason::Ok)),
        ("db:2", newer),
        ("db:3", b"nonsense".to_vec()),
    ];
    let mut pair = Pair::new(&held).await;
    assert_eq!(pair.catch_up().await, Ok(Epoch(4)));
    assert_eq!(pair.unproven().await, []);
    let mut adopted = pair.rig.adopted();
    adopted.sort();
    let one = |name: &str| (vec![name.to_owned()], false);
    assert_eq!(adopted, [one("db:1"), one("db:2")]);
    // Another session reads nothing again, and still knows the newest term.
    pair.rig.store.take_calls();
    assert_eq!(pair.catch_up().await, Ok(Epoch(4)));
    assert_eq!(pair.rig.store.take_calls(), [Call::Get]);
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_it_is_read_is_not_proven() {
    let mut pair = Pair::new(&[("db:1", stored("db:1", Reason::Ok))]).await;
    let (hand, bucket) = (
        pair.rig.store.connect().await.unwrap(),
        pair.rig.layout.bucket(id("db:1").bucket()),
    );
    let writes = async move { set(&hand, &bucket, br#"{"gen":4,"count":1,"epoch":1}"#).await };
    pair.rig
        .store
        .plan_fault(Call::Children, Fault::After(Box::pin(writes)));
    pair.catch_up().await.unwrap();
    assert_eq!(pair.unproven().await, [id("db:1").bucket()]);
    // Two looks find it, and it is read.
    pair.follows_for(Duration::from_secs(30)).await;
    assert_eq!(pair.unproven().await, []);
}

#[tokio::test(start_paused = true)]
async fn what_the_leader_tells_is_known_without_reading() {
    let mut pair = Pair::new(&[]).await;
    pair.rig.put("db:1", Reason::Ok);
    pair.rig.until_live().await;
    pair.catch_up().await.unwrap();
    while pair.links.try_recv().is_ok() {}
    pair.rig.put("db:1", Reason::Loading);
    pair.rig.until_reason("db:1", Some("LOADING")).await;
    pair.rig.run_for(MOMENT).await;
    pair.rig.store.take_calls();
    pair.follows_for(MOMENT).await;
    assert_eq!(pair.rig.store.take_calls(), []);
    assert_eq!(pair.unproven().await, []);
    // The status is the one that the fleet has, not a copy of it.
    let mirror = pair.follower.take_mirror();
    let held = mirror
        .bucket(id("db:1").bucket())
        .next()
        .and_then(StoredStatus::record)
        .unwrap();
    assert!(Arc::ptr_eq(
        &held.status,
        &pair.rig.view.instances[&id("db:1")].status
    ));
}

#[tokio::test(start_paused = true)]
async fn what_is_missed_is_read_and_nothing_else() {
    let mut pair = Pair::new(&[]).await;
    for n in 0..50 {
        pair.rig.put(&format!("db:{n}"), Reason::Ok);
    }
    pair.rig.until_live().await;
    pair.catch_up().await.unwrap();
    pair.rig.put("db:1", Reason::Loading);
    pair.rig.until_reason("db:1", Some("LOADING")).await;
    // The link was down.
    while pair.links.try_recv().is_ok() {}
    pair.rig.run_for(MOMENT).await;
    while pair.links.try_recv().is_ok() {}
    assert_eq!(pair.unproven().await, [id("db:1").bucket()]);
    pair.rig.store.take_calls();
    pair.follows_for(Duration::from_secs(30)).await;
    assert_eq!(pair.unproven().await, []);
    let listed = pair.rig.store.take_calls();
    assert_eq!(
        listed.iter().filter(|call| **call == Call::Children).count(),
        1,
        "{listed:?}"
    );
    // An error of the session changes nothing: the next look finds what is missing.
    pair.rig.put("db:1", Reason::Ok);
    pair.rig.until_reason("db:1", Some("OK")).await;
    pair.rig.run_for(MOMENT).await;
    while pair.links.try_recv().is_ok() {}
    pair.rig.store.plan_fault(
        Call::Children,
        Fault::Fails(StoreError::Unknown("planned".to_owned())),
    );
    pair.follows_for(Duration::from_secs(60)).await;
    assert_eq!(pair.unproven().await, []);
}
