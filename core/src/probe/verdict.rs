//! Changes the verdict: once for each change of the reason, and for new evidence of the same one.

use std::time::Duration;

use super::{CONFIRM_AFTER, Effect, Meaning, Prober, schedule};
use crate::{
    limits::EVIDENCE_BYTES_MAX,
    status::{Ability, Reason, Stage, State, cut},
    time::{Mono, WallMs},
};

impl Prober {
    /// Applies an answer to PING.
    pub(super) fn heard(&mut self, now: Mono, wall: WallMs, meaning: Meaning, out: &mut Vec<Effect>) {
        self.by_info = false;
        let meaning = if meaning.reason == Reason::Ok {
            let hidden = self.new_connection.as_ref().or(self.restriction.as_ref());
            self.by_info = self.new_connection.is_none() && self.restriction.is_some();
            let hidden = hidden.cloned();
            self.ping_evidence = meaning.evidence.clone();
            hidden.unwrap_or(meaning)
        } else {
            meaning
        };
        if meaning.reason != Reason::Ok {
            self.successes = 0;
            self.judge_meaning(now, wall, &meaning, out);
            return;
        }
        self.successes = self.successes.saturating_add(1);
        if self.verdict.state() == State::Up || self.successes >= self.config.successes_before_up {
            let begins = self.verdict.reason != Reason::Ok;
            self.judge(now, wall, Reason::Ok, meaning.stage, &meaning.evidence, out);
            if begins {
                self.explain_health(out);
            }
        } else {
            // The confirming PING comes soon, not a whole interval later.
            let soon = CONFIRM_AFTER.min(self.config.interval / 5);
            self.ping_at = self.ping_at.min(schedule::next(now, soon, Duration::ZERO));
        }
    }

    /// Sets new evidence for the same verdict.
    pub(super) fn explain(&mut self, evidence: &str, out: &mut Vec<Effect>) {
        if *self.verdict.evidence != *evidence {
            self.verdict.evidence = cut(evidence, EVIDENCE_BYTES_MAX).into();
            out.push(Effect::Verdict(self.verdict.clone()));
        }
    }

    /// Sets the verdict to `meaning`, which may know more about reads and writes than follows from its reason.
    pub(super) fn judge_meaning(
        &mut self,
        now: Mono,
        wall: WallMs,
        meaning: &Meaning,
        out: &mut Vec<Effect>,
    ) {
        if self.verdict.reason == meaning.reason && self.verdict.known_abilities != meaning.abilities {
            self.verdict.known_abilities = meaning.abilities;
            self.verdict.evidence = cut(&meaning.evidence, EVIDENCE_BYTES_MAX).into();
            out.push(Effect::Verdict(self.verdict.clone()));
        }
        self.judge_knowing(
            now,
            wall,
            (meaning.reason, meaning.abilities),
            meaning.stage,
            &meaning.evidence,
            out,
        );
    }

    pub(super) fn judge(
        &mut self,
        now: Mono,
        wall: WallMs,
        reason: Reason,
        stage: Stage,
        evidence: &str,
        out: &mut Vec<Effect>,
    ) {
        self.judge_knowing(now, wall, (reason, None), stage, evidence, out);
    }

    pub(super) fn judge_knowing(
        &mut self,
        now: Mono,
        wall: WallMs,
        (reason, known): (Reason, Option<(Ability, Ability)>),
        stage: Stage,
        evidence: &str,
        out: &mut Vec<Effect>,
    ) {
        if self.verdict.reason == reason {
            return;
        }
        if self.verdict.state() != reason.state() && self.verdict.reason != Reason::NotProbed {
            self.flapping.changed(now);
            self.verdict.flapping = self.flapping.is_flapping(now);
        }
        self.verdict.since_is_bound = self.verdict.reason == Reason::NotProbed;
        self.verdict.reason = reason;
        self.verdict.known_abilities = known;
        self.verdict.stage = stage;
        self.verdict.since = wall;
        self.verdict.evidence = cut(evidence, EVIDENCE_BYTES_MAX).into();
        out.push(Effect::Verdict(self.verdict.clone()));
    }
}
