//! Tests of the election's requests, each alone, with a store that fails as planned.

use redkeeper_core::election::{Candidate, Term};
use tokio::time::{Instant, sleep};

use super::{
    campaign::{claim, list, settle, verify, watch_candidate},
    *,
};
use crate::store::{
    Kind, Write,
    records::{EpochJson, PublisherJson, read_json},
    tests_faults::{Call, Fault, FaultySession, FaultyStore},
};

/// A store with the layout in place.
pub(super) struct Room {
    pub(super) store: FaultyStore,
    pub(super) layout: Layout,
    pub(super) session: Arc<FaultySession>,
}

impl Room {
    pub(super) async fn new() -> Self {
        let store = FaultyStore::default();
        let layout = Layout::new("/redkeeper");
        let session = Arc::new(store.connect().await.unwrap());
        layout.ensure(&*session).await.unwrap();
        Self {
            store,
            layout,
            session,
        }
    }

    /// Another session, with a candidate of its own.
    pub(super) async fn other(&self) -> (Arc<FaultySession>, String) {
        let session = Arc::new(self.store.connect().await.unwrap());
        let node = Layout::new("/redkeeper").enqueue(&*session).await.unwrap();
        (session, node)
    }

    pub(super) async fn enqueue(&self) -> String {
        self.layout.enqueue(&*self.session).await.unwrap()
    }

    pub(super) async fn claim(&self, node: &str, newest: u64) -> Result<Input, StoreError> {
        let id = CollectorId::new("a").unwrap();
        claim(&*self.session, &self.layout, (node, &[]), &id, Epoch(newest)).await
    }

    pub(super) async fn settle(&self, node: &str) -> Result<Input, StoreError> {
        settle(&*self.session, &self.layout, node).await
    }

    pub(super) async fn verify(&self, node: &str, term: Term) -> Result<Input, StoreError> {
        verify(&*self.session, &self.layout, node, Some(term)).await
    }

    pub(super) async fn list(&self) -> Result<Input, StoreError> {
        list(&*self.session, &self.layout).await
    }

    pub(super) async fn node(&self, path: &str) -> Option<crate::store::Node> {
        self.session.get(&[path.to_owned()]).await.unwrap().remove(0)
    }

    pub(super) async fn epoch(&self) -> EpochJson {
        read_json(self.node(&self.layout.epoch()).await)
    }

    pub(super) async fn publisher(&self) -> Option<(PublisherJson, i64)> {
        let node = self.node(&self.layout.publisher()).await?;
        let owner = node.owner;
        Some((read_json(Some(node)), owner))
    }

    pub(super) async fn write_epoch(&self, text: &str) {
        let version = self.node(&self.layout.epoch()).await.unwrap().version;
        let write = Write::Set(self.layout.epoch(), text.into(), None);
        let check = self.layout.epoch();
        self.session.commit((&check, version), vec![write]).await.unwrap();
    }

    pub(super) async fn delete(&self, path: &str) {
        delete(&self.session, path).await;
    }
}

pub(super) async fn delete(session: &FaultySession, path: &str) {
    let version = session.stat(path).await.unwrap().unwrap().version;
    let write = Write::Delete(path.to_owned());
    session.commit((path, version), vec![write]).await.unwrap();
}

/// The claim of another collector, as a fault that comes before a request.
fn claim_of(session: &Arc<FaultySession>, layout: &Layout, node: &str) -> Fault {
    let (session, layout, node) = (Arc::clone(session), layout.clone(), node.to_owned());
    let id = CollectorId::new("b").unwrap();
    Fault::After(Box::pin(async move {
        let claimed = claim(&*session, &layout, (&node, &[]), &id, Epoch(0)).await;
        assert!(matches!(claimed, Ok(Input::Claimed(_))), "{claimed:?}");
    }))
}

