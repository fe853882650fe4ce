//! Silence of one connection is not the death of a server: before it becomes a verdict, a second connection is asked.
//!
//! A connection can be mute while its server serves all others: a child that saves holds a copy of the socket of a
//! client that the server has closed, so no FIN arrives (redis/redis#15145), and a relay may forget old connections. An
//! answer on the second connection replaces the mute one. No answer there either makes the verdict, at `hang_after`.
//!
//! A server that hangs is asked rarely: nobody takes our connections out of its listen queue, and a full queue would
//! keep the clients out. The mute connection stays open, and an answer on it is enough.

use std::time::Duration;

use super::{ConnectFailure, Effect, Link, Prober, Sight, overdue::NEVER};
use crate::{
    redis::reply::Meaning,
    status::{Reason, Stage},
    time::{Mono, WallMs},
};

/// A server that is known to hang is asked again after twice `hang_after`, then twice as late each time, up to this:
/// 144 connections a day stay below the usual listen queue of 511.
const ASK_AGAIN_MAX: Duration = Duration::from_secs(600);
/// A TLS handshake without an answer leaves no connection that could be answered later, so it is repeated more often.
const HANDSHAKE_AGAIN_MAX: Duration = Duration::from_secs(30);

/// What is known beside the mute connection.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Second {
    /// It was asked since the last valid reply.
    asked: bool,
    /// Why it told nothing, if it has ended.
    failed: Option<ConnectFailure>,
    /// When one that is known to hang is asked next.
    again_at: Option<Mono>,
    /// Attempts since the verdict.
    attempts: u32,
    /// The process is looked at first: one that is stopped cannot answer.
    look_first: bool,
}

#[cfg(test)]
impl Second {
    /// Whether a look at the process is awaited.
    pub(super) fn look_first(&self) -> bool {
        self.look_first
    }
}

impl Prober {
    /// Silence is known, and judged.
    pub(super) fn is_known_mute(&self) -> bool {
        matches!(self.verdict.reason, Reason::ReplyTimeout | Reason::ProcessGone)
    }

    /// When the second connection is asked or silence is judged next, while an answer is awaited.
    pub(super) fn silence_deadline(&self) -> Mono {
        let hang_at = self.quiet_since + self.config.hang_after;
        match self.second.again_at {
            Some(at) if self.is_known_mute() => at,
            _ if self.second.asked => hang_at,
            _ => hang_at.before(self.second_limit()),
        }
    }

    /// The second connection has so much time before `hang_after` ends.
    fn second_limit(&self) -> Duration {
        self.config.connect_timeout.min(self.config.hang_after / 2)
    }

    /// An answer is overdue at [`silence_deadline`](Self::silence_deadline).
    pub(super) fn silent(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        if self.is_known_mute() && self.second.again_at.is_some() {
            self.second.again_at = Some(now + self.pause_of(self.second.attempts, ASK_AGAIN_MAX));
            self.second.attempts = self.second.attempts.saturating_add(1);
            self.second.look_first = true;
            out.push(Effect::Inspect);
        } else if !self.second.asked {
            self.ask_second(out);
        } else {
            self.judge_silence(now, wall, out);
        }
    }

    fn ask_second(&mut self, out: &mut Vec<Effect>) {
        self.second.asked = true;
        self.second.failed = None;
        out.push(Effect::AskSecond(self.second_limit()));
    }

    /// Twice `hang_after`, doubled with each attempt.
    fn pause_of(&self, attempts: u32, max: Duration) -> Duration {
        let hang_after = self.config.hang_after;
        hang_after
            .saturating_mul(2u32.saturating_pow(attempts.saturating_add(1)))
            .min(max.max(hang_after * 2))
    }

