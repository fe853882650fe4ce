//! Tests of relayed agents: a collector that does not hear an agent takes the word of one that does.

use super::{
    tests::{SILENT, World, agent, boot, greeting, id, report},
    *,
};
use crate::{
    ids::{Handle, Seq},
    status::State,
};
use proptest::prelude::*;

const ZERO: Duration = Duration::ZERO;

fn relayed(n: u64) -> AgentInfo {
    AgentInfo {
        via: "b".to_owned(),
        ..greeting(agent(), n)
    }
}

fn beat() -> Message {
    Message::Heartbeat(vec![(Handle(1), ZERO)], WallMs(0))
}

fn snapshot(w: &World) -> AgentSnapshot {
    w.fleet.agent_snapshot(w.now, &agent()).unwrap()
}

/// Passes a snapshot on, as the link between collectors does.
fn pass_on(snapshot: AgentSnapshot, to: &mut World, stream: u64) {
    let greeting = AgentInfo {
        via: "b".to_owned(),
        ..snapshot.greeting
    };
    let age = snapshot.heard_age;
    to.step(Input::RelayBegins(
        stream,
        Box::new(greeting),
        age,
        snapshot.heartbeat_age,
    ));
    for (seq, reports) in snapshot.reports {
        to.step(Input::Relayed(
            stream,
            seq,
            Message::Snapshot(reports, false),
            age,
        ));
    }
    if let Some(seq) = snapshot.complete {
        to.step(Input::Relayed(
            stream,
            seq,
            Message::Snapshot(Vec::new(), true),
            age,
        ));
    }
}

#[test]
fn a_relayed_agent_is_heard_like_any_other_and_shows_by_which_path() {
    let (mut here, there) = (World::new(), World::with_snapshot(3, &[1, 2]));
    pass_on(snapshot(&there), &mut here, 7);
    assert_eq!((here.reason(1), here.reason(2)), (Reason::Ok, Reason::Ok));
    let known = here.fleet.agents().get(&agent()).unwrap();
    assert_eq!(known.greeting.as_ref().unwrap().via, "b");
    assert!(known.complete);
    // Heartbeats keep it alive.
    for seq in 4..12 {
        here.pass(Duration::from_secs(1));
        here.step(Input::Relayed(7, Seq(seq), beat(), ZERO));
    }
    assert_eq!(here.reason(1), Reason::Ok);
    here.pass(SILENT);
    assert_eq!(here.reason(1), Reason::AgentSilent);
}

#[test]
fn an_agent_that_nobody_hears_is_silent_as_soon_as_without_relaying() {
    let (mut here, mut there) = (World::with_snapshot(1, &[1]), World::with_snapshot(1, &[1]));
    let age = SILENT / 2;
    here.pass(age);
    there.pass(age);
    pass_on(snapshot(&there), &mut here, 7);
    here.pass(SILENT - age - Duration::from_millis(1));
    assert_eq!(here.reason(1), Reason::Ok);
    here.pass(Duration::from_millis(1));
    assert_eq!(here.reason(1), Reason::AgentSilent);
    // And what is older than the silence does not end it.
    here.out.clear();
    let report = Message::Changes(vec![report(1, Reason::Ok)]);
    here.step(Input::Relayed(7, Seq(2), report, SILENT));
    assert_eq!(here.reason(1), Reason::AgentSilent);
    assert!(
        !here.out.iter().any(|effect| matches!(effect, Effect::Changed(_))),
        "not for a moment"
    );
    here.step(Input::Relayed(7, Seq(3), beat(), ZERO));
    assert_eq!(here.reason(1), Reason::Ok);
}

#[test]
fn the_age_of_a_probe_counts_once() {
    let mut there = World::with_snapshot(1, &[1]);
    // The probe was a second old when the last message came, and that is half a second ago.
    there.pass(Duration::from_secs(1));
    there.message(1, 2, Message::Changes(Vec::new()));
    there.pass(Duration::from_millis(500));
    let known = snapshot(&there);
    assert_eq!(known.heard_age, Duration::from_millis(500));
    let report = known.reports.values().flatten().next().unwrap();
    assert_eq!(report.probe_age, Some(Duration::from_secs(1)));
}

