//! What a snapshot of a prober tells: its last probes and decisions, and what is due.

use proptest::prelude::*;

use super::{
    properties::{Event as Happening, event},
    *,
};
use crate::probe::trail::{Answer, DECISIONS_MAX, Decision, Event, PROBES_MAX, TEXT_BYTES_MAX, Trail};

fn trail(bench: &Bench) -> Trail {
    bench.prober.snapshot().trail
}

/// The events of the trail, the oldest first.
fn events(bench: &Bench) -> Vec<Event> {
    trail(bench).decisions().iter().map(|one| one.event).collect()
}

fn verdicts(trail: &Trail) -> Vec<(Reason, Reason)> {
    let verdict = |decision: &Decision| match decision.event {
        Event::Verdict { from, to } => Some((from, to)),
        _ => None,
    };
    trail.decisions().iter().filter_map(verdict).collect()
}

#[test]
fn a_probe_that_is_answered_is_in_the_trail_with_its_latency() {
    let mut bench = Bench::served();
    bench.run(bench.prober.next_deadline(), |_| {});
    let sent = bench.now;
    assert_eq!(bench.prober.outlook().awaited[0], Some((Command::Ping, sent)));
    bench.now = bench.now + 7 * MS;
    bench.answer();
    assert_eq!(bench.prober.outlook().awaited, [None; 4]);
    let trail = trail(&bench);
    let last = trail.probes().next_back().unwrap();
    assert_eq!(
        (last.at, last.latency(), last.answer),
        (bench.now, 7 * MS, Answer::Ping(Reason::Ok))
    );
    // INFO was answered on the new connection.
    assert!(trail.probes().any(|probe| probe.answer == Answer::Info(true)));
}

#[test]
fn a_death_leaves_what_was_seen_and_the_change_of_the_verdict() {
    let mut bench = Bench::served();
    bench.close();
    bench.refuse();
    // A long outage does not push out how it began.
    bench.run(bench.now + 600_000 * MS, Bench::refuse);
    let (from, to) = (Reason::Ok, Reason::ConnectionRefused);
    let events = events(&bench);
    assert_eq!(
        events[events.len() - 4..],
        [
            Event::Closed,
            Event::ConnectFailed,
            Event::Verdict { from, to },
            Event::ConnectFailed
        ]
    );
    let trail = trail(&bench);
    let [.., seen, verdict, again] = trail.decisions() else {
        panic!("{trail:?}");
    };
    assert_eq!(&*verdict.text, "connection refused: nothing listens");
    assert_eq!((seen.times, seen.last), (1, verdict.first));
    assert_eq!(again.times, trail.totals().connect_failures - 1);
    assert!(again.times > 1_000 && again.first < again.last, "{again:?}");
}

#[test]
fn alternating_events_are_counted_and_not_repeated() {
    let mut bench = Bench::served();
    let before = events(&bench).len();
    for _ in 0..100 {
        bench.close();
        bench.run(bench.now + 600 * MS, Bench::serve);
    }
    assert_eq!(bench.reason(), Reason::Ok);
    let trail = trail(&bench);
    let new = trail.decisions().get(before..).unwrap();
    let new: Vec<_> = new.iter().map(|one| (one.event, one.times)).collect();
    assert_eq!(new, [(Event::Closed, 100), (Event::Connected, 100)]);
    assert_eq!(trail.totals().closed, 100);
}

#[test]
fn silence_leaves_each_step_before_the_verdict() {
    let mut bench = Bench::served();
    let last = bench.last_valid;
    bench.run(last + 1_000 * MS, |_| {});
    bench.input(Input::ProcessChecked(ProcessState::Stopped));
    let due = bench.prober.outlook().due;
    assert_eq!(
        (due.second_connection, due.silence_verdict),
        (Some(last + 2_000 * MS), Some(last + 3_000 * MS))
    );
    bench.run(last + 2_500 * MS, |_| {});
    bench.second(Err(ConnectFailure::TimedOut));
    bench.run(last + 3_000 * MS, |_| {});
    let (from, to) = (Reason::Ok, Reason::ReplyTimeout);
    let events = events(&bench);
    assert_eq!(
        events[events.len() - 4..],
        [
            Event::ProcessChecked(ProcessState::Stopped),
            Event::SecondAsked,
            Event::SecondFailed,
            Event::Verdict { from, to }
        ]
    );
    assert_eq!(bench.prober.outlook().due.silence_verdict, None);
}

