//! Tests of the brake on absence.

use super::{
    tests::{SILENT, after_another_leader, greeting, report},
    *,
};
use crate::{
    ids::{Handle, Seq},
    status::{Identity, Stage, Status},
};
use proptest::prelude::*;

const HOLD: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// A fleet of agents with one instance each.
struct Many {
    fleet: Fleet,
    now: Mono,
    seq: u64,
    out: Vec<Effect>,
}

fn name(n: usize) -> AgentId {
    AgentId::new(&format!("db{n:02}")).unwrap()
}

fn id(n: usize) -> InstanceId {
    InstanceId::new(&format!("db{n:02}:1")).unwrap()
}

fn identity(n: usize) -> Identity {
    Identity {
        id: id(n),
        ..report(1, Reason::Ok).identity
    }
}

impl Many {
    fn new(count: usize) -> Self {
        let now = Mono::from_millis(100_000);
        let settings = BrakeSettings {
            min_agents: 3,
            share: 0.5,
            hold: HOLD,
            overdue_after: SILENT / 2,
        };
        let mut many = Self {
            fleet: Fleet::new(now, SILENT).with_brake(settings),
            now,
            seq: 1,
            out: Vec::new(),
        };
        for n in 0..count {
            many.step(Input::Hello(n as u64, greeting(name(n), n as u64)));
            many.report(n, Reason::Ok);
        }
        many
    }

    fn step(&mut self, input: Input) {
        self.fleet.step(self.now, WallMs(7), input, &mut self.out);
    }

    fn report(&mut self, n: usize, reason: Reason) {
        self.seq += 1;
        let message = Message::Snapshot(vec![self.report_of(n, reason)], true);
        self.step(Input::Message(n as u64, Seq(self.seq), message));
    }

    fn report_of(&self, n: usize, reason: Reason) -> Report {
        Report {
            identity: identity(n),
            freshness_limit: HOLD * 10,
            ..report(1, reason)
        }
    }

    /// Time passes in steps as the shell takes them, in which these agents send a heartbeat each second.
    fn pass(&mut self, time: Duration, talking: &[usize]) {
        let end = self.now + time;
        let mut beat = self.now;
        while self.now < end {
            self.now = self
                .fleet
                .next_deadline()
                .min(end)
                .max(self.now + Duration::from_micros(1));
            if self.now >= beat {
                beat = self.now + SECOND;
                for n in talking {
                    self.seq += 1;
                    let beat = Message::Heartbeat(vec![(Handle(1), Duration::ZERO)], WallMs(0));
                    self.step(Input::Message(*n as u64, Seq(self.seq), beat));
                }
            }
            self.step(Input::Tick);
        }
    }

    fn reason(&self, n: usize) -> Reason {
        self.fleet.instance(&id(n)).unwrap().status.verdict.reason
    }

    fn silent(&self, of: std::ops::Range<usize>) -> usize {
        of.filter(|n| self.reason(*n) == Reason::AgentSilent).count()
    }

    fn told(&mut self) -> Option<Option<Held>> {
        let out = std::mem::take(&mut self.out);
        let told = out.contains(&Effect::Held);
        told.then(|| self.fleet.held())
    }
}

#[test]
fn few_silent_agents_are_called_silent_and_many_are_held() {
    let mut many = Many::new(10);
    // Five of ten are no more than half.
    many.pass(SILENT + SECOND, &[5, 6, 7, 8, 9]);
    assert_eq!((many.silent(0..5), many.told()), (5, None));
    // Three of the five that are left are.
    many.pass(SILENT + SECOND, &[8, 9]);
    assert_eq!(many.silent(5..8), 0);
    let held = many.told().flatten().unwrap();
    assert_eq!((held.agents, held.of), (3, 5));
    // What an agent has seen is told at once.
    many.report(8, Reason::ConnectionRefused);
    assert_eq!(many.reason(8), Reason::ConnectionRefused);
}

#[test]
fn two_agents_are_too_few_to_blame_ourselves() {
    let mut many = Many::new(2);
    many.pass(SILENT + SECOND, &[]);
    assert_eq!((many.silent(0..2), many.told()), (2, None));
}

#[test]
fn who_comes_back_is_true_at_once_and_who_does_not_is_silent_soon() {
    let mut many = Many::new(10);
    many.pass(HOLD / 2, &[]);
    assert_eq!(many.silent(0..10), 0);
    assert_eq!(many.told().flatten().unwrap().agents, 10);
    // The switch is back; one agent has died meanwhile.
    many.report(0, Reason::ConnectionRefused);
    assert_eq!(many.reason(0), Reason::ConnectionRefused);
    let back: Vec<_> = (0..9).collect();
    many.pass(SILENT - SECOND, &back);
    assert_eq!(many.reason(9), Reason::Ok, "it has time to come back");
    many.pass(SECOND * 2, &back);
    assert_eq!(many.reason(9), Reason::AgentSilent);
    assert_eq!((many.silent(0..9), many.told()), (0, Some(None)));
}

