//! What PING does not show: INFO, CLUSTER INFO, the server's process, and fresh connections.

use std::time::Duration;

use super::{Effect, Link, Prober, Sight, suspicion};
use crate::{
    agent::{
        health,
        reply::{self, Reply},
        schedule,
    },
    status::{Reason, Role, Stage, State},
    time::{Mono, WallMs},
};

/// While INFO restricts an instance, or it loads, INFO is asked this often.
const RESTRICTED_INFO_INTERVAL: Duration = Duration::from_secs(1);
/// While a server is full, a fresh connection is tried this often.
const FULL_RETRY_INTERVAL: Duration = Duration::from_secs(5);

impl Prober {
    /// Whether INFO is of interest more often: what it restricts should end as soon as it does.
    pub(super) fn info_interval(&self) -> Duration {
        let restricted = self.restriction.is_some() || self.verdict.reason == Reason::Loading;
        if restricted {
            self.config.info_interval.min(RESTRICTED_INFO_INTERVAL)
        } else {
            self.config.info_interval
        }
    }

    /// Judges what INFO and CLUSTER INFO say.
    pub(super) fn restricted(
        &mut self,
        now: Mono,
        wall: WallMs,
        cluster_info: Option<&str>,
        out: &mut Vec<Effect>,
    ) {
        self.restriction = health::judge(&self.info, cluster_info);
        if let Some(restriction) = self.restriction.clone() {
            if self.verdict.reason == Reason::Loading && restriction.reason == Reason::Loading {
                self.explain(&restriction.evidence, out);
            }
            if matches!(self.verdict.state(), State::Up | State::Degraded) || self.successes > 0 {
                self.successes = 0;
                // What PING itself says is graver than what it does not show.
                if self.verdict.state() == State::Up
                    || self.verdict.reason == Reason::NotProbed
                    || self.by_info
                {
                    self.by_info = true;
                    self.judge(
                        wall,
                        restriction.reason,
                        restriction.stage,
                        &restriction.evidence,
                        out,
                    );
                }
            }
            self.info_at = self.info_at.min(now + self.info_interval());
        }
    }

    /// From now on a large process is looked at between its PINGs.
    pub(super) fn patrol_from(&mut self, now: Mono) {
        let every = suspicion::patrol(self.info.health.resident);
        // Common multiples, so that the looks of several instances share a wake-up.
        self.patrol_at = every.map_or(suspicion::NEVER, |every| {
            schedule::next(now, every, Duration::ZERO)
        });
    }

    pub(super) fn inspected(&mut self, now: Mono, wall: WallMs, sight: Sight, out: &mut Vec<Effect>) {
        self.suspicion.seen(sight);
        if self.link != Link::Open {
            return;
        }
        let text = match sight {
            Sight::Exiting | Sight::Zombie => self.suspicion.words().to_owned(),
            Sight::Gone if !self.waiting.is_empty() => self.suspicion.words().to_owned(),
            Sight::NotLocal | Sight::Gone => {
                // There is nothing to look at, until INFO tells of a process again.
                self.patrol_at = suspicion::NEVER;
                return;
            }
            Sight::Running | Sight::Stopped | Sight::Uninterruptible => return,
        };
        self.patrol_at = suspicion::NEVER;
        self.successes = 0;
        let text = match self.waiting.front() {
            Some((_, sent)) => format!("no reply for {:?}, and {text}", now.since(*sent)),
            None => text,
        };
        self.judge(wall, Reason::ProcessGone, Stage::Command, &text, out);
    }

    /// A fresh connection tells whether new clients get in. Only a full server is a verdict; another failure is told
    /// in the evidence, and is mostly seen again on the lasting connection.
    pub(super) fn tried_fresh(
        &mut self,
        now: Mono,
        wall: WallMs,
        answer: Result<Reply, String>,
        out: &mut Vec<Effect>,
    ) {
        if self.verdict.reason == Reason::Ok {
            // Such as a certificate that ended since the lasting connection was opened.
            match &answer {
                Err(why) => {
                    let text = format!("PING answered \"PONG\", but a new connection failed: {why}");
                    self.explain(&text, out);
                }
                Ok(reply) => self.explain(&reply::ping(reply).evidence, out),
            }
        }
        let meaning = answer.ok().map(|reply| reply::ping(&reply));
        self.fresh = meaning.filter(|meaning| meaning.reason == Reason::MaxClients);
        if let Some(full) = self.fresh.clone() {
            self.fresh_at = self
                .fresh_at
                .min(now + self.config.connect_interval.min(FULL_RETRY_INTERVAL));
            if self.verdict.state() == State::Up {
                self.successes = 0;
                self.judge(wall, full.reason, full.stage, &full.evidence, out);
            }
        }
    }

    /// Seen on each new connection, so that a renewed certificate is told too.
    pub(super) fn certified(&mut self, ends: WallMs, out: &mut Vec<Effect>) {
        if self.verdict.certificate_ends != Some(ends) {
            self.verdict.certificate_ends = Some(ends);
            out.push(Effect::Verdict(self.verdict.clone()));
        }
    }

    pub(super) fn informed(&mut self, out: &mut Vec<Effect>) {
        let info = &self.info;
        let mut verdict = self.verdict.clone();
        let known = !verdict.run_id.is_empty();
        if !info.run_id.is_empty() && *verdict.run_id != info.run_id {
            verdict.restarts += u64::from(known);
            verdict.run_id = info.run_id.as_str().into();
        }
        // Dragonfly and Kvrocks have no run_id: there a restart is a younger process.
        if info.run_id.is_empty() && info.uptime_seconds < self.uptime_seconds {
            verdict.restarts += 1;
        }
        self.uptime_seconds = info.uptime_seconds;
        if *verdict.server_version != info.version {
            verdict.server_version = info.version.as_str().into();
        }
        verdict.role = info.role.unwrap_or(Role::Unknown);
        if *verdict.master_address != info.master_address {
            verdict.master_address = info.master_address.as_str().into();
        }
        if verdict != self.verdict {
            self.verdict = verdict.clone();
            // A server that has just answered will be UP with the next reply, and that tells this too: one change less.
            let soon = self.successes > 0 && matches!(verdict.state(), State::Down | State::Unknown);
            if !soon {
                out.push(Effect::Verdict(verdict));
            }
        }
    }
}
