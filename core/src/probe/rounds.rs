//! Acts as time passes: sends the commands of each round, detects time-outs, and checks the process.

use super::{Command, Effect, Link, Prober, schedule, trail::Event};
use crate::{
    status::{Reason, Stage, State},
    time::{Mono, WallMs},
};

impl Prober {
    pub(super) fn tick(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        if self.verdict.flapping && !self.flapping.is_flapping(now) {
            self.verdict.flapping = false;
            out.push(Effect::Verdict(self.verdict.clone()));
        }
        match self.link {
            Link::Closed { retry_at } if now >= retry_at => self.connect(now, out),
            Link::Closed { .. } => {}
            Link::Connecting { give_up_at } if now >= give_up_at => {
                let text = format!("no connection within {:?}", self.config.connect_timeout);
                self.trail.record(now, Event::ConnectFailed, &text);
                out.push(Effect::Disconnect);
                self.soft_failure(now, wall, Reason::ConnectTimeout, Stage::Connect, &text, out);
            }
            Link::Open if !self.waiting.is_empty() && now >= self.silence_deadline() => {
                self.silent(now, wall, out);
                self.still_waiting(now, out);
            }
            Link::Connecting { .. } => self.still_waiting(now, out),
            Link::Open if !self.waiting.is_empty() => {
                if now >= self.overdue_check.check_at() {
                    self.overdue_check.checked(now, self.config.interval);
                    out.push(Effect::CheckProcess);
                } else if now >= self.process_check_at {
                    self.schedule_process_check(now);
                    out.push(Effect::CheckProcess);
                }
                self.still_waiting(now, out);
            }
            Link::Open if now >= self.ping_at => self.send(now, out),
            Link::Open if now >= self.process_check_at => {
                self.schedule_process_check(now);
                out.push(Effect::CheckProcess);
            }
            Link::Open => {}
        }
    }

    /// Handles a round that begins while the former one is open: it counts as judged, and nothing changes yet.
    fn still_waiting(&mut self, now: Mono, out: &mut Vec<Effect>) {
        if now >= self.ping_at {
            self.ping_at = schedule::next(now, self.config.interval, self.config.phase);
            out.push(Effect::Round);
        }
    }

    pub(super) fn send(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let mut commands = Vec::with_capacity(3);
        let info_due = now >= self.info_at;
        if self.config.authenticate && !self.replied_on_link {
            commands.push(Command::Auth);
        } else if self.auth_error.is_some() && info_due {
            // Authentication is repeated on a new connection, but not more often than INFO.
            out.push(Effect::Disconnect);
            self.info_at = now + self.config.info_interval;
            self.connect(now, out);
            return;
        }
        commands.push(Command::Ping);
        if info_due {
            commands.push(Command::Info);
            if self.info.cluster_enabled {
                commands.push(Command::ClusterInfo);
            }
            self.info_at = self.next_info(now);
        }
        if now >= self.new_connection_at && self.verdict.state() != State::Unknown {
            out.push(Effect::CheckNewConnection);
            self.new_connection_at = self.config.spread.next(now, self.config.connect_interval);
        }
        self.overdue_check
            .sent(now, self.verdict.reason == Reason::ReplyTimeout);
        self.waiting
            .extend(commands.iter().map(|command| (*command, now)));
        self.ping_at = schedule::next(now, self.config.interval, self.config.phase);
        out.push(Effect::Send(commands));
    }

    pub(super) fn next_info(&self, now: Mono) -> Mono {
        match self.restricted_info_interval(now) {
            Some(soon) => now + soon,
            None => self.config.spread.next(now, self.config.info_interval),
        }
    }
}
