//! The trail of a prober: the last probes that were answered, and the last decisions with what they rest on. It changes
//! no decision; debug pages show it.
//!
//! What it takes: `PROBES_MAX` x 16 bytes = 256 bytes of probes and 40 bytes beside them, without an allocation. The
//! decisions are shared by all copies: `DECISIONS_MAX` x 48 bytes = 1,152 bytes, and their texts of at most `TEXT_BYTES_MAX` bytes each. A healthy instance has three to five of
//! them, some 300 bytes.

use std::{sync::Arc, time::Duration};

use super::{ConnectFailure, Effect, Input};
use crate::{
    redis::reply::Meaning,
    status::{Reason, Role, Verdict, cut_shared},
    time::Mono,
};

mod events;

pub use events::{Answer, Event};

/// Probes that are kept: eight seconds of PINGs at an interval of 500 ms.
pub const PROBES_MAX: usize = 16;
/// Decisions that are kept. An outage and the recovery from it are about ten.
pub const DECISIONS_MAX: usize = 24;
/// Size of the text of a decision; the verdict in force has the whole evidence.
pub const TEXT_BYTES_MAX: usize = 128;

const _: () = assert!(std::mem::size_of::<Option<AnsweredProbe>>() == 16);
const _: () = assert!(std::mem::size_of::<Decision>() <= 48);

/// A command that was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnsweredProbe {
    /// When the answer came.
    pub at: Mono,
    /// Time between command and answer, in microseconds.
    latency_us: u32,
    /// What was answered.
    pub answer: Answer,
}

impl AnsweredProbe {
    /// Time between command and answer.
    pub fn latency(&self) -> Duration {
        Duration::from_micros(self.latency_us.into())
    }
}

/// One event, or several equal ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What it was.
    pub event: Event,
    /// The details, such as the evidence of a verdict; may be empty.
    pub text: Arc<str>,
    /// When it occurred first.
    pub first: Mono,
    /// When it occurred last.
    pub last: Mono,
    /// How often it occurred.
    pub times: u32,
}

/// What happened since the prober was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Commands that were answered.
    pub answers: u64,
    /// Connections that were opened.
    pub connections: u32,
    /// Attempts to connect that failed.
    pub connect_failures: u32,
    /// Connections that the peer closed.
    pub closed: u32,
    /// Changes of the verdict's reason.
    pub verdict_changes: u32,
}

impl Totals {
    fn count(&mut self, event: Event) {
        let total = match event {
            Event::Connected => &mut self.connections,
            Event::ConnectFailed => &mut self.connect_failures,
            Event::Closed => &mut self.closed,
            Event::Verdict { .. } => &mut self.verdict_changes,
            _ => return,
        };
        *total = total.saturating_add(1);
    }
}

/// What a step may change without an effect of its own.
#[derive(Clone, Copy)]
pub(super) struct Before {
    reason: Reason,
    role: Role,
    restarts: u32,
}

impl Before {
    pub(super) fn of(verdict: &Verdict) -> Self {
        Self {
            reason: verdict.reason,
            role: verdict.role,
            restarts: verdict.restarts,
        }
    }
}

/// The trail of one prober. Cloning it copies the probes and shares the decisions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trail {
    /// A ring, of which `totals.answers` tells the next place.
    probes: [Option<AnsweredProbe>; PROBES_MAX],
    /// In the order of `last`.
    decisions: Arc<[Decision]>,
    totals: Totals,
}

impl Trail {
    /// The last probes that were answered, the oldest first.
    pub fn probes(&self) -> impl DoubleEndedIterator<Item = &AnsweredProbe> {
        let (newest, oldest) = self.probes.split_at(self.next_place());
        oldest.iter().chain(newest).flatten()
    }

    /// The last decisions, the oldest first. The last change of the verdict is always among them.
    pub fn decisions(&self) -> &[Decision] {
        &self.decisions
    }

