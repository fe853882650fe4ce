use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{
    ids::{BootId, Handle, Seq},
    status::{Identity, Stage, State},
};
use proptest::prelude::*;

pub(super) const SILENT: Duration = Duration::from_secs(3);
const FRESH: Duration = Duration::from_secs(2);

pub(super) fn agent() -> AgentId {
    AgentId::new("db01").unwrap()
}

pub(super) fn boot(n: u64) -> BootId {
    BootId::new(&format!("{n:016x}")).unwrap()
}

pub(super) fn id(n: u32) -> InstanceId {
    InstanceId::new(&format!("db01:{n}")).unwrap()
}

pub(super) fn report(n: u32, reason: Reason) -> Report {
    Report {
        handle: Handle(n),
        identity: Identity {
            id: id(n),
            cluster: None,
            address: "127.0.0.1:1".into(),
            labels: Arc::default(),
        },
        verdict: Verdict::blank(reason, Stage::Reply, "", WallMs(1)),
        probe_age: Some(Duration::ZERO),
        freshness_limit: FRESH,
    }
}

/// What an agent says of itself with boot `n`.
pub(super) fn greeting(agent: AgentId, n: u64) -> AgentInfo {
    AgentInfo {
        agent,
        boot: boot(n),
        version: String::new(),
        host: String::new(),
        address: String::new(),
        via: String::new(),
        clock: WallMs(0),
    }
}

/// The origin of a report that came with this sequence of boot `n`.
pub(super) fn origin(n: u64, seq: u64) -> Origin {
    Origin {
        boot: boot(n).tag(),
        seq: Seq(seq),
    }
}

pub(super) struct World {
    pub(super) fleet: Fleet,
    pub(super) now: Mono,
    pub(super) out: Vec<Effect>,
}

/// What a new leader adopts all at once, after another one led.
pub(super) fn after_another_leader(statuses: Vec<(Arc<Status>, Origin)>) -> Input {
    static NUMBER: AtomicU64 = AtomicU64::new(1);
    Input::Adopt(Adoption {
        statuses,
        grace: true,
        number: NUMBER.fetch_add(1, Ordering::Relaxed),
    })
}

impl World {
    pub(super) fn new() -> Self {
        let now = Mono::from_millis(100_000);
        Self {
            fleet: Fleet::new(now, SILENT),
            now,
            out: vec![],
        }
    }

    /// An agent with boot 1, which has reported these instances as OK over stream 1, in a snapshot with this sequence.
    pub(super) fn with_snapshot(seq: u64, instances: &[u32]) -> Self {
        let mut w = Self::new();
        w.hello(1, 1);
        let reports = instances.iter().map(|n| report(*n, Reason::Ok));
        w.message(1, seq, Message::Snapshot(reports.collect(), true));
        w
    }

    pub(super) fn step(&mut self, input: Input) {
        self.fleet.step(self.now, WallMs(7), input, &mut self.out);
    }

    pub(super) fn hello(&mut self, stream: u64, n: u64) {
        self.step(Input::Hello(stream, greeting(agent(), n)));
    }

    /// Sends a message of boot `n`, whose stream has the same number.
    pub(super) fn message(&mut self, n: u64, seq: u64, message: Message) {
        self.step(Input::Message(n, Seq(seq), message));
    }

    /// The agent is restarted: stream 1 ends, and boot 2 reports instance 1 over stream 2.
    fn restart(&mut self, reason: Reason) {
        self.step(Input::Bye(1));
        self.hello(2, 2);
        self.message(2, 1, Message::Snapshot(vec![report(1, reason)], true));
    }

    /// Another agent reports instance 1 over stream 2. Returns its name.
    fn second_reporter(&mut self, reason: Reason) -> AgentId {
        let other = AgentId::new("db02").unwrap();
        self.step(Input::Hello(2, greeting(other.clone(), 5)));
        self.message(2, 1, Message::Snapshot(vec![report(1, reason)], true));
        other
    }

    /// Adopts what the former leader published of an instance, with the origin of what it had heard.
    pub(super) fn adopt(&mut self, n: u32, reason: Reason, origin: Origin) {
        self.step(after_another_leader(vec![(published(n, reason), origin)]));
    }

