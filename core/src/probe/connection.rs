//! Handles how connections begin, fail and end, and what that proves: an accepted connection that is closed is soft
//! evidence, a refused one is hard (`docs/replies.md`, "How a verdict is reached").

use std::time::Duration;

use super::{Command, ConnectFailure, Effect, FAST_RETRIES_MAX, Link, Prober, overdue};
use crate::{
    probe::schedule,
    status::{Reason, Stage, State},
    time::{Mono, WallMs},
};

/// Shortest time between two immediate reconnections after a working connection was closed.
const AT_ONCE_EVERY: Duration = Duration::from_millis(100);

impl Prober {
    pub(super) fn connect(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.waiting.clear();
        self.replied_on_link = false;
        self.pinged_on_link = false;
        self.unasked = 0;
        self.auth_error = None;
        self.restriction = None;
        self.overdue_check.reset();
        self.discard_second_answer();
        self.process_check_at = overdue::NEVER;
        self.link = Link::Connecting {
            give_up_at: now + self.config.connect_timeout,
        };
        self.ping_at = schedule::next(now, self.config.interval, self.config.phase);
        out.push(Effect::Connect);
    }

    pub(super) fn connected(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.link = Link::Open;
        if now >= self.silent_since + self.config.hang_after {
            // The silence of a former connection does not count against one that has had no time to answer.
            self.silent_since = now;
        }
        // INFO on each new connection: the server may have been restarted.
        self.info_at = now.max(self.info_not_before);
        self.send(now, out);
    }

    pub(super) fn connect_failed(
        &mut self,
        now: Mono,
        wall: WallMs,
        failure: &ConnectFailure,
        out: &mut Vec<Effect>,
    ) {
        if *failure == ConnectFailure::TlsSilent {
            self.silent_handshake(now, wall, out);
            return;
        }
        let (mut reason, mut stage, hard, mut text) = failure.meaning();
        // The server spoke TLS before, so this is no mismatch, but for example a proxy whose server is gone.
        let cut = matches!(failure, ConnectFailure::TlsEnded(_)) && self.verdict.certificate_ends.is_some();
        if (cut || *failure == ConnectFailure::Reset) && self.retry_fast(now) {
            return;
        }
        if failure.closed_silently() && self.was_full(now) && self.config.tls {
            // A full server closes the connection without an error where it would have to speak TLS to send one.
            let full = self.full();
            (reason, stage, text) = (full.reason, full.stage, full.evidence.into_owned());
        } else if cut {
            reason = Reason::ConnectionReset;
        }
        if self.config.vanished && matches!(reason, Reason::ConnectionRefused | Reason::SocketMissing) {
            reason = Reason::ProcessGone;
            text.push_str("; no process of it is found any more");
        }
        self.silent_since = now;
        if hard {
            self.successes = 0;
            self.judge(now, wall, reason, stage, &text, out);
            self.retry_later(now, out);
        } else {
            self.soft_failure(now, wall, reason, stage, &text, out);
        }
    }

    /// Handles a TLS handshake without an answer like a PING without one: the time since the last reply counts, not the
    /// number of attempts, each of which took its own time-out.
    fn silent_handshake(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        let (reason, stage, _, text) = ConnectFailure::TlsSilent.meaning();
        let hang_after = self.config.hang_after;
        if now.since(self.silent_since) >= hang_after {
            self.successes = 0;
            self.judge(
                now,
                wall,
                reason,
                stage,
                &format!("{text} for {hang_after:?}"),
                out,
            );
        }
        self.retry_later(now, out);
        if self.verdict.reason == Reason::ReplyTimeout {
            let retry_at = self.next_handshake(now);
            self.link = Link::Closed { retry_at };
        }
    }

    pub(super) fn closed(&mut self, now: Mono, wall: WallMs, how: &str, out: &mut Vec<Effect>) {
        if self.awaits_side_answer() {
            self.info_not_before = now + self.config.info_interval;
        }
        if self.pinged_on_link {
            let idle = self
                .reconnected_at
                .is_none_or(|at| now.since(at) >= AT_ONCE_EVERY.min(self.config.interval));
            if idle && self.verdict.state() != State::Unknown && self.verdict.reason != Reason::MaxClients {
                // EOF or reset on a connection that worked: an immediate reconnection distinguishes a death from a
                // restart. It is limited, so that a peer that closes the connection after each answer is not flooded.
                self.reconnected_at = Some(now);
                self.fast_retries = 0;
                self.connect(now, out);
            } else {
                self.retry_later(now, out);
            }
        } else if self.replied_on_link {
            // The server said why it closed the connection, in answer to AUTH or before any request.
            if let Some(meaning) = self.auth_error.take() {
                self.successes = 0;
                self.judge(now, wall, meaning.reason, meaning.stage, &meaning.evidence, out);
                self.retry_later(now, out);
            } else if matches!(self.waiting.front(), Some((Command::Ping, _))) {
                // AUTH was answered and PING was not, as by a proxy whose server is gone.
                self.failures = self.closed_after_auth;
                self.closed_after_auth = self.closed_after_auth.saturating_add(1);
                let text = format!("AUTH was answered, then the connection was closed ({how})");
                self.soft_failure(now, wall, Reason::ConnectionReset, Stage::Command, &text, out);
            } else {
                self.retry_later(now, out);
            }
        } else if !self.retry_fast(now) {
            let text = format!("connection accepted, then closed before any reply ({how})");
            self.soft_failure(now, wall, Reason::ConnectionReset, Stage::Command, &text, out);
        }
    }

    fn retry_fast(&mut self, now: Mono) -> bool {
        let again = self.fast_retries < FAST_RETRIES_MAX;
        if again {
            self.waiting.clear();
            self.link = Link::Closed {
                retry_at: now + Duration::from_millis(1 << self.fast_retries),
            };
            self.fast_retries += 1;
        }
        again
    }

    pub(super) fn soft_failure(
        &mut self,
        now: Mono,
        wall: WallMs,
        reason: Reason,
        stage: Stage,
        text: &str,
        out: &mut Vec<Effect>,
    ) {
        self.silent_since = now;
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        // One outage keeps its reason: a server that hangs does not accept connections either, so its queue fills up.
        let same = reason == Reason::ConnectTimeout && self.verdict.reason == Reason::ReplyTimeout;
        if self.failures >= self.config.failures_before_down && !same {
            self.judge(now, wall, reason, stage, text, out);
        }
        self.retry_later(now, out);
    }

    pub(super) fn hang_up(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.successes = 0;
        self.silent_since = now;
        out.push(Effect::Disconnect);
        self.retry_later(now, out);
    }

    fn retry_later(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.waiting.clear();
        self.link = Link::Closed {
            retry_at: schedule::next(now, self.config.interval, self.config.phase),
        };
        out.push(Effect::Round);
    }
}