    /// What happened since the prober was made.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    fn next_place(&self) -> usize {
        usize::try_from(self.totals.answers % PROBES_MAX as u64).unwrap_or_default()
    }

    /// Records the answer to a command.
    pub(super) fn answered(&mut self, now: Mono, latency: Duration, answer: Answer) {
        let place = self.next_place();
        let latency_us = u32::try_from(latency.as_micros()).unwrap_or(u32::MAX);
        self.probes[place] = Some(AnsweredProbe {
            at: now,
            latency_us,
            answer,
        });
        self.totals.answers = self.totals.answers.wrapping_add(1);
    }

    /// Records what was observed. Answers to commands are recorded by [`answered`](Self::answered).
    pub(super) fn observed(&mut self, now: Mono, input: &Input) {
        match input {
            Input::Tick | Input::Replied(_) | Input::Certificate(_) => {}
            Input::Connected => self.record(now, Event::Connected, ""),
            Input::ConnectFailed(failure) => self.record(now, Event::ConnectFailed, &failure.describe()),
            Input::Closed(how) => self.record(now, Event::Closed, how),
            Input::Garbage(what) => self.record(now, Event::NotResp, what),
            Input::Moved => self.record(now, Event::Moved, ""),
            Input::ProcessChecked(state) => self.record(now, Event::ProcessChecked(*state), ""),
            Input::NewConnectionChecked(answer) => {
                self.checked(now, answer, Event::NewConnection, Event::NewConnectionFailed);
            }
            Input::SecondConnectionChecked(answer) => {
                self.checked(now, answer, Event::SecondAnswered, Event::SecondFailed);
            }
        }
    }

    fn checked(
        &mut self,
        now: Mono,
        answer: &Result<Meaning, ConnectFailure>,
        answered: fn(Reason) -> Event,
        failed: Event,
    ) {
        match answer {
            Ok(meaning) => self.record(now, answered(meaning.reason), &meaning.evidence),
            Err(failure) => self.record(now, failed, &failure.describe()),
        }
    }

    /// Records what a step decided: its effects, and the changes from `before` to `verdict`.
    pub(super) fn decided(&mut self, now: Mono, before: Before, verdict: &Verdict, effects: &[Effect]) {
        if verdict.restarts != before.restarts {
            self.record(now, Event::Restarted, "");
        }
        if verdict.role != before.role {
            let (from, to) = (before.role, verdict.role);
            self.record(now, Event::Role { from, to }, "");
        }
        let mut from = before.reason;
        for effect in effects {
            match effect {
                Effect::Verdict(verdict) if verdict.reason != from => {
                    let to = verdict.reason;
                    self.record(now, Event::Verdict { from, to }, &verdict.evidence);
                    from = to;
                }
                Effect::CheckSecondConnection(_) => self.record(now, Event::SecondAsked, ""),
                Effect::SilentConnectionReplaced => self.record(now, Event::SilentReplaced, ""),
                _ => {}
            }
        }
    }

    /// Records an event. One that equals an event since the last change of the verdict is counted there, so that the many
    /// attempts during an outage do not push out how it began.
    pub(super) fn record(&mut self, now: Mono, event: Event, text: &str) {
        self.totals.count(event);
        let text = cut_shared(text, TEXT_BYTES_MAX);
        let is_verdict = |decision: &Decision| matches!(decision.event, Event::Verdict { .. });
        let verdict_at = self.decisions.iter().rposition(is_verdict);
        let since = verdict_at.map_or(0, |place| place + 1);
        let mut later = self.decisions.iter().skip(since);
        let equal = |decision: &Decision| decision.event == event && decision.text == text;
        match later.position(equal) {
            Some(place) => self.count_again(now, since + place),
            None => self.append(now, event, text, verdict_at),
        }
    }

    fn count_again(&mut self, now: Mono, place: usize) {
        let later = &mut Arc::make_mut(&mut self.decisions)[place..];
        later.rotate_left(1);
        if let Some(decision) = later.last_mut() {
            decision.last = now;
            decision.times = decision.times.saturating_add(1);
        }
    }

    fn append(&mut self, now: Mono, event: Event, text: Arc<str>, verdict_at: Option<usize>) {
        let is_full = self.decisions.len() >= DECISIONS_MAX;
        // The last change of the verdict stays.
        let left_out = is_full.then(|| usize::from(verdict_at == Some(0)));
        let kept = self.decisions.iter().enumerate();
        let kept = kept.filter(|(place, _)| Some(*place) != left_out);
        let new = Decision {
            event,
            text,
            first: now,
            last: now,
            times: 1,
        };
        self.decisions = kept.map(|(_, decision)| decision.clone()).chain([new]).collect();
    }
}
