//! Tests of the requests as the coordinator sends them: which errors end the session, and what a hand-over deletes.

use redkeeper_core::election::Term;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{tests_campaign::Room, *};
use crate::{
    fleet::view,
    leader::leadership::Leadership,
    publish::{AUDIT_INTERVAL, replicate},
    store::tests_faults::{Call, Fault, FaultyStore},
};

fn coordinator(room: &Room) -> Coordinator<FaultyStore> {
    let (_, view) = view::channel();
    Coordinator {
        store: room.store.clone(),
        layout: room.layout.clone(),
        id: CollectorId::new("a").unwrap(),
        address: "a:7400".to_owned(),
        view,
        commands: mpsc::channel(1).0,
        leadership: watch::channel(Leadership::default()).0,
        ended: watch::channel(proofs::Ended::default()).1,
        requests: mpsc::channel(1).1,
        told: mpsc::channel(1).1,
        links: replicate::Sender::new(1),
        clock: Clock::simulated(),
        orphans_max_percent: 10,
        audit_interval: AUDIT_INTERVAL,
        freshness_interval: Duration::from_secs(5),
        metrics: Metrics::default(),
        diagnostics: Arc::new(Diagnostics::new(Clock::simulated())),
        stop: CancellationToken::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_ends_the_session_where_the_request_may_still_be_applied_and_is_settled_elsewhere() {
    let room = Room::new().await;
    let coordinator = coordinator(&room);
    for (error, input) in [
        (StoreError::TimedOut, Input::Lost),
        (StoreError::Lost(String::new()), Input::Lost),
        (StoreError::Refused(String::new()), Input::Lost),
        (StoreError::Unknown(String::new()), Input::Unknown),
        (StoreError::Missing, Input::Unknown),
    ] {
        room.store.plan_fault(Call::Create, Fault::Fails(error.clone()));
        let asked = coordinator.operation(&room.session, &Election::default(), Effect::Enqueue);
        assert_eq!(asked.await.0, input, "{error}");
    }
}

/// The lease counts from the sending; otherwise it could outlive the session.
#[tokio::test(start_paused = true)]
async fn an_answer_comes_with_the_time_of_its_request() {
    let room = Room::new().await;
    let coordinator = coordinator(&room);
    let slow = Fault::After(Box::pin(sleep(Duration::from_secs(3))));
    room.store.plan_fault(Call::Sync, slow);
    let (start, before) = (Instant::now(), coordinator.clock.now());
    let asked = coordinator.operation(&room.session, &Election::default(), Effect::Verify);
    let (input, sent) = asked.await;
    assert_eq!((input, sent), (Input::Verified(false), before));
    assert_eq!(start.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_hand_over_deletes_the_own_znodes_but_not_those_of_a_successor() {
    let room = Room::new().await;
    let coordinator = coordinator(&room);
    let mut election = Election::default();
    let node = room.enqueue().await;
    election.step(Input::Connected, &mut Vec::new());
    election.step(Input::Enqueued(node.clone()), &mut Vec::new());
    let Ok(Input::Claimed(term)) = room.claim(&node, 0).await else {
        panic!("not claimed")
    };
    let mut lasting = Lasting {
        setup: coordinator.setup(),
        follower: Follower::new(mpsc::channel(1).1),
        election,
        led: None,
        leftovers: 0,
        requests: mpsc::channel(1).1,
    };
    let mut step_down = async |term| {
        coordinator
            .step_down(&room.session, &mut lasting, &mut None, term)
            .await;
    };
    step_down(None).await;
    step_down(Some(Term { token: 0, ..term })).await;
    assert!(room.publisher().await.is_some());
    step_down(Some(term)).await;
    assert_eq!(room.publisher().await, None);
    assert_eq!(room.list().await, Ok(Input::Listed(Vec::new())));
}

#[tokio::test(start_paused = true)]
async fn without_the_parent_of_the_candidates_the_session_ends() {
    let room = Room::new().await;
    room.delete(&room.layout.election()).await;
    let coordinator = coordinator(&room);
    let (mut election, mut effects, mut asked) = (Election::default(), Vec::new(), 0);
    election.step(Input::Connected, &mut effects);
    while let Some(effect) = effects.pop() {
        asked += 1;
        assert!(asked <= 100, "asks for ever: {effect:?}");
        if effect == Effect::Drop {
            return;
        }
        let (input, _) = coordinator.operation(&room.session, &election, effect).await;
        if input == Input::Lost {
            return;
        }
        election.step(input, &mut effects);
    }
    panic!("the election waits for nothing");
}