    /// Lets time pass as the shell does: a step at each deadline.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.fleet.next_deadline() <= until {
            self.now = self.fleet.next_deadline();
            self.step(Input::Tick);
        }
        self.now = until;
    }

    pub(super) fn reason(&self, n: u32) -> Reason {
        self.fleet.instance(&id(n)).unwrap().status.verdict.reason
    }
}

#[test]
fn silence_is_unknown_exactly_in_time_and_a_report_revives() {
    let mut seq = 1;
    let mut w = World::with_snapshot(seq, &[1]);
    for _ in 0..5 {
        w.pass(Duration::from_secs(1));
        seq += 1;
        w.message(
            1,
            seq,
            Message::Heartbeat(vec![(Handle(1), Duration::from_millis(1))], WallMs(0)),
        );
    }
    w.message(
        1,
        seq + 1,
        Message::Changes(vec![Report {
            freshness_limit: SILENT * 9,
            ..report(1, Reason::Ok)
        }]),
    );
    w.pass(SILENT - Duration::from_millis(1));
    assert_eq!(w.reason(1), Reason::Ok);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.reason(1), Reason::AgentSilent);
    w.message(
        1,
        seq + 2,
        Message::Heartbeat(vec![(Handle(1), Duration::from_millis(1))], WallMs(0)),
    );
    assert_eq!(w.reason(1), Reason::Ok);
}

#[test]
fn an_agent_that_talks_without_progress_is_stalled() {
    let mut w = World::with_snapshot(1, &[1, 2]);
    for beat in 1..=5u32 {
        w.pass(Duration::from_millis(500));
        let stuck = Duration::from_millis(500) * beat;
        w.message(
            1,
            1 + u64::from(beat),
            Message::Heartbeat(vec![(Handle(1), stuck), (Handle(2), Duration::ZERO)], WallMs(0)),
        );
    }
    assert_eq!(w.reason(1), Reason::ProbeStalled);
    assert_eq!(w.reason(2), Reason::Ok);
}

#[test]
fn what_the_snapshot_leaves_out_is_gone() {
    let mut w = World::with_snapshot(1, &[1, 2]);
    w.hello(1, 1);
    w.out.clear();
    w.message(1, 5, Message::Snapshot(vec![report(1, Reason::Ok)], true));
    assert!(w.out.contains(&Effect::Removed(id(2))));
    assert!(w.fleet.instance(&id(2)).is_none() && w.fleet.instance(&id(1)).is_some());
}

#[test]
fn a_new_boot_retires_the_old_one_for_good() {
    let mut w = World::with_snapshot(9, &[1]);
    w.restart(Reason::ConnectionRefused);
    assert_eq!(w.reason(1), Reason::ConnectionRefused);
    w.out.clear();
    w.hello(3, 1);
    assert!(w.out.contains(&Effect::Superseded(3)));
    assert_eq!(w.reason(1), Reason::ConnectionRefused);
}

#[test]
fn a_restarted_agent_does_not_erase_what_is_known() {
    let mut w = World::with_snapshot(9, &[1]);
    w.restart(Reason::NotProbed);
    assert_eq!(w.reason(1), Reason::Ok);
}

#[test]
fn adopted_statuses_have_a_full_grace_period() {
    let mut w = World::new();
    w.adopt(1, Reason::Ok, Origin::default());
    w.pass(SILENT - Duration::from_millis(1));
    assert_eq!(w.reason(1), Reason::Ok);
    w.pass(Duration::from_millis(1));
    assert_eq!(w.reason(1), Reason::AgentSilent);
}

pub(super) fn published(n: u32, reason: Reason) -> Arc<Status> {
    Arc::new(Status {
        identity: report(n, reason).identity,
        agent: agent(),
        verdict: Verdict::blank(reason, Stage::Reply, "", WallMs(1)),
    })
}

