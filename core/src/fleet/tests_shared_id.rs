//! Tests of two agents that claim one id.

use super::{
    tests::{SILENT, World, agent, boot, report},
    *,
};
use crate::ids::{Handle, Seq};
use proptest::prelude::*;

fn beat(w: &mut World, stream: u64, seq: u64) {
    let beat = Message::Heartbeat(vec![(Handle(1), Duration::ZERO)], WallMs(0));
    w.step(Input::Message(stream, Seq(seq), beat));
}

/// An agent that reports over stream 1 with boot 1.
fn holder() -> World {
    World::with_snapshot(1, &[1])
}

/// Whether the effects say that this stream was refused.
fn refused(w: &mut World, stream: u64) -> bool {
    let out = std::mem::take(&mut w.out);
    out.iter()
        .any(|effect| matches!(effect, Effect::InUse(refused, _) if *refused == stream))
}

#[test]
fn who_is_alive_keeps_the_id_until_its_stream_ends() {
    let mut w = holder();
    w.hello(2, 2);
    assert!(refused(&mut w, 2));
    w.hello(3, 2);
    assert!(refused(&mut w, 3));
    beat(&mut w, 1, 2);
    assert_eq!(w.reason(1), Reason::Ok);
    let rival = w.fleet.agents().get(&agent()).unwrap().rival.clone().unwrap();
    assert_eq!((rival.times, rival.is_present(w.now)), (2, true));

    // Its further messages have no effect.
    w.out.clear();
    w.message(
        3,
        1,
        Message::Snapshot(vec![report(1, Reason::ConnectionRefused)], true),
    );
    assert_eq!(w.out, [Effect::Superseded(3)]);
    assert_eq!(w.reason(1), Reason::Ok);

    w.step(Input::Bye(1));
    w.hello(4, 2);
    assert!(!refused(&mut w, 4));
    w.message(
        4,
        1,
        Message::Snapshot(vec![report(1, Reason::ConnectionRefused)], true),
    );
    assert_eq!(w.reason(1), Reason::ConnectionRefused);
    assert_eq!(w.fleet.agents().get(&agent()).unwrap().rival, None);
}

#[test]
fn the_successor_of_a_lost_host_gets_the_id_before_its_instances_are_silent() {
    let mut w = holder();
    let (mut stream, begun) = (2, w.now);
    loop {
        w.hello(stream, 2);
        if !refused(&mut w, stream) {
            break;
        }
        stream += 1;
        w.pass(Duration::from_millis(100));
    }
    assert!(w.now.since(begun) <= SILENT * 2 / 3 && stream > 2);
    w.message(stream, 1, Message::Snapshot(vec![report(1, Reason::Ok)], true));
    w.pass(SILENT * 9 / 10);
    assert_eq!(w.reason(1), Reason::Ok);

    // The lost agent comes back: its boot is superseded, and with another one it must wait.
    w.out.clear();
    beat(&mut w, 1, 2);
    assert!(w.out.contains(&Effect::Superseded(1)));
    beat(&mut w, stream, 2);
    w.hello(90, 1);
    assert!(w.out.contains(&Effect::Superseded(90)));
    w.hello(91, 3);
    assert!(refused(&mut w, 91));
}

proptest! {
    /// While one agent sends its heartbeats, no number of claims at any time takes its id or touches its instances.
    #[test]
    fn claims_change_nothing_while_the_holder_is_heard(
        claims in proptest::collection::vec((0u64..1_900, 2u64..5), 1..40)
    ) {
        let mut w = holder();
        for (n, (gap, claimant)) in (0u64..).zip(claims) {
            w.pass(Duration::from_millis(gap));
            w.hello(100 + n, claimant);
            prop_assert!(refused(&mut w, 100 + n));
            w.message(100 + n, 1, Message::Snapshot(vec![report(1, Reason::ConnectionRefused)], true));
            beat(&mut w, 1, n + 2);
            prop_assert_eq!(w.reason(1), Reason::Ok);
            prop_assert_eq!(w.fleet.agents().get(&agent()).unwrap().order.as_ref().unwrap().boot(), &boot(1));
        }
    }
}
