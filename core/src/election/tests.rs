use super::*;
use proptest::prelude::*;

fn term(epoch: u64) -> Term {
    Term {
        epoch: Epoch(epoch),
        token: epoch as i32,
    }
}

fn candidates(names: &[String]) -> Input {
    let owned = |(owner, name): (i64, &String)| Candidate {
        name: name.clone(),
        owner,
    };
    Input::Listed((1..).zip(names).map(owned).collect())
}

fn run(election: &mut Election, inputs: impl IntoIterator<Item = Input>) -> Vec<Effect> {
    let mut out = Vec::new();
    for input in inputs {
        election.step(input, &mut out);
    }
    out
}

fn leading() -> Election {
    let mut election = Election::default();
    let name = "_c_x-n-0000000001".to_owned();
    let out = run(
        &mut election,
        [
            Input::Connected,
            Input::Enqueued(name.clone()),
            candidates(&[name]),
            Input::Claimed(term(7)),
        ],
    );
    assert_eq!(
        out,
        [
            Effect::Enqueue,
            Effect::List,
            Effect::Claim(vec![]),
            Effect::Lead(term(7))
        ]
    );
    election
}

#[test]
fn waits_for_the_next_lower_candidate_only() {
    let mut election = Election::default();
    let names = ["a-n-0000000003", "b-n-0000000001", "c-n-0000000002"].map(str::to_owned);
    let out = run(
        &mut election,
        [
            Input::Connected,
            Input::Enqueued(names[0].clone()),
            candidates(&names),
        ],
    );
    assert_eq!(out.last(), Some(&Effect::Watch(names[2].clone())));
}

#[test]
fn candidates_that_no_session_owns_do_not_count() {
    let [left, own, other] = ["a-n-0000000000", "b-n-0000000002", "c-n-0000000001"].map(str::to_owned);
    let candidate = |name: &String, owner| Candidate {
        name: name.clone(),
        owner,
    };
    let mut election = Election::default();
    let out = run(
        &mut election,
        [
            Input::Connected,
            Input::Enqueued(own.clone()),
            Input::Listed(vec![
                candidate(&left, 0),
                candidate(&own, 7),
                candidate(&other, 8),
            ]),
            Input::LookAgain,
            Input::Listed(vec![
                candidate(&left, 0),
                candidate(&own, 7),
                candidate(&other, 0),
            ]),
        ],
    );
    assert_eq!(
        out[2..],
        [Effect::Watch(other), Effect::List, Effect::Claim(vec![])]
    );
    // Its own node is not its own once somebody has restored it.
    let mut election = Election::default();
    let out = run(
        &mut election,
        [
            Input::Connected,
            Input::Enqueued(own.clone()),
            Input::Listed(vec![candidate(&own, 0)]),
        ],
    );
    assert_eq!(out.last(), Some(&Effect::FindOwn));
}

/// Whoever hands leadership to a certain one deletes the candidates that stand before it.
#[test]
fn a_candidate_that_others_deleted_stands_in_line_again() {
    let names = ["a-n-0000000001", "b-n-0000000002", "c-n-0000000003"].map(str::to_owned);
    let mut election = Election::default();
    let enqueued = Input::Enqueued(names[0].clone());
    let out = run(
        &mut election,
        [Input::Connected, enqueued, candidates(&names[1..])],
    );
    assert_eq!(out.last(), Some(&Effect::FindOwn));
    // The list was old: it is there.
    let mut other = election.clone();
    let out = run(
        &mut other,
        [Input::Found(Some(names[0].clone())), candidates(&names)],
    );
    assert_eq!(out, [Effect::List, Effect::Claim(vec![])]);
    let out = run(&mut election, [Input::Unknown, Input::Found(None)]);
    assert_eq!(out, [Effect::FindOwn, Effect::Enqueue]);
    assert_eq!((election.node(), election.phase()), (None, "follower"));
    // Whether the new one was created is not known, which only the end of the session settles.
    let out = run(&mut election, [Input::Unknown, Input::Found(None)]);
    assert_eq!(out, [Effect::FindOwn, Effect::Drop]);
}

