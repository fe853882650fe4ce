//! Judges silence, a PING without an answer. Before it becomes a verdict a second connection is asked, because the silence
//! of one connection does not prove the death of a server.
//!
//! A connection can be silent while its server serves all others: a child process that saves holds a copy of the socket
//! of a client that the server has closed, so no FIN arrives (redis/redis#15145), and a relay may forget old
//! connections. An answer on the second connection replaces the silent one. No answer there either makes the verdict, at
//! `hang_after`.
//!
//! A server that hangs is asked rarely: it does not take the probe's connections out of its listen queue, and a full
//! queue would keep its clients out. The silent connection stays open, and an answer on it is enough.

use std::time::Duration;

use super::{ConnectFailure, Effect, Link, Prober, ProcessState, overdue::NEVER};
use crate::{
    redis::reply::Meaning,
    status::{Reason, Stage},
    time::{Mono, WallMs},
};

/// Longest interval at which a server that is known to hang is asked. It is asked after twice `hang_after`, then after
/// twice as long each time. 144 connections a day stay below the usual listen queue of 511.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(600);
/// The same for TLS handshakes, which are repeated more often: one without an answer leaves no connection that could be
/// answered later.
const HANDSHAKE_AGAIN_MAX: Duration = Duration::from_secs(30);

/// State of the second connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct SecondConnection {
    /// True if it was asked since the last valid reply.
    asked: bool,
    /// Why it failed, if it has.
    failed: Option<ConnectFailure>,
    /// When a server that is known to hang is asked next.
    again_at: Option<Mono>,
    /// Attempts since the verdict.
    attempts: u32,
    /// True if the process is checked first: a stopped one cannot answer.
    check_process_first: bool,
}

#[cfg(test)]
impl SecondConnection {
    /// Whether the result of a check of the process is awaited.
    pub(super) fn check_process_first(&self) -> bool {
        self.check_process_first
    }
}

impl Prober {
    /// True if the silence is already a verdict.
    pub(super) fn is_known_silent(&self) -> bool {
        matches!(self.verdict.reason, Reason::ReplyTimeout | Reason::ProcessGone)
    }

    /// When the second connection is asked or silence is judged next, while an answer is awaited.
    pub(super) fn silence_deadline(&self) -> Mono {
        let (second, verdict) = self.silence_times();
        second.or(verdict).unwrap_or(NEVER)
    }

    /// When a second connection is opened, and when silence becomes a verdict, if nothing is answered until then. The
    /// former is never later, and one of them is always due.
    pub(super) fn silence_times(&self) -> (Option<Mono>, Option<Mono>) {
        let hang_at = self.silent_since + self.config.hang_after;
        match self.second.again_at {
            Some(at) if self.is_known_silent() => (Some(at), None),
            _ if self.second.asked => (None, Some(hang_at)),
            _ => (Some(hang_at.before(self.second_limit())), Some(hang_at)),
        }
    }

    /// Time for the second connection before `hang_after` ends.
    fn second_limit(&self) -> Duration {
        self.config.connect_timeout.min(self.config.hang_after / 2)
    }

    /// Acts on silence at [`silence_deadline`](Self::silence_deadline).
    pub(super) fn silent(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        if self.is_known_silent() && self.second.again_at.is_some() {
            self.second.again_at = Some(now + self.pause_of(self.second.attempts, ASK_AGAIN_MAX));
            self.second.attempts = self.second.attempts.saturating_add(1);
            self.second.check_process_first = true;
            out.push(Effect::CheckProcess);
        } else if !self.second.asked {
            self.ask_second(out);
        } else {
            self.judge_silence(now, wall, out);
        }
    }

    fn ask_second(&mut self, out: &mut Vec<Effect>) {
        self.second.asked = true;
        self.second.failed = None;
        out.push(Effect::CheckSecondConnection(self.second_limit()));
    }

    /// Pause before the next attempt: twice `hang_after`, doubled with each attempt, at most `max`.
    fn pause_of(&self, attempts: u32, max: Duration) -> Duration {
        let hang_after = self.config.hang_after;
        hang_after
            .saturating_mul(2u32.saturating_pow(attempts.saturating_add(1)))
            .min(max.max(hang_after * 2))
    }

