//! Tests of the take-over on evidence: a follower learns that the leader's process has ended, rightly or wrongly.

use std::time::Duration;

use tokio::time::Instant;

use super::tests::Rig;
use crate::{
    leader::proofs::Ended,
    store::{Session, Store, layout::Layout, memory::Memory},
};

/// The take-over takes some requests, which cost nothing in this store.
const AT_ONCE: Duration = Duration::from_millis(50);

fn proof(of: &Rig) -> Ended {
    [of.leadership.borrow().candidate.clone()].into()
}

async fn leader_and_follower(ensemble: &Memory) -> (Rig, Rig) {
    let mut a = Rig::start(ensemble, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    let mut b = Rig::start(ensemble, "b");
    b.until("b follows", |d| d.phase == "follower" && !d.candidate.is_empty())
        .await;
    (a, b)
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_has_provably_ended_is_followed_before_its_session_expires() {
    let ensemble = Memory::default();
    let (a, mut b) = leader_and_follower(&ensemble).await;
    let (node, start) = (a.leadership.borrow().candidate.clone(), Instant::now());
    let proof = proof(&a);
    // Its task ends, and its session stays.
    a.kill();
    b.ended.send_replace(proof);
    b.until("b leads", |d| d.phase == "leader" && d.epoch == 2).await;
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    let hand = ensemble.connect().await.unwrap();
    let candidate = Layout::new("/redkeeper").candidate(&node);
    assert_eq!(hand.stat(&candidate).await, Ok(None), "nobody need wait for it");
    b.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_wrongly_taken_for_dead_is_deposed_and_becomes_a_candidate_again() {
    let ensemble = Memory::default();
    let (mut a, mut b) = leader_and_follower(&ensemble).await;
    let former = a.leadership.borrow().candidate.clone();
    b.ended.send_replace(proof(&a));
    b.until("b leads", |d| d.phase == "leader" && d.epoch == 2).await;
    a.until("a follows", |d| {
        d.phase == "follower" && d.candidate != former && !d.candidate.is_empty()
    })
    .await;
    // And back: what was proven of the former candidate says nothing of the present one.
    let (start, proof) = (Instant::now(), proof(&b));
    b.kill();
    a.ended.send_replace(proof);
    a.until("a leads", |d| d.phase == "leader" && d.epoch == 3).await;
    assert!(start.elapsed() < AT_ONCE, "{:?}", start.elapsed());
    a.end().await;
}

#[tokio::test(start_paused = true)]
async fn the_second_in_line_waits_for_the_first_and_not_for_the_dead() {
    let ensemble = Memory::default();
    let (a, mut b) = leader_and_follower(&ensemble).await;
    let mut c = Rig::start(&ensemble, "c");
    c.until("c follows", |d| d.phase == "follower" && !d.candidate.is_empty())
        .await;
    let proof = proof(&a);
    a.kill();
    c.ended.send_replace(proof.clone());
    // Longer than the session of a lives would be too long for this test: nothing happens while b does not know.
    let leads = c.leadership.wait_for(|d| d.phase == "leader");
    assert!(
        tokio::time::timeout(Duration::from_millis(500), leads)
            .await
            .is_err()
    );
    b.ended.send_replace(proof);
    b.until("b leads", |d| d.phase == "leader" && d.epoch == 2).await;
    c.until("c follows b", |d| d.leader_hint == "b").await;
    b.end().await;
    c.until("c leads", |d| d.phase == "leader" && d.epoch == 3).await;
    c.end().await;
}