#[test]
fn a_leader_hands_over_and_stands_in_line_again() {
    let mut election = leading();
    let handing_over = [Effect::Hold, Effect::HandOver(term(7))];
    assert_eq!(run(&mut election, [Input::StepAside]), handing_over);
    assert_eq!((election.term(), election.phase()), (None, "resigned"));
    let mut others = [election.clone(), election.clone()];
    assert_eq!(
        run(&mut election, [Input::HandedOver(Some(true))]),
        [Effect::Enqueue]
    );
    assert_eq!(election.phase(), "follower");
    // Refused: it goes on, once it is sure that it leads.
    let out = run(
        &mut others[0],
        [Input::HandedOver(Some(false)), Input::Verified(true)],
    );
    assert_eq!(out, [Effect::Verify, Effect::Lead(term(7))]);
    assert_eq!(run(&mut others[1], [Input::HandedOver(None)]), [Effect::Drop]);
    // Nobody else steps aside, nor a leader that may lead no more.
    assert_eq!(
        run(&mut Election::default(), [Input::Connected, Input::StepAside]),
        [Effect::Enqueue]
    );
    let mut suspended = leading();
    assert_eq!(
        run(&mut suspended, [Input::Suspended, Input::StepAside]),
        [Effect::Hold]
    );
}

#[test]
fn candidates_whose_processes_have_ended_are_passed_over() {
    let names = ["a-n-0000000001", "b-n-0000000002", "c-n-0000000003"].map(str::to_owned);
    let ended = |names: &[String]| Input::Ended(names.iter().cloned().collect());
    let queued = |own: &String| [Input::Connected, Input::Enqueued(own.clone()), candidates(&names)];
    // The first in line claims at once, and removes the candidate of the one that has ended.
    let mut election = Election::default();
    run(&mut election, queued(&names[1]));
    let out = run(&mut election, [ended(&names[..1]), candidates(&names)]);
    assert_eq!(out, [Effect::List, Effect::Claim(names[..1].to_vec())]);
    // The one behind goes on waiting for the one before it.
    let mut election = Election::default();
    run(&mut election, queued(&names[2]));
    let out = run(&mut election, [ended(&names[..1]), candidates(&names)]);
    assert_eq!(out, [Effect::List, Effect::Watch(names[1].clone())]);
    let out = run(&mut election, [ended(&names[..2]), candidates(&names)]);
    assert_eq!(out, [Effect::List, Effect::Claim(names[..2].to_vec())]);
    // Nothing is done anew for what is known, and a proof is known before the session that needs it.
    let mut election = Election::default();
    run(&mut election, [ended(&names[..1])]);
    let out = run(&mut election, queued(&names[1]));
    assert_eq!(out.last(), Some(&Effect::Claim(names[..1].to_vec())));
    assert_eq!(run(&mut election, [Input::ClaimRefused]), [Effect::List]);
    assert_eq!(run(&mut election, [ended(&names[..1])]), []);
}

#[test]
fn a_proof_that_is_withdrawn_counts_no_more() {
    let names = ["a-n-0000000001", "b-n-0000000002"].map(str::to_owned);
    let mut election = Election::default();
    run(
        &mut election,
        [Input::Connected, Input::Enqueued(names[1].clone())],
    );
    run(&mut election, [Input::Ended([names[0].clone()].into())]);
    let out = run(&mut election, [Input::Ended(BTreeSet::new()), candidates(&names)]);
    assert_eq!(out, [Effect::List, Effect::Watch(names[0].clone())]);
}

#[test]
fn the_next_term_is_above_all_that_were_seen() {
    let mut election = leading();
    assert_eq!(election.newest(), Epoch(7));
    let nonsense = Input::Seen(Epoch(u64::MAX));
    let seen = [Input::Seen(Epoch(12)), Input::Seen(Epoch(9)), nonsense];
    run(&mut election, seen);
    assert_eq!(election.newest(), Epoch(12));
    // Whatever ends a session, the term is not forgotten.
    run(&mut election, [Input::Lost, Input::Connected, Input::Found(None)]);
    assert_eq!(election.newest(), Epoch(12));
}

