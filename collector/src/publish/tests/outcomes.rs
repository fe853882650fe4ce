//! Refused writes, and outcomes that are not known.

use super::*;

fn unknown() -> StoreError {
    StoreError::Unknown("planned".to_owned())
}

/// A live term with one instance, whose next write has no known outcome.
async fn in_doubt(applied: bool) -> Rig {
    let mut rig = Rig::live().await;
    rig.store.lose_next_commit(applied);
    rig.put("db:1", Reason::Loading);
    assert_eq!(rig.told().await, Input::Unknown);
    rig.store.take_calls();
    rig.store.take_multis();
    rig
}

fn writes_of(rig: &Rig, name: &str) -> usize {
    let path = rig.layout.instance(&id(name));
    let is_of = |write: &Write| matches!(write, Write::Create(to, ..) | Write::Set(to, ..) if *to == path);
    let multis = rig.store.take_multis();
    multis
        .iter()
        .flat_map(|multi| &multi.writes)
        .filter(|write| is_of(write))
        .count()
}

#[tokio::test(start_paused = true)]
async fn after_an_unknown_outcome_nothing_is_sent_until_the_term_is_verified() {
    let mut rig = in_doubt(false).await;
    rig.put("db:2", Reason::Ok);
    rig.run_for(Duration::from_secs(10)).await;
    assert_eq!(rig.store.take_multis(), []);
    rig.term.resume();
    rig.until_reason("db:2", Some("OK")).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_is_read_back_and_not_written_again() {
    let mut rig = in_doubt(true).await;
    rig.term.resume();
    rig.until("nothing waits", async |rig| rig.term.oldest_pending().is_none())
        .await;
    let calls = rig.store.take_calls();
    assert_eq!(calls[..3], [Call::Sync, Call::Get, Call::Get]);
    assert_eq!(rig.reason("db:1").await.as_deref(), Some("LOADING"));
    assert_eq!(writes_of(&rig, "db:1"), 0);
    // The books are right: the next change is written once.
    rig.put("db:1", Reason::Ok);
    rig.until_reason("db:1", Some("OK")).await;
    assert_eq!(rig.field("db:1", "rev").await, Some(3.into()));
    assert_eq!(rig.batches("refused"), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_applied_is_read_back_and_written_again() {
    let mut rig = in_doubt(false).await;
    rig.term.resume();
    rig.until_reason("db:1", Some("LOADING")).await;
    let calls = rig.store.take_calls();
    assert_eq!(calls[..4], [Call::Sync, Call::Get, Call::Get, Call::Commit]);
    assert_eq!(writes_of(&rig, "db:1"), 1);
}

/// The server that is asked lags behind, and a successor may have claimed meanwhile.
#[tokio::test(start_paused = true)]
async fn a_successor_found_after_the_doubt_ends_the_term() {
    let mut rig = in_doubt(false).await;
    rig.depose().await;
    rig.term.resume();
    assert_eq!(rig.told().await, Input::Fenced);
    assert_eq!(rig.reason("db:1").await.as_deref(), Some("OK"));
}

#[tokio::test(start_paused = true)]
async fn a_read_back_that_fails_is_made_again_after_the_next_verification() {
    let mut rig = in_doubt(false).await;
    rig.store.plan_fault(Call::Sync, Fault::Fails(unknown()));
    rig.term.resume();
    assert_eq!(rig.told().await, Input::Unknown);
    assert_eq!(rig.store.take_multis(), []);
    rig.term.resume();
    rig.until_reason("db:1", Some("LOADING")).await;
}

/// Of two batches in flight the first one's answer is lost; the outcome of the second is waited for.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_ends_before_anything_is_read_back() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    rig.put_slowly(Duration::from_secs(3));
    rig.run_for(Duration::from_millis(10)).await;
    rig.store.lose_next_commit(true);
    rig.put("db:2", Reason::Ok);
    assert_eq!(rig.told().await, Input::Unknown);
    rig.store.take_calls();
    rig.term.resume();
    rig.run_for(Duration::from_secs(2)).await;
    assert_eq!(rig.store.take_calls(), []);
    rig.until("nothing waits", async |rig| rig.term.oldest_pending().is_none())
        .await;
    assert_eq!(rig.store.take_calls()[0], Call::Sync);
    assert_eq!(rig.reason("db:1").await.as_deref(), Some("OK"));
    assert_eq!(rig.reason("db:2").await.as_deref(), Some("OK"));
}

#[tokio::test(start_paused = true)]
async fn no_answer_in_time_ends_the_session() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    rig.store
        .plan_fault(Call::Commit, Fault::Fails(StoreError::TimedOut));
    rig.put("db:1", Reason::Ok);
    assert_eq!(rig.told().await, Input::Lost);
}

#[tokio::test(start_paused = true)]
async fn taking_over_is_begun_again_when_a_request_of_it_fails() {
    let mut rig = Rig::over(&[("db:1", stored("db:1", Reason::Ok))]).await;
    rig.store.plan_fault(Call::Children, Fault::Fails(unknown()));
    assert_eq!(rig.told().await, Input::Unknown);
    assert_eq!(rig.adopted(), []);
    rig.term.resume();
    rig.until_live().await;
    assert_eq!(rig.adopted(), [(vec!["db:1".to_owned()], true)]);

    let mut rig = Rig::new().await;
    let lost = StoreError::Lost("planned".to_owned());
    rig.store.plan_fault(Call::Get, Fault::Fails(lost));
    assert_eq!(rig.told().await, Input::Lost);
}

#[tokio::test(start_paused = true)]
async fn that_the_term_is_live_is_written_again_when_the_answer_is_lost() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    let before = rig.store.take_multis().len() - 1;
    let mut rig = Rig::new().await;
    for _ in 0..before {
        rig.store
            .plan_fault(Call::Commit, Fault::After(Box::pin(async {})));
    }
    rig.store.lose_next_commit(false);
    assert_eq!(rig.told().await, Input::Unknown);
    assert_eq!(
        (rig.term.phase(), rig.phase().await.as_str()),
        ("reconciling", "")
    );
    rig.term.resume();
    rig.until_live().await;
    assert_eq!(rig.phase().await, "live");
}