fn term(epoch: u64, token: i32) -> Term {
    Term {
        epoch: Epoch(epoch),
        token,
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_takes_the_next_number_and_creates_the_publisher() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    assert_eq!(room.claim(&node, 0).await, Ok(Input::Claimed(term(1, 1))));
    let epoch = room.epoch().await;
    assert_eq!((epoch.epoch, epoch.holder.as_str()), (1, "a"));
    assert_eq!(epoch.node, node);
    let (publisher, owner) = room.publisher().await.unwrap();
    assert_eq!((publisher.epoch, publisher.holder.as_str()), (1, "a"));
    assert_eq!(publisher.phase, "reconciling");
    assert_eq!(owner, room.session.id());
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_above_every_number_that_was_seen_and_below_none_that_is_nonsense() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    assert_eq!(room.claim(&node, 7).await, Ok(Input::Claimed(term(8, 1))));
    room.write_epoch(r#"{"epoch":20}"#).await;
    assert_eq!(room.claim(&node, 9).await, Ok(Input::Claimed(term(21, 3))));
    room.write_epoch(&format!(r#"{{"epoch":{}}}"#, u64::MAX)).await;
    assert_eq!(room.claim(&node, 21).await, Ok(Input::Claimed(term(22, 5))));
    room.write_epoch("nonsense").await;
    assert_eq!(room.claim(&node, 22).await, Ok(Input::Claimed(term(23, 7))));
}

#[tokio::test(start_paused = true)]
async fn a_claim_replaces_the_publisher_of_a_deposed_leader_that_still_has_a_session() {
    let room = Room::new().await;
    let (other, node) = room.other().await;
    let id = CollectorId::new("b").unwrap();
    let claimed = claim(&*other, &room.layout, (&node, &[]), &id, Epoch(0)).await;
    assert_eq!(claimed, Ok(Input::Claimed(term(1, 1))));
    delete(&other, &room.layout.candidate(&node)).await;
    let own = room.enqueue().await;
    assert_eq!(room.claim(&own, 0).await, Ok(Input::Claimed(term(2, 2))));
    let (publisher, owner) = room.publisher().await.unwrap();
    assert_eq!((publisher.epoch, owner), (2, room.session.id()));
}

/// Both read the same epoch; the other one's claim arrives first. Once without a publisher, and once with one.
#[tokio::test(start_paused = true)]
async fn of_two_claims_of_one_epoch_the_second_is_refused() {
    let room = Room::new().await;
    let own = room.enqueue().await;
    let (other, theirs) = room.other().await;
    for round in 1..=2 {
        let first = claim_of(&other, &room.layout, &theirs);
        room.store.plan_fault(Call::Commit, first);
        assert_eq!(room.claim(&own, 0).await, Ok(Input::ClaimRefused), "{round}");
        let epoch = room.epoch().await;
        assert_eq!((epoch.epoch, epoch.holder.as_str()), (round, "b"));
        assert_eq!(room.publisher().await.unwrap().1, other.id(), "{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_candidate_of_this_session_nothing_is_claimed_and_the_next_attempt_waits() {
    let room = Room::new().await;
    let (_other, theirs) = room.other().await;
    let gone = room.enqueue().await;
    room.delete(&room.layout.candidate(&gone)).await;
    room.store.take_multis();
    for node in [&theirs, &gone] {
        let start = Instant::now();
        assert_eq!(room.claim(node, 0).await, Ok(Input::ClaimRefused));
        let waited = start.elapsed().as_millis();
        assert!((50..=151).contains(&waited), "{waited} ms");
    }
    assert_eq!(room.store.take_multis(), []);
}

/// The session expires, or somebody deletes the candidate, between the reading and the claim.
#[tokio::test(start_paused = true)]
async fn a_candidate_that_is_deleted_before_the_claim_arrives_claims_nothing() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    let (hand, path) = (Arc::clone(&room.session), room.layout.candidate(&node));
    let deletes = Fault::After(Box::pin(async move { delete(&hand, &path).await }));
    room.store.plan_fault(Call::Commit, deletes);
    assert_eq!(room.claim(&node, 0).await, Ok(Input::ClaimRefused));
    assert_eq!((room.epoch().await.epoch, room.publisher().await), (0, None));
}

#[tokio::test(start_paused = true)]
async fn a_claim_for_which_the_right_is_missing_is_an_error_and_no_lost_race() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    room.store.memory.lock("/redkeeper");
    let claimed = room.claim(&node, 0).await;
    assert!(matches!(claimed, Err(StoreError::Refused(_))), "{claimed:?}");
    assert_eq!(room.epoch().await.epoch, 0);
}

#[tokio::test(start_paused = true)]
async fn a_layout_that_somebody_deleted_ends_the_session() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    room.delete(&room.layout.epoch()).await;
    let claimed = room.claim(&node, 0).await;
    assert!(matches!(claimed, Err(StoreError::Lost(_))), "{claimed:?}");
    assert_eq!(room.settle(&node).await, Ok(Input::Settled(None)));
    room.delete(&room.layout.candidate(&node)).await;
    room.delete(&room.layout.election()).await;
    let listed = room.list().await;
    assert!(matches!(listed, Err(StoreError::Lost(_))), "{listed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_claim_without_an_answer_is_settled_by_what_the_epoch_names() {
    for (applied, found) in [(true, Some(term(1, 1))), (false, None)] {
        let room = Room::new().await;
        let node = room.enqueue().await;
        room.store.lose_next_commit(applied);
        let claimed = room.claim(&node, 0).await;
        assert!(matches!(claimed, Err(StoreError::Unknown(_))), "{claimed:?}");
        assert_eq!(room.settle(&node).await, Ok(Input::Settled(found)));
    }
}

/// The server that is asked lags behind: the claim is visible only after the `sync`.
#[tokio::test(start_paused = true)]
async fn a_claim_that_the_server_has_not_applied_yet_is_found() {
    let room = Room::new().await;
    let (other, node) = room.other().await;
    room.store
        .plan_fault(Call::Sync, claim_of(&other, &room.layout, &node));
    assert_eq!(room.settle(&node).await, Ok(Input::Settled(Some(term(1, 1)))));
}

#[tokio::test(start_paused = true)]
async fn an_epoch_that_names_another_claim_settles_nothing() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    for text in [
        r#"{"epoch":3,"claim":"_c_x-n-0000000000/3"}"#.to_owned(),
        format!(r#"{{"epoch":3,"claim":"{node}/2"}}"#),
        format!(r#"{{"epoch":3,"node":"{node}"}}"#),
        "nonsense".to_owned(),
    ] {
        room.write_epoch(&text).await;
        assert_eq!(room.settle(&node).await, Ok(Input::Settled(None)), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn candidates_are_listed_with_their_owners_as_far_as_these_may_be_read() {
    let room = Room::new().await;
    let own = room.enqueue().await;
    let mut wanted = vec![(own, room.session.id())];
    for (name, hidden) in [("_c_x-n-0000000001", false), ("_c_x-n-0000000002", true)] {
        let path = room.layout.candidate(name);
        room.session.create(&path, b"", Kind::Ephemeral).await.unwrap();
        room.store.make_unreadable(&path, hidden);
        // An owner that cannot be found out counts as alive.
        wanted.push((name.to_owned(), if hidden { -1 } else { room.session.id() }));
    }
    let leftover = room.layout.candidate("_c_old-n-0000000003");
    room.session
        .create(&leftover, b"", Kind::Persistent)
        .await
        .unwrap();
    wanted.push(("_c_old-n-0000000003".to_owned(), 0));
    wanted.sort();
    let Ok(Input::Listed(mut listed)) = room.list().await else {
        panic!("not listed")
    };
    listed.sort_by(|a, b| a.name.cmp(&b.name));
    let listed: Vec<_> = listed.into_iter().map(|one| (one.name, one.owner)).collect();
    assert_eq!(listed, wanted);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_leaves_while_it_is_looked_at_is_not_listed() {
    let room = Room::new().await;
    let own = room.enqueue().await;
    let (other, theirs) = room.other().await;
    let path = room.layout.candidate(&theirs);
    let leaves = Fault::After(Box::pin(async move { delete(&other, &path).await }));
    room.store.plan_fault(Call::Get, leaves);
    let owner = room.session.id();
    let listed = vec![Candidate { name: own, owner }];
    assert_eq!(room.list().await, Ok(Input::Listed(listed)));
}

#[tokio::test(start_paused = true)]
async fn the_candidate_ahead_is_watched_until_it_goes_or_it_is_time_to_look_again() {
    let room = Room::new().await;
    let (other, theirs) = room.other().await;
    let start = Instant::now();
    let watching = watch_candidate(&*room.session, &room.layout, &theirs);
    assert_eq!(watching.await, Ok(Input::LookAgain));
    assert_eq!(start.elapsed().as_secs(), 30);

    let start = Instant::now();
    let watching = watch_candidate(&*room.session, &room.layout, &theirs);
    let path = room.layout.candidate(&theirs);
    let leaves = async {
        sleep(Duration::from_secs(1)).await;
        delete(&other, &path).await;
    };
    let (seen, ()) = tokio::join!(watching, leaves);
    assert_eq!((seen, start.elapsed().as_secs()), (Ok(Input::LookAgain), 1));

    let start = Instant::now();
    let watching = watch_candidate(&*room.session, &room.layout, &theirs);
    assert_eq!(watching.await, Ok(Input::LookAgain));
    assert_eq!(start.elapsed(), Duration::ZERO, "there is nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn a_term_is_verified_only_with_candidate_publisher_and_epoch() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    let Ok(Input::Claimed(term)) = room.claim(&node, 0).await else {
        panic!("not claimed")
    };
    let next = Term {
        token: term.token + 1,
        ..term
    };
    assert_eq!(room.verify(&node, term).await, Ok(Input::Verified(true)));
    assert_eq!(room.verify(&node, next).await, Ok(Input::Verified(false)));
    assert_eq!(room.verify("_c_x-n-0", term).await, Ok(Input::Verified(false)));
    room.write_epoch("{}").await;
    assert_eq!(room.verify(&node, term).await, Ok(Input::Verified(false)));
    assert_eq!(room.verify(&node, next).await, Ok(Input::Verified(true)));
    // Of another session, and then none.
    let publisher = room.layout.publisher();
    room.delete(&publisher).await;
    let (other, theirs) = room.other().await;
    other.create(&publisher, b"", Kind::Ephemeral).await.unwrap();
    assert_eq!(room.verify(&node, next).await, Ok(Input::Verified(false)));
    delete(&other, &publisher).await;
    assert_eq!(room.verify(&node, next).await, Ok(Input::Verified(false)));
    room.session
        .create(&publisher, b"", Kind::Ephemeral)
        .await
        .unwrap();
    assert_eq!(room.verify(&node, next).await, Ok(Input::Verified(true)));
    // A candidate of another session does not count, whatever its name.
    assert_eq!(room.verify(&theirs, next).await, Ok(Input::Verified(false)));
}

/// The session was suspended: the server that is asked after it lags behind.
#[tokio::test(start_paused = true)]
async fn a_term_is_verified_by_the_newest_epoch() {
    let room = Room::new().await;
    let node = room.enqueue().await;
    let Ok(Input::Claimed(term)) = room.claim(&node, 0).await else {
        panic!("not claimed")
    };
    let (other, theirs) = room.other().await;
    room.store
        .plan_fault(Call::Sync, claim_of(&other, &room.layout, &theirs));
    assert_eq!(room.verify(&node, term).await, Ok(Input::Verified(false)));
}

#[tokio::test(start_paused = true)]
async fn the_own_candidate_is_found_again_and_no_other_is_taken_for_it() {
    let room = Room::new().await;
    let find = || room.layout.find_own(&*room.session);
    let (other, theirs) = room.other().await;
    // A former session of this process, which has not expired yet.
    let former = room.layout.enqueue(&*other).await.unwrap();
    assert_eq!(find().await, Ok(None), "{theirs} and {former} are others'");
    let lost = StoreError::Unknown("planned".to_owned());
    room.store.plan_fault(Call::Create, Fault::Loses(lost.clone()));
    assert_eq!(room.layout.enqueue(&*room.session).await, Err(lost));
    let own = find().await.unwrap().unwrap();
    let owner = room.node(&room.layout.candidate(&own)).await.unwrap().owner;
    assert_eq!(owner, room.session.id());
}
