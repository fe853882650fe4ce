//! The freshness mark.

use super::*;

impl Rig {
    /// What `publisher` says.
    async fn published(&self) -> PublisherJson {
        let node = self.node(&self.layout.publisher()).await.unwrap();
        serde_json::from_slice(&node.data).unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_mark_that_grows_is_written_once_in_each_interval() {
    let mut rig = Rig::live().await;
    let first = rig.published().await;
    assert_eq!((first.phase.as_str(), first.mark), ("live", 1));
    assert_eq!((first.epoch, first.holder.as_str()), (5, "a"));
    rig.store.take_multis();
    rig.run_for(FRESHNESS * 10 + FRESHNESS / 2).await;
    let last = rig.published().await;
    assert_eq!((last.phase.as_str(), last.mark), ("live", 11));
    assert_eq!((last.pending, last.oldest_pending_ms, last.wrong), (0, 0, 0));
    assert_eq!(rig.store.take_multis().len(), 10, "and nothing else is written");
}

#[tokio::test(start_paused = true)]
async fn a_mark_tells_how_much_waits_and_since_when() {
    let mut rig = Rig::live().await;
    rig.put_slowly(FRESHNESS * 3);
    rig.put("db:1", Reason::Loading);
    rig.run_for(FRESHNESS + FRESHNESS / 2).await;
    let told = rig.published().await;
    assert!(told.pending > 0, "{told:?}");
    let oldest = Duration::from_millis(told.oldest_pending_ms);
    assert!(oldest > FRESHNESS / 2 && oldest <= FRESHNESS, "{told:?}");
    rig.run_for(FRESHNESS * 4).await;
    assert_eq!(rig.published().await.pending, 0);
}

#[tokio::test(start_paused = true)]
async fn a_mark_counts_what_somebody_changed_and_is_not_written_anew_yet() {
    let mut rig = Rig::live().await;
    rig.edit("db:1", b"nonsense").await;
    // Each attempt to repair it takes its time.
    rig.store.plan_fault(
        Call::Commit,
        Fault::After(Box::pin(tokio::time::sleep(FRESHNESS * 4))),
    );
    let wrong = async |rig: &Rig| rig.published().await.wrong == 1;
    rig.until("one is wrong", wrong).await;
    let right = async |rig: &Rig| rig.published().await.wrong == 0;
    rig.until("none is", right).await;
    rig.until_reason("db:1", Some("OK")).await;
}

#[tokio::test(start_paused = true)]
async fn a_status_that_may_not_be_written_is_wrong_as_long_as_it_is_refused() {
    let mut rig = Rig::live().await;
    rig.store.memory.lock(&rig.layout.bucket(id("db:2").bucket()));
    rig.put("db:2", Reason::Ok);
    let wrong = async |rig: &Rig| rig.published().await.wrong == 1;
    rig.until("one is wrong", wrong).await;
}

#[tokio::test(start_paused = true)]
async fn a_term_on_hold_writes_no_mark() {
    let mut rig = Rig::live().await;
    rig.term.pause();
    let mark = rig.published().await.mark;
    rig.run_for(FRESHNESS * 5).await;
    assert_eq!(rig.published().await.mark, mark);
    rig.term.resume();
    rig.run_for(FRESHNESS / 2).await;
    assert_eq!(rig.published().await.mark, mark + 1, "one is overdue");
}
