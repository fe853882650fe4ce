//! Properties that hold for any order of events.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Garbage,
    Accept,
    Refuse,
    Answer,
    Close,
    Wait(u64),
    Sleep(u64),
    Second(bool),
    Inspected(ProcessState),
}

impl Event {
    /// Lets it happen, where it can happen in the present state.
    pub(super) fn apply(self, bench: &mut Bench) {
        match self {
            Self::Accept => bench.accept(),
            Self::Refuse => bench.refuse(),
            Self::Answer if bench.open => bench.answer(),
            Self::Close => bench.close(),
            Self::Garbage if bench.open => bench.input(Input::Garbage(String::new())),
            Self::Answer | Self::Garbage => {}
            Self::Wait(ms) => bench.run(bench.now + ms as u32 * MS, |_| {}),
            Self::Second(true) => bench.second(Ok(pong())),
            Self::Second(false) => bench.second(Err(ConnectFailure::TimedOut)),
            Self::Inspected(state) => bench.input(Input::ProcessChecked(state)),
            Self::Sleep(ms) => {
                bench.now = bench.now + ms as u32 * MS;
                bench.input(Input::Tick);
            }
        }
    }
}

pub(super) fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Accept),
        1 => Just(Event::Refuse),
        1 => Just(Event::Garbage),
        4 => Just(Event::Answer),
        1 => Just(Event::Close),
        4 => (1u64..1500).prop_map(Event::Wait),
        1 => (1u64..30_000).prop_map(Event::Sleep),
        2 => any::<bool>().prop_map(Event::Second),
        1 => prop_oneof![Just(ProcessState::Gone), Just(ProcessState::Stopped), Just(ProcessState::Running)].prop_map(Event::Inspected),
    ]
}

proptest! {
    /// REPLY_TIMEOUT never comes before `hang_after` of silence, whatever happens and however long the agent slept;
    /// nothing panics; there is always a next deadline; at most one probe is in flight (asserted in the bench).
    #[test]
    fn never_hung_too_early(events in proptest::collection::vec(event(), 0..120)) {
        let mut bench = Bench::new();
        for event in events {
            event.apply(&mut bench);
            if let Some((at, Reason::ReplyTimeout, last_valid)) = bench.verdicts.last() {
                prop_assert!(at.since(*last_valid) >= 3000 * MS);
            }
            prop_assert!(bench.prober.next_deadline() <= bench.now + 3_001 * MS);
        }
    }

    /// One bad soft sample never flips a healthy instance.
    #[test]
    fn one_soft_failure_changes_nothing(kind in 0..3) {
        let mut bench = Bench::served();
        bench.close();
        bench.connecting = false;
        bench.input(match kind {
            0 => Input::ConnectFailed(ConnectFailure::Unreachable),
            1 => Input::ConnectFailed(ConnectFailure::Reset),
            _ => Input::ConnectFailed(ConnectFailure::Resolve("no such name".into())),
        });
        prop_assert_eq!(bench.reason(), Reason::Ok);
        bench.up();
    }

    /// A healthy server stays UP without further verdicts, for as long as it answers.
    #[test]
    fn health_is_quiet(seconds in 1u32..600) {
        let mut bench = Bench::served();
        let count = bench.verdicts.len();
        let until = bench.now + seconds * 1000 * MS;
        bench.run(until, Bench::serve);
        prop_assert_eq!(bench.verdicts.len(), count);
    }
}