/// The pause that is forgiven is proportional to `silent_after`.
#[test]
fn no_pause_silences_anybody_however_short_silence_is() {
    for silent_ms in [100u64, 150, 400, 1_000, 3_000, 600_000] {
        let silent = Duration::from_millis(silent_ms);
        for percent in (5..=400).step_by(5) {
            let now = Mono::from_millis(100_000);
            let mut w = World {
                fleet: Fleet::new(now, silent),
                now,
                out: vec![],
            };
            w.hello(1, 1);
            w.message(
                1,
                1,
                Message::Snapshot(
                    vec![Report {
                        freshness_limit: silent * 9,
                        ..report(1, Reason::Ok)
                    }],
                    true,
                ),
            );
            // A heartbeat is in transit when the process stops; it is read right after the pause.
            w.pass(silent / 2 - Duration::from_millis(1));
            w.now = w.now + silent * percent / 100;
            w.step(Input::Tick);
            let reason = w.reason(1);
            let limit = w.fleet.pause_min();
            assert!(
                reason == Reason::Ok,
                "a pause of {:?} with silence after {silent:?} ({limit:?})",
                silent * percent / 100
            );
        }
    }
}

#[test]
fn a_take_over_does_not_publish_what_is_older_than_what_is_published() {
    let mut w = World::with_snapshot(5, &[1]);
    // Older, or of a retired boot: no news.
    w.adopt(1, Reason::Loading, origin(1, 4));
    assert_eq!(w.reason(1), Reason::Ok);
    // The former leader had heard more, although this one hears the agent too.
    w.adopt(1, Reason::Loading, origin(1, 6));
    assert_eq!(w.reason(1), Reason::Loading);
    // The older message arrives late.
    w.message(1, 5, Message::Changes(vec![report(1, Reason::Ok)]));
    assert_eq!(w.reason(1), Reason::Loading);
    w.message(1, 7, Message::Changes(vec![report(1, Reason::Ok)]));
    assert_eq!(w.reason(1), Reason::Ok);
    w.restart(Reason::ConnectionRefused);
    w.adopt(1, Reason::Ok, origin(1, 9));
    assert_eq!(w.reason(1), Reason::ConnectionRefused, "a retired boot is older");
    // A boot that was never heard here: news only while the agent is not connected.
    w.adopt(1, Reason::Ok, origin(3, 1));
    assert_eq!(w.reason(1), Reason::ConnectionRefused);
    w.step(Input::Bye(2));
    w.adopt(1, Reason::Ok, origin(3, 1));
    assert_eq!(w.reason(1), Reason::Ok);
}

#[test]
fn an_old_verdict_is_not_fresh_because_the_agent_restarted() {
    let mut w = World::with_snapshot(1, &[1]);
    w.pass(SILENT * 2);
    for n in 2..6 {
        w.hello(n, n);
        let unseen = Report {
            probe_age: None,
            ..report(1, Reason::NotProbed)
        };
        w.step(Input::Message(n, Seq(1), Message::Snapshot(vec![unseen], true)));
        assert_eq!(w.reason(1).state(), State::Unknown);
        w.pass(FRESH / 2);
    }
}

#[test]
fn what_an_agent_no_longer_has_is_not_adopted_again() {
    let mut w = World::with_snapshot(1, &[1]);
    w.adopt(2, Reason::Ok, Origin::default());
    assert!(w.fleet.instance(&id(2)).is_none());
}

#[test]
fn an_agent_that_is_silent_and_has_nothing_left_is_forgotten() {
    let mut w = World::with_snapshot(1, &[1]);
    w.pass(SILENT);
    let other = w.second_reporter(Reason::Ok);
    assert_eq!(w.fleet.instance(&id(1)).unwrap().status.agent, other);
    assert!(w.fleet.agents().get(&agent()).is_none());
    assert!(w.out.iter().any(|effect| matches!(effect, Effect::Forgotten(_))));
    // Its stream, if it is still open, must begin anew.
    w.out.clear();
    w.message(1, 2, Message::Heartbeat(vec![], WallMs(0)));
    assert_eq!(w.out, [Effect::Superseded(1)]);
}

#[test]
fn our_own_sleep_silences_nobody() {
    let mut w = World::with_snapshot(1, &[1]);
    w.now = w.now + Duration::from_secs(60);
    w.step(Input::Tick);
    assert_eq!(w.reason(1), Reason::Ok);
    assert!(w.out.contains(&Effect::Paused(Duration::from_secs(60))));
}