    /// Judges the silence, after `hang_after` has passed without an answer on either connection.
    fn judge_silence(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        let (hang_after, seen) = (self.config.hang_after, self.overdue_check.describe());
        self.successes = 0;
        match self.second.failed.take() {
            // Without an attempt on a second connection, silence is no verdict about the server.
            Some(
                failure @ (ConnectFailure::Own(_) | ConnectFailure::OwnDelay(_) | ConnectFailure::Resolve(_)),
            ) => {
                let text = format!(
                    "no reply for {hang_after:?} on the present connection, and no second one could be tried: {}; {seen}",
                    failure.describe()
                );
                self.judge(now, wall, Reason::AgentFault, Stage::Connect, &text, out);
                // The next attempt follows after as much silence.
                self.silent_since = now;
                self.second = SecondConnection::default();
            }
            failed => {
                let beside = failed.map_or_else(|| "not answered either".to_owned(), |f| f.describe());
                let text = format!(
                    "connected, but no reply for {hang_after:?}; a second connection: {beside}; {seen}"
                );
                self.judge(now, wall, Reason::ReplyTimeout, Stage::Command, &text, out);
                self.mark_known_silent(now);
            }
        }
        out.push(Effect::Round);
    }

    /// Records that the server is known to hang, so that it is asked rarely.
    fn mark_known_silent(&mut self, now: Mono) {
        self.overdue_check.stop();
        self.process_check_at = NEVER;
        self.second = SecondConnection {
            again_at: Some(now + self.pause_of(0, ASK_AGAIN_MAX)),
            attempts: 1,
            ..SecondConnection::default()
        };
    }

    /// Asks a second connection at once, because the process has ended and another server may serve the port already.
    pub(super) fn ask_for_successor(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.mark_known_silent(now);
        self.ask_second(out);
    }

    /// Asks the second connection after the check of the process, unless the process cannot answer.
    pub(super) fn ask_after_process_check(&mut self, state: ProcessState, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.second.check_process_first) {
            return;
        }
        if !matches!(state, ProcessState::Stopped | ProcessState::Uninterruptible) {
            self.ask_second(out);
        }
    }

    /// Applies the answer on the second connection, or its failure.
    pub(super) fn second_answered(
        &mut self,
        now: Mono,
        wall: WallMs,
        answer: Result<Meaning, ConnectFailure>,
        out: &mut Vec<Effect>,
    ) {
        // The first connection was answered in the meantime, or has ended.
        if !self.second.asked || self.link != Link::Open || self.waiting.is_empty() {
            return;
        }
        let silent_for = self
            .waiting
            .front()
            .map_or(Duration::ZERO, |(_, sent)| now.since(*sent));
        match answer {
            // Any answer proves that the server lives while this connection is silent.
            Ok(_)
            | Err(
                ConnectFailure::TlsCertificate(_)
                | ConnectFailure::TlsMismatch(_)
                | ConnectFailure::NotRedis(_),
            ) => {
                self.silent_connections = self.silent_connections.saturating_add(1);
                out.push(Effect::SilentConnectionReplaced);
                let text = format!(
                    "the connection was mute for {silent_for:?} while a new one was answered, and was replaced ({} so far)",
                    self.silent_connections
                );
                self.explain(&text, out);
                self.silent_since = now;
                out.push(Effect::Disconnect);
                self.connect(now, out);
            }
            // Nothing listens any more: a hard fact, on top of a silent connection.
            Err(failure @ (ConnectFailure::Refused | ConnectFailure::SocketMissing))
                if !self.is_known_silent() =>
            {
                out.push(Effect::Disconnect);
                self.connect_failed(now, wall, &failure, out);
            }
            Err(failure) => self.second.failed = Some(failure),
        }
    }

    /// When a TLS handshake without an answer is repeated, once silence is a verdict.
    pub(super) fn next_handshake(&mut self, now: Mono) -> Mono {
        let at = now + self.pause_of(self.second.attempts, HANDSHAKE_AGAIN_MAX);
        self.second.attempts = self.second.attempts.saturating_add(1);
        at
    }

    /// Discards what a second connection has shown, because it says nothing about the new connection.
    pub(super) fn discard_second_answer(&mut self) {
        self.second = SecondConnection {
            again_at: self.second.again_at,
            attempts: self.second.attempts,
            ..SecondConnection::default()
        };
    }

    /// Resets the state after a valid reply.
    pub(super) fn silence_ended(&mut self) {
        // Compared first, because this runs for each answer.
        if self.second.asked || self.second.again_at.is_some() || self.second.attempts > 0 {
            self.second = SecondConnection::default();
        }
    }
}
