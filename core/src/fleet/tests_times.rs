//! Tests of the time since which a state lasts, over restarts and with clocks that are off.

use super::{
    tests::{SILENT, World, after_another_leader, agent, greeting, id, origin, published, report},
    *,
};
use crate::ids::Handle;

fn told(since: u64, bound: bool, run_id: &str, restarts: u32) -> Report {
    let mut report = report(1, Reason::Ok);
    report.verdict.since = WallMs(since);
    report.verdict.since_is_bound = bound;
    report.verdict.run_id = crate::status::run_id::RunId::new(run_id);
    report.verdict.restarts = restarts;
    report
}

/// `since` and the number of restarts of the status in force.
fn remembered(w: &World) -> (u64, u32) {
    let status = &w.fleet.instance(&id(1)).unwrap().status;
    (status.verdict.since.0, status.verdict.restarts)
}

/// The server and its state continue while its agent is restarted repeatedly.
#[test]
fn a_restart_of_the_agent_moves_no_time_and_is_no_change() {
    let mut w = World::new();
    w.hello(1, 1);
    w.message(1, 1, Message::Snapshot(vec![told(100, false, "r1", 2)], true));
    assert_eq!(remembered(&w), (100, 2));
    for n in 2..5 {
        w.step(Input::Bye(n - 1));
        w.hello(n, n);
        let blank = Report {
            probe_age: None,
            ..report(1, Reason::NotProbed)
        };
        w.message(n, 1, Message::Snapshot(vec![blank], true));
        w.out.clear();
        w.message(n, 2, Message::Changes(vec![told(500 * n, true, "r1", 0)]));
        w.message(n, 3, Message::Changes(vec![told(500 * n, true, "r1", 0)]));
        assert_eq!(remembered(&w), (100, 2));
        assert!(!w.out.contains(&Effect::Changed(id(1))), "{:?}", w.out);
    }
    // The count of the server's restarts continues, including those while the agent was away.
    w.message(4, 4, Message::Changes(vec![told(2_000, true, "r2", 1)]));
    w.message(4, 5, Message::Changes(vec![told(2_000, true, "r4", 2)]));
    assert_eq!(remembered(&w), (100, 4));
    w.step(Input::Bye(4));
    w.hello(5, 5);
    w.message(5, 1, Message::Snapshot(vec![told(9_000, true, "r5", 0)], true));
    assert_eq!(remembered(&w), (100, 5));
    // A change that the agent saw itself has its own time.
    w.message(5, 2, Message::Changes(vec![told(9_500, false, "r5", 0)]));
    assert_eq!(remembered(&w), (9_500, 5));
}

/// A restarted collector learns from ZooKeeper since when a state lasts, which the agent's new boot does not know
/// either.
#[test]
fn what_is_published_is_remembered() {
    let mut w = World::new();
    w.hello(1, 2);
    w.message(1, 1, Message::Snapshot(vec![told(500, true, "r1", 0)], true));
    w.adopt(1, Reason::Ok, origin(1, 7));
    assert_eq!(remembered(&w).0, 1);
    w.message(1, 2, Message::Changes(vec![told(500, true, "r1", 0)]));
    assert_eq!(remembered(&w).0, 1);
    // Another state is not an earlier beginning of this one.
    w.message(1, 3, Message::Changes(vec![report(1, Reason::Loading)]));
    w.adopt(1, Reason::Ok, origin(1, 7));
    assert_eq!(w.reason(1), Reason::Loading);
}

#[test]
fn times_of_an_agent_whose_clock_is_off_are_corrected() {
    // The collector's clock says 7 in these tests; this one is an hour ahead.
    let hour = 3_600_000;
    let mut w = World::new();
    let greeting = AgentInfo {
        via: String::new(),
        clock: WallMs(hour + 7),
        ..greeting(agent(), 1)
    };
    w.step(Input::Hello(1, greeting));
    w.message(
        1,
        1,
        Message::Snapshot(vec![told(hour + 3, false, "r1", 0)], true),
    );
    assert_eq!(remembered(&w).0, 3);
    assert_eq!(
        w.fleet.agents().get(&agent()).unwrap().clock.ahead_ms(),
        3_600_000
    );
    // The agent's clock is corrected: the same moment, reported by the same boot, stays as it was.
    w.message(
        1,
        2,
        Message::Heartbeat(vec![(Handle(1), Duration::ZERO)], WallMs(8)),
    );
    assert_eq!(w.fleet.agents().get(&agent()).unwrap().clock.ahead_ms(), 0);
    assert_eq!(w.reason(1), Reason::Ok);
}

/// The shell shows handles and limits by a copy that it makes anew when a version moves.
#[test]
fn a_new_handle_or_limit_moves_a_version_and_a_heartbeat_does_not() {
    let mut w = World::with_snapshot(1, &[1]);
    let versions = |w: &World| {
        let agent = w.fleet.agents().get(&agent()).unwrap();
        (agent.version, agent.members.version())
    };
    let mut seq = 1;
    let mut send = |w: &mut World, message| {
        seq += 1;
        let before = versions(w);
        w.message(1, seq, message);
        versions(w) != before
    };
    assert!(!send(&mut w, Message::Changes(vec![report(1, Reason::Loading)])));
    assert!(!send(
        &mut w,
        Message::Heartbeat(vec![(Handle(1), Duration::ZERO)], WallMs(0))
    ));
    let mut moved = report(1, Reason::Ok);
    moved.handle = Handle(77);
    assert!(send(&mut w, Message::Changes(vec![moved.clone()])));
    assert!(!send(&mut w, Message::Changes(vec![moved.clone()])));
    moved.freshness_limit *= 2;
    assert!(send(&mut w, Message::Changes(vec![moved.clone()])));
    assert!(!send(&mut w, Message::Changes(vec![moved])));
    let agent = w.fleet.agents().get(&agent()).unwrap();
    assert_eq!(agent.members.handles(), [Some(Handle(77))]);
}

/// However many agents fall silent at once, one step deals with some of them, and the next one follows at once.
#[test]
fn many_that_fall_silent_at_once_take_several_steps() {
    let mut w = World::new();
    let statuses = (0..5_000).map(|n| {
        let mut status = Status::clone(&published(n, Reason::Ok));
        status.agent = AgentId::new(&format!("db{}", n / 1_000)).unwrap();
        (Arc::new(status), Origin::default())
    });
    w.step(after_another_leader(statuses.collect()));
    while w.fleet.next_deadline() < w.now + Duration::from_millis(1) {
        w.step(Input::Tick);
    }
    let moment = Duration::from_millis(1);
    w.pass(SILENT - moment);
    w.now = w.now + moment;
    let silent = |w: &World| (0..5_000).filter(|n| w.reason(*n) == Reason::AgentSilent).count();
    for expected in [2_000, 4_000, 5_000] {
        assert!(w.fleet.next_deadline() <= w.now);
        w.step(Input::Tick);
        assert_eq!(silent(&w), expected);
    }
}