#[test]
fn what_persists_is_released_slowly_and_in_the_end_completely() {
    let mut many = Many::new(10);
    many.pass(SILENT + HOLD, &[]);
    assert!(many.silent(0..10) <= 1);
    let mut before = many.silent(0..10);
    for part in 1..=5 {
        many.pass(HOLD / 5, &[]);
        let now = many.silent(0..10);
        assert!(now > before && now <= part * 2 + 1, "{part}: {now}");
        before = now;
    }
    assert_eq!(many.silent(0..10), 10);
    many.pass(SILENT * 2, &[]);
    assert_eq!(many.told(), Some(None));
    // And it is ready for the next time.
    let all: Vec<_> = (0..10).collect();
    many.pass(SECOND * 2, &all);
    assert_eq!(many.silent(0..10), 0);
    many.pass(SILENT * 2, &[]);
    assert_eq!(many.silent(0..10), 0);
    assert_eq!(many.told().flatten().unwrap().agents, 10);
}

#[test]
fn a_large_room_is_released_in_short_steps() {
    let mut many = Many::new(600);
    many.pass(HOLD / 2, &[]);
    assert_eq!(many.silent(0..600), 0);
    // Most come back, so that the others are silent indeed.
    let back: Vec<_> = (0..310).collect();
    many.pass(SILENT * 2, &back);
    assert_eq!((many.silent(0..310), many.silent(310..600)), (0, 290));
}

proptest! {
    /// Whoever talks is never called silent, whoever does not is in the end, and while the brake holds nobody is called
    /// silent before `hold` has passed.
    #[test]
    fn it_delays_and_never_prevents(count in 1..12usize, talking in proptest::collection::btree_set(0..12usize, 0..12)) {
        let mut many = Many::new(count);
        let talking: Vec<_> = talking.into_iter().filter(|n| *n < count).collect();
        let mute = count - talking.len();
        many.pass(SILENT + SECOND, &talking);
        let holds = mute >= 3 && mute * 2 > count;
        prop_assert_eq!(many.silent(0..count), if holds { 0 } else { mute });
        many.pass(HOLD - SECOND * 2, &talking);
        prop_assert_eq!(many.silent(0..count), if holds { 0 } else { mute });
        many.pass(HOLD + SILENT * 2, &talking);
        prop_assert_eq!(many.silent(0..count), mute);
        for n in talking {
            prop_assert_eq!(many.reason(n), Reason::Ok);
        }
    }
}

/// Agents that were gone long before this process began say nothing of the network.
#[test]
fn dead_ids_in_zookeeper_do_not_switch_it_on() {
    let mut many = Many::new(2);
    let dead = (10..20).map(|n| {
        let verdict = Verdict::blank(Reason::AgentSilent, Stage::Reply, "", WallMs(1));
        let status = Status {
            identity: identity(n),
            agent: name(n),
            verdict,
        };
        (Arc::new(status), Origin::default())
    });
    many.step(after_another_leader(dead.collect()));
    many.pass(SILENT + SECOND, &[0]);
    // The one that falls silent is told as always.
    assert_eq!((many.reason(1), many.told()), (Reason::AgentSilent, None));
    assert_eq!(many.reason(0), Reason::Ok);
}

#[test]
fn who_takes_over_the_instances_of_a_held_agent_is_believed() {
    let mut many = Many::new(4);
    many.pass(SILENT + SECOND, &[3]);
    assert_eq!(many.silent(0..3), 0);
    let mut report = many.report_of(0, Reason::ConnectionRefused);
    report.handle = Handle(2);
    many.seq += 1;
    let told = Input::Message(3, Seq(many.seq), Message::Changes(vec![report]));
    many.step(told);
    assert_eq!(many.reason(0), Reason::ConnectionRefused);
}

#[test]
fn a_pause_of_this_process_releases_nothing() {
    let mut many = Many::new(10);
    many.pass(SILENT + SECOND, &[]);
    assert_eq!(many.told().flatten().unwrap().agents, 10);
    many.now = many.now + HOLD * 5;
    many.step(Input::Tick);
    many.pass(HOLD / 2, &[]);
    assert_eq!(many.silent(0..10), 0);
}