#[test]
fn a_short_disconnect_keeps_the_term() {
    let mut election = leading();
    let out = run(
        &mut election,
        [Input::Suspended, Input::Connected, Input::Verified(true)],
    );
    assert_eq!(out, [Effect::Hold, Effect::Verify, Effect::Lead(term(7))]);
}

#[test]
fn a_fenced_leader_drops_its_session() {
    let mut election = leading();
    assert_eq!(run(&mut election, [Input::Fenced]), [Effect::Hold, Effect::Drop]);
    assert_eq!(election.phase(), "offline");
}

#[test]
fn an_unknown_create_is_looked_for_and_an_unknown_claim_is_settled() {
    let mut election = Election::default();
    let name = "_c_x-n-0000000001".to_owned();
    let out = run(
        &mut election,
        [
            Input::Connected,
            Input::Suspended,
            Input::Unknown,
            Input::Connected,
            Input::Found(Some(name.clone())),
            candidates(&[name]),
            Input::Unknown,
            Input::Settled(Some(term(3))),
        ],
    );
    use Effect::{Claim, Enqueue, FindOwn, Lead, List, Settle};
    assert_eq!(
        out,
        [Enqueue, FindOwn, List, Claim(vec![]), Settle, Lead(term(3))]
    );
}

fn input() -> impl Strategy<Value = Input> {
    let name = || (0..3u32).prop_map(|n| format!("x-n-{n:010}"));
    prop_oneof![
        3 => Just(Input::Connected),
        1 => Just(Input::Suspended),
        1 => Just(Input::Lost),
        3 => name().prop_map(Input::Enqueued),
        1 => proptest::option::of(name()).prop_map(Input::Found),
        3 => proptest::collection::vec((name(), 0..3i64), 0..3).prop_map(|all| {
            let candidate = |(name, owner)| Candidate { name, owner };
            Input::Listed(all.into_iter().map(candidate).collect())
        }),
        1 => Just(Input::LookAgain),
        3 => (1u64..9).prop_map(|e| Input::Claimed(term(e))),
        1 => Just(Input::ClaimRefused),
        1 => proptest::option::of((1u64..9).prop_map(term)).prop_map(Input::Settled),
        1 => any::<bool>().prop_map(Input::Verified),
        1 => Just(Input::Fenced),
        1 => (1u64..9).prop_map(|e| Input::Seen(Epoch(e))),
        1 => proptest::collection::btree_set(name(), 0..3).prop_map(Input::Ended),
        2 => Just(Input::Unknown),
        1 => Just(Input::StepAside),
        1 => proptest::option::of(any::<bool>()).prop_map(Input::HandedOver),
    ]
}

proptest! {
    /// For any inputs in any order: no lead without an acknowledged claim, none while suspended, hold at once on doubt,
    /// epochs of new terms strictly increase, no operation while suspended.
    #[test]
    fn leads_only_with_an_acknowledged_claim(inputs in proptest::collection::vec(input(), 0..300)) {
        let mut election = Election::default();
        let (mut acknowledged, mut led, mut connected) = (Vec::new(), 0u64, false);
        let mut leading = false;
        for input in inputs {
            match &input {
                Input::Connected => connected = true,
                Input::Suspended | Input::Lost => connected = false,
                Input::Claimed(t) | Input::Settled(Some(t)) => acknowledged.push(*t),
                _ => {}
            }
            let doubt = matches!(input, Input::Suspended | Input::Lost | Input::Fenced);
            let mut out = Vec::new();
            election.step(input, &mut out);
            for effect in &out {
                match effect {
                    Effect::Lead(t) => {
                        prop_assert!(connected && acknowledged.contains(t) && t.epoch.0 >= led);
                        led = t.epoch.0;
                        leading = true;
                    }
                    Effect::Hold => leading = false,
                    Effect::Drop => connected = false,
                    _ => prop_assert!(connected, "{:?} while not connected", effect),
                }
            }
            prop_assert!(!(doubt && leading));
        }
    }
}
