//! Tests of what a collector keeps of the statuses that its predecessor published.

use super::{
    tests::{SILENT, World, agent, origin, published, report},
    *,
};
use crate::ids::Handle;

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
    w.step(Input::Adopt(statuses.into(), true));
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
        w.step(Input::Adopt(statuses.into(), true));
        for n in 1..=3 {
            assert_eq!(w.reason(n), Reason::AgentSilent, "{n}, message {seq}");
        }
    }
    assert!(w.fleet.agents().get(&agent()).unwrap().silent);
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
}
