//! Tests of what a collector keeps of the statuses that its predecessor published.

use super::{
    tests::{SILENT, World, after_another_leader, agent, id, origin, published, report},
    *,
};
use crate::ids::Handle;
use proptest::prelude::*;

#[test]
fn a_take_over_keeps_what_only_the_former_leader_heard() {
    let mut w = World::new();
    w.adopt(1, Reason::Ok, Origin::default());
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
    w.adopt(1, Reason::ConnectionRefused, Origin::default());
    assert_eq!(w.reason(1), Reason::ConnectionRefused);
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
    w.adopt(1, Reason::AgentSilent, Origin::default());
    w.hello(1, 1);
    w.message(1, 1, Message::Snapshot(vec![report(1, Reason::Ok)], true));
    assert_eq!(w.reason(1), Reason::Ok);
}

#[test]
fn a_take_over_gives_every_instance_of_a_silent_agent_its_grace() {
    let mut w = World::with_snapshot(1, &[1, 2]);
    w.pass(SILENT * 2);
    let statuses = [1, 2].map(|n| (published(n, Reason::Loading), origin(1, 2)));
    w.step(after_another_leader(statuses.into()));
    assert_eq!((w.reason(1), w.reason(2)), (Reason::Loading, Reason::Loading));
    w.pass(SILENT);
    assert_eq!(
        (w.reason(1), w.reason(2)),
        (Reason::AgentSilent, Reason::AgentSilent)
    );
}

/// The agent and the leader died together, and this follower had marked its instances as silent before it claimed.
#[test]
fn a_take_over_does_not_bring_the_dead_back() {
    let mut w = World::with_snapshot(3, &[1, 2]);
    w.message(
        1,
        9,
        Message::Heartbeat(
            vec![(Handle(1), Duration::ZERO), (Handle(2), Duration::ZERO)],
            WallMs(0),
        ),
    );
    w.step(Input::Bye(1));
    w.pass(SILENT);
    assert_eq!(
        (w.reason(1), w.reason(2)),
        (Reason::AgentSilent, Reason::AgentSilent)
    );
    w.out.clear();
    // The leader's last published statuses, and one instance that this collector never heard of.
    for seq in [3, 8] {
        let statuses = [1, 2, 3].map(|n| (published(n, Reason::Ok), origin(1, seq)));
        w.step(after_another_leader(statuses.into()));
        for n in 1..=3 {
            assert_eq!(w.reason(n), Reason::AgentSilent, "{n}, message {seq}");
        }
    }
    assert!(w.fleet.agents().get(&agent()).unwrap().silent);
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
}

/// The instances of an agent come in several parts, one for each bucket.
#[test]
fn the_parts_of_an_adoption_treat_a_silent_agent_alike() {
    let mut w = World::with_snapshot(1, &[1, 2]);
    w.pass(SILENT * 2);
    for n in [1, 2] {
        w.step(Input::Adopt(Adoption {
            statuses: vec![(published(n, Reason::Loading), origin(1, 2))],
            grace: true,
            number: 7,
        }));
    }
    assert_eq!((w.reason(1), w.reason(2)), (Reason::Loading, Reason::Loading));
}

/// A follower that has just started knows the agent from ZooKeeper only, and the leader that heard it dies.
#[test]
fn an_agent_that_only_the_former_leader_heard_gets_its_grace_although_nothing_has_changed() {
    let mut w = World::new();
    w.adopt(1, Reason::Ok, origin(1, 4));
    w.pass(SILENT);
    assert_eq!(w.reason(1), Reason::AgentSilent);
    let (instance, same) = (w.fleet.instance(&id(1)).unwrap(), published(1, Reason::Ok));
    assert!(is_news(
        (&instance.status, instance.origin, false),
        (&same, origin(1, 4))
    ));
    w.adopt(1, Reason::Ok, origin(1, 4));
    assert_eq!(w.reason(1), Reason::Ok);
}

