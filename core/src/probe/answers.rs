//! Decides what an answer of the server changes: to AUTH, PING, INFO and CLUSTER INFO, or to nothing that was asked.

use std::borrow::Cow;

use super::{Command, Effect, FAST_RETRIES_MAX, Prober, refusals::Refusals, trail::Answer};
use crate::{
    redis::{
        info,
        reply::{self, Reply},
    },
    status::{Reason, Stage},
    time::{Mono, WallMs},
};

/// Unrequested answers that one connection may have: some servers speak first to say why they close the connection, and
/// a request may get a second answer. A peer that sends more of them talks by itself.
pub(super) const UNASKED_MAX: u32 = 8;

impl Prober {
    pub(super) fn replied(&mut self, now: Mono, wall: WallMs, reply: &Reply, out: &mut Vec<Effect>) {
        let Some((command, sent)) = self.waiting.pop_front() else {
            // Some servers speak first, to say why they close the connection.
            self.unasked += 1;
            if self.unasked > UNASKED_MAX {
                let text = "answers again and again without being asked";
                self.judge(now, wall, Reason::ProtocolError, Stage::Reply, text, out);
                self.hang_up(now, out);
                return;
            }
            self.valid_reply(now);
            self.heard(now, wall, reply::ping(reply), out);
            return;
        };
        self.valid_reply(now);
        let latency = now.since(sent);
        match command {
            Command::Auth => {
                if let Reply::Error(line) = reply {
                    self.auth_error = reply::auth(line);
                }
                let accepted = self.auth_error.is_none();
                self.trail.answered(now, latency, Answer::Auth(accepted));
            }
            Command::Ping => {
                if !std::mem::replace(&mut self.pinged_on_link, true) {
                    // The present connection itself shows that new connections are served.
                    (self.new_connection, self.new_connection_failures) = (None, 0);
                }
                self.closed_after_auth = 0;
                self.overdue_check.answered(latency, self.config.hang_after);
                out.push(Effect::Latency(latency));
                let mut meaning = reply::ping(reply);
                if let (Some(auth), Reason::AuthRequired) = (&self.auth_error, meaning.reason) {
                    meaning = auth.clone();
                }
                self.trail.answered(now, latency, Answer::Ping(meaning.reason));
                self.heard(now, wall, meaning, out);
                out.push(Effect::Round);
            }
            Command::Info => {
                let is_text = matches!(reply, Reply::Text(_) | Reply::Long(_));
                self.trail.answered(now, latency, Answer::Info(is_text));
                self.side = None;
                let why = match reply {
                    Reply::Text(_) => None,
                    Reply::Long(_) => Some("is longer than 1 MiB and its end was not read".to_owned()),
                    Reply::Error(line) => {
                        self.side = reply::side_question("INFO", line);
                        Some(format!("answered -{line}"))
                    }
                    Reply::Other => Some("answered something that is no text".to_owned()),
                };
                self.unanswered(command, why, out);
                match reply {
                    Reply::Text(Cow::Borrowed(text)) => self.parse_info(text),
                    Reply::Text(Cow::Owned(text)) | Reply::Long(text) => self.parse_info(text),
                    Reply::Error(_) | Reply::Other => {}
                }
                match reply {
                    Reply::Text(_) | Reply::Long(_) => {
                        self.refusals.count(now, &self.info.health);
                        self.informed_at = now;
                        self.informed(out);
                        self.schedule_process_check(now);
                        out.push(Effect::LocateProcess(
                            self.info.process_id.zip(self.info.uptime_seconds),
                        ));
                    }
                    // Without the permission for INFO, the process can still be found by its socket.
                    Reply::Error(_) | Reply::Other => {
                        // What INFO said before is outdated.
                        self.info.health = info::Health::default();
                        out.push(Effect::LocateProcess(None));
                    }
                }
                if self.waiting.is_empty() {
                    if self.info.cluster_enabled {
                        // Only now is it known that the cluster mode is on, so CLUSTER INFO is sent at once, in the
                        // same round.
                        self.waiting.push_back((Command::ClusterInfo, now));
                        out.push(Effect::Send(vec![Command::ClusterInfo]));
                    } else {
                        self.restricted(now, wall, None, out);
                    }
                }
            }
            Command::ClusterInfo => {
                let (text, why) = match reply {
                    Reply::Text(text) => (Some(text.as_ref()), None),
                    Reply::Long(text) => (Some(text.as_str()), None),
                    Reply::Error(line) => {
                        self.side = self
                            .side
                            .take()
                            .or_else(|| reply::side_question("CLUSTER INFO", line));
                        (None, Some(format!("answered -{line}")))
                    }
                    Reply::Other => (None, Some("answered something that is no text".to_owned())),
                };
                self.trail
                    .answered(now, latency, Answer::ClusterInfo(text.is_some()));
                self.unanswered(command, why, out);
                self.restricted(now, wall, text, out);
            }
        }
    }

    fn parse_info(&mut self, text: &str) {
        let former = std::mem::replace(&mut self.info, info::parse(text));
        // Refusals in another role, or before a restart, say nothing about the present.
        if (former.role, &former.run_id) != (self.info.role, &self.info.run_id) {
            self.refusals = Refusals::default();
        }
    }

    /// Whether PING was answered on this connection and the next expected answer is not one to PING.
    pub(super) fn awaits_side_answer(&self) -> bool {
        let side = matches!(
            self.waiting.front(),
            Some((Command::Info | Command::ClusterInfo, _))
        );
        self.pinged_on_link && side
    }

    fn valid_reply(&mut self, now: Mono) {
        self.silent_since = now;
        self.replied_on_link = true;
        self.fast_retries = FAST_RETRIES_MAX;
        self.failures = 0;
        self.silence_ended();
    }
}