#[test]
fn the_newest_report_wins_by_whichever_path_it_comes() {
    let (mut here, mut there) = (World::with_snapshot(1, &[1, 2]), World::with_snapshot(2, &[1, 2]));
    // Sequence 3 went here only, 4 there only.
    here.message(1, 3, Message::Changes(vec![report(1, Reason::Loading)]));
    there.message(1, 4, Message::Changes(vec![report(2, Reason::Loading)]));
    pass_on(snapshot(&there), &mut here, 7);
    assert_eq!(
        (here.reason(1), here.reason(2)),
        (Reason::Loading, Reason::Loading)
    );
    // A duplicate by the other path changes nothing.
    here.message(1, 4, Message::Changes(vec![report(2, Reason::Ok)]));
    assert_eq!(here.reason(2), Reason::Loading);
}

#[test]
fn what_the_agent_has_no_more_is_gone_here_too() {
    let (mut here, there) = (World::with_snapshot(1, &[1, 2]), World::with_snapshot(5, &[1]));
    pass_on(snapshot(&there), &mut here, 7);
    assert!(here.fleet.instance(&id(2)).is_none());
    // Reported here since: the other collector does not know it yet.
    let (mut here, there) = (World::with_snapshot(9, &[1, 2]), World::with_snapshot(5, &[1]));
    pass_on(snapshot(&there), &mut here, 7);
    assert_eq!(here.reason(2), Reason::Ok);
}

#[test]
fn an_agent_that_is_telling_everything_anew_loses_nothing() {
    let (mut here, mut there) = (World::with_snapshot(1, &[1, 2]), World::with_snapshot(2, &[1, 2]));
    // It has connected again, and the first of two parts has arrived.
    there.hello(2, 1);
    there.message(2, 4, Message::Snapshot(vec![report(1, Reason::Ok)], false));
    pass_on(snapshot(&there), &mut here, 7);
    here.step(Input::Relayed(
        7,
        Seq(5),
        Message::Snapshot(vec![report(2, Reason::Ok)], true),
        ZERO,
    ));
    assert_eq!((here.reason(1), here.reason(2)), (Reason::Ok, Reason::Ok));
}

#[test]
fn what_is_too_old_when_it_is_relayed_is_not_believed_for_ever() {
    let (mut here, there) = (World::new(), World::with_snapshot(2, &[1]));
    let known = AgentSnapshot {
        heard_age: SILENT * 2,
        heartbeat_age: SILENT * 2,
        ..snapshot(&there)
    };
    pass_on(known.clone(), &mut here, 7);
    assert!(here.fleet.instance(&id(1)).is_none(), "nobody hears the agent");
    // An instance that is known stays as it should.
    let mut here = World::with_snapshot(1, &[1]);
    here.pass(SILENT);
    pass_on(known, &mut here, 7);
    here.pass(Duration::from_secs(1));
    assert_eq!(here.reason(1), Reason::AgentSilent);
}

#[test]
fn its_own_stream_takes_over_again_when_the_relay_ends() {
    let (mut here, there) = (World::with_snapshot(1, &[1]), World::with_snapshot(2, &[1]));
    here.pass(SILENT / 2);
    pass_on(snapshot(&there), &mut here, 7);
    // The path is whole again; the connection had never ended.
    here.message(1, 4, beat());
    here.step(Input::Bye(7));
    let known = here.fleet.agents().get(&agent()).unwrap();
    assert_eq!(known.greeting.as_ref().unwrap().via, "");
    assert_eq!(known.stream, Some(1));
    here.step(Input::Bye(1));
    assert_eq!(here.fleet.agents().get(&agent()).unwrap().stream, None);
}

