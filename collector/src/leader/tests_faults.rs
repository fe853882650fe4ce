//! Tests of a collector's election with faults: unknown outcomes, foreign hands, and a second collector.

use tokio::time::{Instant, timeout};

use super::{tests::Rig, tests_campaign::delete, *};
use crate::store::{
    records::{EpochJson, read_json},
    tests_faults::{Call, Fault, FaultyStore},
};

const LIMIT: Duration = Duration::from_secs(60);

/// Candidates, and the number of the term.
async fn standing(store: &FaultyStore) -> (usize, u64) {
    let hand = store.connect().await.unwrap();
    let layout = Layout::new("/redkeeper");
    let candidates = hand.children(&layout.election()).await.unwrap().len();
    let epoch: EpochJson = read_json(hand.get(&[layout.epoch()]).await.unwrap().remove(0));
    (candidates, epoch.epoch)
}

/// Plans the answer to the create of the first candidate; that of the registration before it arrives.
async fn plan_first_candidate(store: &FaultyStore, fault: Fault) {
    let layout = Layout::new("/redkeeper");
    layout.ensure(&store.connect().await.unwrap()).await.unwrap();
    store.plan_fault(Call::Create, Fault::After(Box::pin(async {})));
    store.plan_fault(Call::Create, fault);
}

fn unknown() -> StoreError {
    StoreError::Unknown("planned".to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_collector_whose_requests_lose_their_answers_leads_in_its_first_session() {
    let store = FaultyStore::default();
    plan_first_candidate(&store, Fault::Loses(unknown())).await;
    store.lose_next_commit(true);
    let mut a = Rig::start(&store, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    assert_eq!(store.memory.sessions(), [2]);
    assert_eq!(standing(&store).await, (1, 1));
    a.end().await;
}

/// Nobody knows whether the create will still be applied, so the session ends, and its candidate with it.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_not_found_again_is_given_up_with_its_session() {
    let store = FaultyStore::default();
    plan_first_candidate(&store, Fault::Fails(unknown())).await;
    let mut a = Rig::start(&store, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    assert_eq!(store.memory.sessions(), [3]);
    assert_eq!(standing(&store).await, (1, 1));
    a.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_not_applied_is_made_again_in_the_same_session() {
    let store = FaultyStore::default();
    store.lose_next_commit(false);
    let mut a = Rig::start(&store, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    assert_eq!(store.memory.sessions(), [1]);
    assert_eq!(standing(&store).await, (1, 1));
    a.end().await;
}

/// No event says that the candidate is gone: the verification each sixth of the session time-out finds it.
#[tokio::test(start_paused = true)]
async fn a_leader_whose_candidate_somebody_deletes_begins_a_new_term() {
    let store = FaultyStore::default();
    let mut a = Rig::start(&store, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    let hand = store.connect().await.unwrap();
    let layout = Layout::new("/redkeeper");
    let name = hand.children(&layout.election()).await.unwrap().remove(0);
    delete(&hand, &layout.candidate(&name)).await;
    let start = Instant::now();
    a.until("a has noticed", |d| d.phase != "leader").await;
    let took = start.elapsed();
    assert!(took < hand.timeout() / 5, "{took:?}");
    assert_eq!(a.leadership.borrow().leader_hint, "");
    a.until("a leads again", |d| d.phase == "leader" && d.epoch == 2)
        .await;
    a.end().await;
}

#[tokio::test(start_paused = true)]
async fn collectors_lead_one_after_the_other_and_the_second_says_nothing_before() {
    let store = FaultyStore::default();
    let mut a = Rig::start(&store, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    let mut b = Rig::start(&store, "b");
    b.until("b follows a", |d| d.phase == "follower" && d.leader_hint == "a")
        .await;
    let waits = b.until("b leads", |d| d.lease.is_some());
    assert!(timeout(LIMIT / 2, waits).await.is_err(), "a leads");
    a.end().await;
    let start = Instant::now();
    b.until("b leads", |d| d.phase == "leader" && d.epoch == 2).await;
    assert!(
        start.elapsed() < Duration::from_millis(200),
        "no time-out is needed"
    );
    b.end().await;
}