#[tokio::test(start_paused = true)]
async fn a_status_that_may_not_be_written_is_left_out_and_the_others_are_written() {
    let mut rig = Rig::new().await;
    let path = rig.layout.instance(&id("db:1"));
    rig.store.make_read_only(&path);
    rig.put("db:1", Reason::Ok);
    rig.put("db:2", Reason::Ok);
    rig.until_live().await;
    assert_eq!(rig.reason("db:1").await, None);
    assert_eq!(rig.reason("db:2").await.as_deref(), Some("OK"));
    assert_eq!(rig.term.refused(), Some(("not authorized".to_owned(), 1)));
    assert_eq!(rig.batches("forbidden"), 1);
    // When it changes it is tried again.
    rig.put("db:1", Reason::Loading);
    rig.until("refused again", async |rig| rig.batches("forbidden") == 2)
        .await;
    assert_eq!(rig.term.refused(), Some(("not authorized".to_owned(), 1)));
}

/// The books do not know it, because it was created after they were read.
#[tokio::test(start_paused = true)]
async fn a_znode_that_exists_already_is_overwritten() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    rig.term.pause();
    plant(&rig.hand, &rig.layout, "db:1", b"somebody else's").await;
    rig.put("db:1", Reason::Ok);
    rig.term.resume();
    rig.until_reason("db:1", Some("OK")).await;
    assert_eq!(rig.batches("refused"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_deleted_under_a_write_is_created_again_with_all_its_statuses() {
    let mut rig = Rig::live().await;
    rig.term.pause();
    let bucket = rig.layout.bucket(id("db:1").bucket());
    rig.delete(&rig.layout.instance(&id("db:1"))).await;
    rig.delete(&bucket).await;
    rig.put("db:1", Reason::Loading);
    rig.term.resume();
    rig.until_reason("db:1", Some("LOADING")).await;
    assert_eq!(rig.bucket("db:1", "count").await, 1);
    assert!(rig.batches("refused") >= 1);
}

#[tokio::test(start_paused = true)]
async fn without_the_parent_of_the_buckets_the_session_ends() {
    let mut rig = Rig::new().await;
    rig.delete("/redkeeper/instances").await;
    assert_eq!(rig.told().await, Input::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_write_in_flight_is_shown_with_its_status_until_it_is_acknowledged() {
    let mut rig = Rig::live().await;
    let progress = |rig: &Rig| rig.diagnostics.snapshot().publishing.unwrap();
    let (_, oldest) = progress(&rig).few_pending.unwrap();
    assert_eq!((progress(&rig).stage, oldest), ("writing", None));
    let slow = Fault::After(Box::pin(tokio::time::sleep(Duration::from_secs(3))));
    rig.store.plan_fault(Call::Commit, slow);
    rig.put("db:1", Reason::Loading);
    rig.run_for(Duration::from_secs(1)).await;
    let shown = progress(&rig);
    let (pending, oldest) = shown.few_pending.unwrap();
    assert_eq!((pending, oldest.is_some()), (vec![id("db:1")], true));
    assert_eq!((shown.writes_in_flight, shown.seen), (1, rig.view.revision));
    rig.run_for(Duration::from_secs(3)).await;
    let shown = progress(&rig);
    assert_eq!(shown.few_pending, Some((Vec::new(), None)));
    assert_eq!((shown.writes_in_flight, shown.on_hold), (0, false));
    rig.term.pause();
    assert!(progress(&rig).on_hold);
}
