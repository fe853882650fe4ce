//! Tests of what a collector keeps of the statuses that its predecessor published.

use super::{
    tests::{SILENT, World, agent, boot, published, report},
    *,
};
use crate::ids::{Handle, Seq};

#[test]
fn a_take_over_keeps_what_only_the_former_leader_heard() {
    let mut w = World::new();
    w.step(Input::Adopt(
        vec![(published(1, Reason::Ok), Origin::default())],
        true,
    ));
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
    w.step(Input::Adopt(
        vec![(published(1, Reason::ConnectionRefused), Origin::default())],
        true,
    ));
    assert_eq!(w.reason(1), Reason::ConnectionRefused);
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
    w.step(Input::Adopt(
        vec![(published(1, Reason::AgentSilent), Origin::default())],
        true,
    ));
    w.hello(1, 1);
    w.message(1, 1, Message::Snapshot(vec![report(1, Reason::Ok)], true));
    assert_eq!(w.reason(1), Reason::Ok);
}

#[test]
fn a_take_over_gives_every_instance_of_a_silent_agent_its_grace() {
    let mut w = World::new();
    w.hello(1, 1);
    w.message(
        1,
        1,
        Message::Snapshot(vec![report(1, Reason::Ok), report(2, Reason::Ok)], true),
    );
    w.pass(SILENT * 2);
    let statuses = [1, 2].map(|n| {
        (
            published(n, Reason::Loading),
            Origin {
                boot: boot(1).tag(),
                seq: Seq(2),
            },
        )
    });
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
    let mut w = World::new();
    w.hello(1, 1);
    let both = vec![report(1, Reason::Ok), report(2, Reason::Ok)];
    w.message(1, 3, Message::Snapshot(both, true));
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
        let origin = Origin {
            boot: boot(1).tag(),
            seq: Seq(seq),
        };
        let statuses = [1, 2, 3].map(|n| (published(n, Reason::Ok), origin));
        w.step(Input::Adopt(statuses.into(), true));
        for n in 1..=3 {
            assert_eq!(w.reason(n), Reason::AgentSilent, "{n}, message {seq}");
        }
    }
    assert!(w.fleet.agents().get(&agent()).unwrap().silent);
    w.pass(SILENT * 2);
    assert_eq!(w.reason(1), Reason::AgentSilent);
}