#[test]
fn restarts_roles_pauses_and_replaced_connections_are_told() {
    let mut bench = Bench::served();
    assert!(events(&bench).contains(&Event::Role {
        from: Role::Unknown,
        to: Role::Master
    }));
    bench.input(Input::Closed("EOF".into()));
    bench.accept();
    bench.pending.clear();
    bench.input(Input::Replied(Reply::Text("PONG".into())));
    bench.input(Input::Replied(Reply::Text("run_id:r2\r\nrole:slave\r\n".into())));
    bench.now = bench.now + 20_000 * MS;
    bench.input(Input::Tick);
    bench.run(bench.now + 2_200 * MS, |_| {});
    bench.second(Ok(pong()));
    let events = events(&bench);
    for event in [
        Event::Restarted,
        Event::Role {
            from: Role::Master,
            to: Role::Replica,
        },
        Event::Paused,
        Event::SecondAnswered(Reason::Ok),
        Event::SilentReplaced,
    ] {
        assert!(events.contains(&event), "{event}: {events:?}");
    }
}

#[test]
fn a_snapshot_shares_the_decisions() {
    let bench = Bench::served();
    let (one, other) = (trail(&bench), trail(&bench));
    assert!(std::ptr::eq(one.decisions(), other.decisions()));
}

fn any_event() -> impl Strategy<Value = Result<Happening, String>> {
    prop_oneof![
        4 => event().prop_map(Ok),
        1 => "[a-z\u{e4}\u{202e}]{0,200}".prop_map(Err),
    ]
}

proptest! {
    /// The bounds hold, times never go back, and each change of the verdict is in the trail, the last one for good,
    /// whatever happens; the outlook agrees with the next deadline.
    #[test]
    fn bounds_hold_and_verdicts_stay(happens in proptest::collection::vec(any_event(), 0..120)) {
        let mut bench = Bench::new();
        for one in happens {
            let before = bench.prober.verdict().reason;
            let changes = bench.prober.snapshot().trail.totals().verdict_changes;
            match one {
                Ok(event) => event.apply(&mut bench),
                // Texts that differ are not counted together.
                Err(text) => bench.input(Input::Closed(text)),
            }
            let (snapshot, after) = (bench.prober.snapshot(), bench.prober.verdict().reason);
            let trail = &snapshot.trail;
            prop_assert!(trail.decisions().len() <= DECISIONS_MAX);
            prop_assert!(trail.probes().count() <= PROBES_MAX);
            prop_assert!(trail.decisions().iter().all(|one| one.text.len() <= TEXT_BYTES_MAX && one.first <= one.last));
            prop_assert!(trail.decisions().is_sorted_by_key(|one| one.last));
            prop_assert!(trail.probes().is_sorted_by_key(|one| one.at));
            if before != after {
                prop_assert!(trail.totals().verdict_changes > changes);
            }
            if trail.totals().verdict_changes > 0 {
                prop_assert_eq!(verdicts(trail).last().map(|(_, to)| *to), Some(after));
            }
            let due = snapshot.outlook.due;
            let dues = [due.connect, due.give_up, due.ping, due.process_check, due.second_connection, due.silence_verdict];
            let earliest = dues.into_iter().flatten().min();
            // An attempt to connect is also interrupted at the end of each round.
            let connecting = snapshot.outlook.link == LinkState::Connecting;
            prop_assert!(connecting || earliest.is_some_and(|at| at <= snapshot.outlook.next_step));
        }
    }

    /// The trail keeps the newest answers in their order.
    #[test]
    fn the_newest_answers_are_kept(count in 0u64..40) {
        let mut trail = Trail::default();
        for n in 0..count {
            trail.answered(Mono(n), Duration::from_micros(n), Answer::Ping(Reason::Ok));
        }
        let kept: Vec<_> = trail.probes().map(|probe| probe.at.0).collect();
        prop_assert_eq!(kept, (count.saturating_sub(PROBES_MAX as u64)..count).collect::<Vec<_>>());
        prop_assert_eq!(trail.totals().answers, count);
    }
}