/// The former leader heard another boot of an agent that is heard here: what is heard counts for each of its instances.
#[test]
fn grace_makes_no_agent_unheard() {
    let mut w = World::with_snapshot(1, &[1, 2]);
    let statuses = [1, 2].map(|n| (published(n, Reason::Loading), origin(9, 50)));
    w.step(after_another_leader(statuses.into()));
    assert_eq!((w.reason(1), w.reason(2)), (Reason::Ok, Reason::Ok));
}

#[test]
fn agents_whose_instances_are_adopted_are_told_in_parts() {
    let mut w = World::new();
    let statuses = |reason| {
        (0..300).map(move |n| {
            let mut status = Status::clone(&published(n, reason));
            status.agent = AgentId::new(&format!("db{n}")).unwrap();
            (Arc::new(status), Origin::default())
        })
    };
    w.step(after_another_leader(statuses(Reason::Ok).collect()));
    w.out.clear();
    // Another instance of each of them: they are known, and not heard.
    let more = statuses(Reason::Ok).zip(1_000..).map(|((status, origin), n)| {
        let mut status = Status::clone(&status);
        status.identity.id = InstanceId::new(&format!("db01:{n}")).unwrap();
        (Arc::new(status), origin)
    });
    w.step(after_another_leader(more.collect()));
    let told = |w: &World| {
        w.out
            .iter()
            .filter(|effect| matches!(effect, Effect::Agent(_)))
            .count()
    };
    assert_eq!(told(&w), 0, "more may be adopted");
    let start = w.now;
    w.now = w.fleet.next_deadline();
    assert_eq!(w.now, start + TOLD_AFTER);
    w.step(Input::Tick);
    assert_eq!(told(&w), AGENTS_TOLD_MAX);
    assert!(w.fleet.next_deadline() <= w.now, "at once");
    for _ in 0..300usize.div_ceil(AGENTS_TOLD_MAX) {
        w.step(Input::Tick);
    }
    assert_eq!(told(&w), 300);
    assert!(w.fleet.next_deadline() > w.now);
}

proptest! {
    /// What is no news changes nothing when it is adopted.
    #[test]
    fn what_is_no_news_changes_nothing(
        (seq, published_seq, boot) in (1u64..4, 0u64..6, 0u64..3),
        (reason, other) in (0usize..3, 0usize..3),
        since in 0u64..3,
        (silent, gone, is_heard) in any::<(bool, bool, bool)>(),
    ) {
        let reasons = [Reason::Ok, Reason::Loading, Reason::AgentSilent];
        let mut w = World::new();
        if is_heard {
            w.hello(1, 1);
            let mut known = report(1, reasons[reason % 2]);
            known.verdict.since = WallMs(1);
            w.message(1, seq, Message::Snapshot(vec![known], true));
            if gone { w.step(Input::Bye(1)); }
        } else {
            w.adopt(1, reasons[reason % 2], origin(1, seq));
            w.pass(SILENT / 2);
        }
        if silent { w.pass(SILENT * 2); }
        let mut found = Status::clone(&published(1, reasons[other]));
        found.verdict.since = WallMs(since);
        let from = if boot == 0 { Origin::default() } else { origin(boot, published_seq) };
        let instance = w.fleet.instance(&id(1)).unwrap();
        let is_agent_known = w.fleet.agents().get(&agent()).unwrap().greeting.is_some();
        let known = (&*instance.status, instance.origin, is_agent_known);
        let is_news = is_news(known, (&found, from));
        w.step(Input::Tick);
        let before = (w.fleet.instance(&id(1)).cloned(), w.fleet.agents().get(&agent()).map(|a| (a.heard, a.silent)));
        w.step(after_another_leader(vec![(Arc::new(found), from)]));
        let after = (w.fleet.instance(&id(1)).cloned(), w.fleet.agents().get(&agent()).map(|a| (a.heard, a.silent)));
        prop_assert!(is_news || before == after, "{before:?} -> {after:?}");
    }
}