    /// `hang_after` has passed without an answer on either connection.
    fn judge_silence(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        let (hang_after, seen) = (self.config.hang_after, self.suspicion.words());
        self.successes = 0;
        match self.second.failed.take() {
            // Without a second opinion silence is no verdict about the server.
            Some(
                failure @ (ConnectFailure::Own(_) | ConnectFailure::OwnDelay(_) | ConnectFailure::Resolve(_)),
            ) => {
                let text = format!(
                    "no reply for {hang_after:?} on the present connection, and no second one could be tried: {}; {seen}",
                    failure.words()
                );
                self.judge(now, wall, Reason::AgentFault, Stage::Connect, &text, out);
                // Asked again after as much silence.
                self.quiet_since = now;
                self.second = Second::default();
            }
            failed => {
                let beside = failed.map_or_else(|| "not answered either".to_owned(), |f| f.words());
                let text = format!(
                    "connected, but no reply for {hang_after:?}; a second connection: {beside}; {seen}"
                );
                self.judge(now, wall, Reason::ReplyTimeout, Stage::Command, &text, out);
                self.known_mute(now);
            }
        }
        out.push(Effect::Round);
    }

    /// From now on it is asked rarely.
    fn known_mute(&mut self, now: Mono) {
        self.suspicion.rest();
        self.patrol_at = NEVER;
        self.second = Second {
            again_at: Some(now + self.pause_of(0, ASK_AGAIN_MAX)),
            attempts: 1,
            ..Second::default()
        };
    }

    /// Its process has ended. Another server may serve the port already, so a second connection is asked at once.
    pub(super) fn ask_for_successor(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.known_mute(now);
        self.ask_second(out);
    }

    /// The process was looked at before the second connection is asked.
    pub(super) fn looked_before_asking(&mut self, sight: Sight, out: &mut Vec<Effect>) {
        if !std::mem::take(&mut self.second.look_first) {
            return;
        }
        if !matches!(sight, Sight::Stopped | Sight::Uninterruptible) {
            self.ask_second(out);
        }
    }

    /// What the second connection was answered, or why it failed.
    pub(super) fn second_answered(
        &mut self,
        now: Mono,
        wall: WallMs,
        answer: Result<Meaning, ConnectFailure>,
        out: &mut Vec<Effect>,
    ) {
        // The first one was answered in the meantime, or has ended.
        if !self.second.asked || self.link != Link::Open || self.waiting.is_empty() {
            return;
        }
        let mute_for = self
            .waiting
            .front()
            .map_or(Duration::ZERO, |(_, sent)| now.since(*sent));
        match answer {
            // Whatever it says: it is said by a server that lives, while this connection is mute.
            Ok(_)
            | Err(
                ConnectFailure::TlsCertificate(_)
                | ConnectFailure::TlsMismatch(_)
                | ConnectFailure::NotRedis(_),
            ) => {
                self.mute_connections = self.mute_connections.saturating_add(1);
                out.push(Effect::MuteConnection);
                let text = format!(
                    "the connection was mute for {mute_for:?} while a new one was answered, and was replaced ({} so far)",
                    self.mute_connections
                );
                self.explain(&text, out);
                self.quiet_since = now;
                out.push(Effect::Disconnect);
                self.connect(now, out);
            }
            // Nothing listens any more: two kernel facts and a connection that is mute.
            Err(failure @ (ConnectFailure::Refused | ConnectFailure::SocketMissing))
                if !self.is_known_mute() =>
            {
                out.push(Effect::Disconnect);
                self.connect_failed(now, wall, &failure, out);
            }
            Err(failure) => self.second.failed = Some(failure),
        }
    }

    /// When a TLS handshake that got no answer is repeated, once silence is a verdict.
    pub(super) fn next_handshake(&mut self, now: Mono) -> Mono {
        let at = now + self.pause_of(self.second.attempts, HANDSHAKE_AGAIN_MAX);
        self.second.attempts = self.second.attempts.saturating_add(1);
        at
    }

    /// The connection is replaced: what a second one said, or will say, is no opinion about the new one.
    pub(super) fn second_is_void(&mut self) {
        self.second = Second {
            again_at: self.second.again_at,
            attempts: self.second.attempts,
            ..Second::default()
        };
    }

    /// A valid reply: nothing is overdue.
    pub(super) fn silence_ended(&mut self) {
        // Compared first: this is done for each answer.
        if self.second.asked || self.second.again_at.is_some() || self.second.attempts > 0 {
            self.second = Second::default();
        }
    }
}