#[test]
fn a_second_reporter_does_not_take_a_live_instance() {
    let mut w = World::with_snapshot(1, &[1]);
    let other = w.second_reporter(Reason::ConnectionRefused);
    assert_eq!(w.reason(1), Reason::Ok);
    assert!(w.out.contains(&Effect::Conflict(id(1), other)));
    w.message(1, 2, Message::Gone(vec![Handle(1)]));
    assert!(
        w.out.contains(&Effect::Resend(2)),
        "the loser is asked again once the owner lets go"
    );
}

proptest! {
    /// The same reports in any order, with repetitions, give the same view.
    #[test]
    fn order_and_repetition_do_not_matter(
        (reports, shuffled) in proptest::collection::vec((0u32..5, 0usize..4), 1..30)
            .prop_flat_map(|reports| {
                let n = reports.len();
                let numbered: Vec<_> = reports.into_iter().enumerate().collect();
                let extra = proptest::sample::subsequence(numbered.clone(), 0..=n);
                (Just(numbered.clone()), (Just(numbered), extra).prop_map(|(mut a, b)| { a.extend(b); a }).prop_shuffle())
            })
    ) {
        let reasons = [Reason::Ok, Reason::Loading, Reason::ConnectionRefused, Reason::ReplyTimeout];
        let view = |list: &[(usize, (u32, usize))]| {
            let mut w = World::new();
            w.hello(1, 1);
            for (seq, (n, reason)) in list {
                w.message(1, *seq as u64 + 1, Message::Changes(vec![report(*n, reasons[*reason])]));
            }
            (0..5).map(|n| w.fleet.instance(&id(n)).map(|i| i.status.verdict.reason)).collect::<Vec<_>>()
        };
        prop_assert_eq!(view(&reports), view(&shuffled));
    }

    /// Without a report of an agent, nothing is ever DOWN; nothing is silent or stalled before its time.
    #[test]
    fn silence_is_never_down(gaps in proptest::collection::vec(0u64..6_000, 1..40)) {
        let mut w = World::with_snapshot(1, &[1]);
        for (n, gap) in gaps.into_iter().enumerate() {
            w.pass(Duration::from_millis(gap));
            let verdict = w.fleet.instance(&id(1)).unwrap().status.verdict.clone();
            prop_assert!(verdict.state() != State::Down);
            prop_assert_eq!(verdict.state() == State::Unknown, gap >= 3_000, "after {} ms: {}", gap, verdict.reason);
            prop_assert_eq!(verdict.reason == Reason::AgentSilent, gap >= 3_000);
            w.message(1, n as u64 + 2, Message::Heartbeat(vec![(Handle(1), Duration::ZERO)], WallMs(0)));
            prop_assert_eq!(w.reason(1), Reason::Ok);
        }
    }
}

#[test]
fn an_agent_that_is_back_without_progress_is_not_silent_but_stalled() {
    let mut w = World::with_snapshot(1, &[1]);
    w.pass(SILENT);
    assert_eq!(w.reason(1), Reason::AgentSilent);
    let stuck = Report {
        probe_age: Some(SILENT),
        ..report(1, Reason::Ok)
    };
    w.hello(2, 1);
    w.message(1, 2, Message::Snapshot(vec![stuck], true));
    assert_eq!(
        w.reason(1),
        Reason::AgentSilent,
        "its first heartbeat may tell more"
    );
    w.message(1, 3, Message::Heartbeat(vec![(Handle(1), SILENT)], WallMs(0)));
    assert_eq!(w.reason(1), Reason::ProbeStalled);
}

#[test]
fn an_agent_that_sends_no_heartbeats_is_silent() {
    let mut w = World::with_snapshot(1, &[1]);
    for seq in 2..=6 {
        w.pass(Duration::from_secs(1));
        w.message(1, seq, Message::Changes(vec![report(2, Reason::Ok)]));
    }
    assert_eq!(w.reason(1), Reason::Ok);
    w.pass(Duration::from_secs(1));
    assert_eq!(w.reason(1), Reason::AgentSilent);
}