#[test]
fn a_relay_that_was_kept_takes_over_when_the_own_stream_ends_again() {
    let (mut here, there) = (World::new(), World::with_snapshot(2, &[1]));
    pass_on(snapshot(&there), &mut here, 7);
    here.hello(8, 1);
    let via = |w: &World| {
        w.fleet
            .agents()
            .get(&agent())
            .unwrap()
            .greeting
            .clone()
            .unwrap()
            .via
    };
    assert_eq!(via(&here), "");
    here.step(Input::Bye(8));
    assert_eq!(via(&here), "b");
    here.step(Input::Relayed(7, Seq(5), beat(), ZERO));
    assert_eq!(here.reason(1), Reason::Ok);
}

#[test]
fn a_restart_that_only_the_other_collector_noticed_comes_through() {
    let mut here = World::with_snapshot(1, &[1, 2]);
    let mut there = World::new();
    there.hello(1, 2);
    there.message(1, 1, Message::Snapshot(vec![report(1, Reason::Loading)], true));
    here.pass(SILENT - Duration::from_millis(500));
    pass_on(snapshot(&there), &mut here, 7);
    assert_eq!(here.reason(1), Reason::Loading);
    assert!(
        here.fleet.instance(&id(2)).is_none(),
        "the new boot has it no more"
    );
    // The former boot never returns.
    here.message(1, 9, Message::Changes(vec![report(1, Reason::Ok)]));
    assert_eq!(here.reason(1), Reason::Loading);
}

#[test]
fn a_living_agent_keeps_its_id_against_a_relayed_one() {
    let mut here = World::with_snapshot(1, &[1]);
    here.step(Input::RelayBegins(7, Box::new(relayed(2)), ZERO, ZERO));
    assert!(
        here.out
            .iter()
            .any(|effect| matches!(effect, Effect::InUse(7, _)))
    );
    assert_eq!(here.fleet.agents().get(&agent()).unwrap().rival, None);
    assert_eq!(
        here.fleet
            .agents()
            .get(&agent())
            .unwrap()
            .order
            .as_ref()
            .unwrap()
            .boot(),
        &boot(1)
    );
}

#[test]
fn what_is_heard_by_way_of_another_is_not_passed_on() {
    let (mut here, there) = (World::new(), World::with_snapshot(3, &[1]));
    pass_on(snapshot(&there), &mut here, 7);
    assert_eq!(here.fleet.agent_snapshot(here.now, &agent()), None);
    let mut silent = World::with_snapshot(1, &[1]);
    silent.pass(SILENT);
    assert_eq!(silent.fleet.agent_snapshot(silent.now, &agent()), None);
}

/// One message of an agent with two instances, to whom it goes directly, and after which time it is relayed.
fn story() -> impl Strategy<Value = Vec<(u32, bool, bool, bool)>> {
    proptest::collection::vec((1..3u32, any::<bool>(), any::<bool>(), any::<bool>()), 1..40)
}

proptest! {
    /// Whatever reaches whom, by which path and how often: who has heard all messages by any path holds the newest state of
    /// each instance, and no state ever goes back.
    #[test]
    fn relayed_and_direct_messages_agree(messages in story()) {
        let (mut here, mut there) = (World::with_snapshot(1, &[1, 2]), World::with_snapshot(2, &[1, 2]));
        here.step(Input::RelayBegins(7, Box::new(relayed(1)), ZERO, ZERO));
        let mut newest = [State::Up; 2];
        for (seq, (n, down, to_here, twice)) in (3u64..).zip(messages) {
            let reason = if down { Reason::ConnectionRefused } else { Reason::Ok };
            newest[n as usize - 1] = reason.state();
            let message = || Message::Changes(vec![report(n, reason)]);
            if to_here {
                here.message(1, seq, message());
            }
            there.message(1, seq, message());
            if !to_here || twice {
                here.step(Input::Relayed(7, Seq(seq), message(), ZERO));
            }
            for world in [&here, &there] {
                let states = [1, 2].map(|n| world.reason(n).state());
                prop_assert_eq!(states, newest);
            }
        }
        let before = [1, 2].map(|n| here.reason(n));
        pass_on(snapshot(&there), &mut here, 8);
        prop_assert_eq!([1, 2].map(|n| here.reason(n)), before);
    }
}
