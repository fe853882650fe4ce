//! Checks what PING does not show: INFO, CLUSTER INFO, the server's process, and new connections.

use std::time::Duration;

use super::{Command, ConnectFailure, Effect, Link, Prober, ProcessState, overdue};
use crate::{
    probe::schedule,
    redis::{reply::Meaning, restrictions},
    status::{Reason, Role, Stage, State, run_id::RunId},
    time::{KnownWallMs, Mono, WallMs},
};

/// Interval of INFO while INFO restricts an instance, or the instance loads.
const RESTRICTED_INFO_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of new connections while they fail.
const NEW_CONNECTION_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Number of INFO intervals for which a server counts as full. Later, one that closes connections may be dead behind a
/// proxy.
const FULL_BELIEVED: u32 = 3;
impl Prober {
    /// Interval of INFO while something is restricted: the restriction should end as soon as its cause.
    pub(super) fn restricted_info_interval(&self, now: Mono) -> Option<Duration> {
        let restricted = self.restriction.is_some()
            || self.verdict.reason == Reason::Loading
            || self.refusals.are_recent(now);
        restricted.then(|| self.config.info_interval.min(RESTRICTED_INFO_INTERVAL))
    }

    /// Judges the answers to INFO and CLUSTER INFO.
    pub(super) fn restricted(
        &mut self,
        now: Mono,
        wall: WallMs,
        cluster_info: Option<&str>,
        out: &mut Vec<Effect>,
    ) {
        let refused = self.refusals.last(now, &self.info.health);
        let side = self.side.clone();
        self.restriction = side.or_else(|| restrictions::judge(&self.info, cluster_info, refused));
        if let Some(restriction) = self.restriction.clone() {
            if self.verdict.reason == Reason::Loading && restriction.reason == Reason::Loading {
                self.explain(&restriction.evidence, out);
            }
            if matches!(self.verdict.state(), State::Up | State::Degraded) || self.successes > 0 {
                self.successes = 0;
                // A verdict by the answer to PING itself is graver than one by INFO.
                if self.verdict.state() == State::Up
                    || self.verdict.reason == Reason::NotProbed
                    || self.by_info
                {
                    self.by_info = true;
                    self.judge_meaning(now, wall, &restriction, out);
                }
            }
        }
        if self.restricted_info_interval(now).is_some() {
            self.info_at = self.info_at.min(self.next_info(now));
        }
    }

    /// Starts to check a large process between its PINGs.
    pub(super) fn schedule_process_check(&mut self, now: Mono) {
        let every = overdue::process_check_interval(self.info.health.resident);
        // Checks fall on multiples of the interval, so that those of several instances share a wake-up.
        self.process_check_at =
            every.map_or(overdue::NEVER, |every| schedule::next(now, every, Duration::ZERO));
    }

    pub(super) fn process_checked(
        &mut self,
        now: Mono,
        wall: WallMs,
        state: ProcessState,
        out: &mut Vec<Effect>,
    ) {
        self.overdue_check.seen(state);
        if self.link != Link::Open {
            return;
        }
        self.ask_after_process_check(state, out);
        let text = match state {
            ProcessState::Exiting | ProcessState::Zombie => self.overdue_check.describe().to_owned(),
            ProcessState::Gone if !self.waiting.is_empty() => self.overdue_check.describe().to_owned(),
            ProcessState::NotLocal | ProcessState::Gone => {
                // There is no process to check until INFO names one again.
                self.process_check_at = overdue::NEVER;
                return;
            }
            ProcessState::Running | ProcessState::Stopped | ProcessState::Uninterruptible => return,
        };
        self.process_check_at = overdue::NEVER;
        self.successes = 0;
        let text = match self.waiting.front() {
            Some((_, sent)) => format!("no reply for {:?}, and {text}", now.since(*sent)),
            None => text,
        };
        if self.verdict.reason == Reason::ProcessGone {
            return;
        }
        self.judge(now, wall, Reason::ProcessGone, Stage::Command, &text, out);
        self.ask_for_successor(now, out);
    }

    /// Judges a new connection, which shows whether new clients get in while the lasting connection is served. A full
    /// server is a verdict at once, another failure of the server is one when it repeats. What may be the agent's own
    /// fault, such as a password, only appears in the evidence.
    pub(super) fn new_connection_checked(
        &mut self,
        now: Mono,
        wall: WallMs,
        answer: Result<Meaning, ConnectFailure>,
        out: &mut Vec<Effect>,
    ) {
        let note = match &answer {
            Err(failure) => Some(format!("but a new connection failed: {}", failure.describe())),
            Ok(meaning) if meaning.reason == Reason::Ok => None,
            Ok(meaning) => Some(format!("but on a new connection {}", meaning.evidence)),
        };
        if self.new_connection_note != note {
            self.new_connection_note = note;
            self.explain_health(out);
        }
        self.new_connection = match &answer {
            Ok(meaning) => {
                self.new_connection_failures = 0;
                Some(meaning.clone()).filter(|meaning| meaning.reason == Reason::MaxClients)
            }
            // With TLS a full server closes the connection without an error.
            Err(failure) if failure.closed_silently() && self.was_full(now) => Some(self.full()),
            Err(failure) if failure.concerns_server() => {
                self.new_connection_failures = self.new_connection_failures.saturating_add(1);
                let enough = self.new_connection_failures >= self.config.failures_before_down;
                enough.then(|| Meaning {
                    reason: Reason::NewConnectionsFail,
                    stage: Stage::Connect,
                    evidence: format!(
                        "the lasting connection is served, but new ones fail again and again: {}",
                        failure.describe()
                    )
                    .into(),
                    abilities: None,
                })
            }
            // The failure says nothing about the server: what was known stays.
            Err(_) => self.new_connection.clone(),
        };
        if self.new_connection.is_some() || self.new_connection_failures > 0 {
            let again = self.config.connect_interval.min(NEW_CONNECTION_RETRY_INTERVAL);
            self.new_connection_at = self.new_connection_at.min(now + again);
        }
        if let Some(refused) = self
            .new_connection
            .clone()
            .filter(|_| self.verdict.state() == State::Up)
        {
            self.successes = 0;
            self.judge_meaning(now, wall, &refused, out);
        }
    }

    /// Records that INFO or CLUSTER INFO was not answered properly, which does not count against a server that answers
    /// PING. The evidence says what is unknown because of it.
    pub(super) fn unanswered(&mut self, command: Command, why: Option<String>, out: &mut Vec<Effect>) {
        let (gap, name, unknown) = match command {
            Command::ClusterInfo => (
                &mut self.cluster_gap,
                "CLUSTER INFO",
                "the state of the cluster is",
            ),
            _ => (&mut self.info_gap, "INFO", "role, memory and replication are"),
        };
        let text = why.map(|why| format!("{name} {why}, so {unknown} not known"));
        if *gap != text {
            *gap = text;
            self.explain_health(out);
        }
    }

    /// Builds the evidence of a healthy instance: the answer to PING, and what else was noticed.
    pub(super) fn explain_health(&mut self, out: &mut Vec<Effect>) {
        if self.verdict.reason != Reason::Ok {
            return;
        }
        let mut text = self.ping_evidence.to_string();
        if let Some(note) = &self.new_connection_note {
            text.push_str(", ");
            text.push_str(note);
        }
        for gap in [&self.info_gap, &self.cluster_gap].into_iter().flatten() {
            text.push_str("; ");
            text.push_str(gap);
        }
        self.explain(&text, out);
    }

    /// Whether the server was full when INFO was last answered, if that is recent.
    pub(super) fn was_full(&self, now: Mono) -> bool {
        self.info.health.is_full() && now.since(self.informed_at) < self.config.info_interval * FULL_BELIEVED
    }

    /// The meaning of a connection that a full server closes without an error.
    pub(super) fn full(&self) -> Meaning {
        let health = &self.info.health;
        Meaning {
            reason: Reason::MaxClients,
            stage: Stage::Connect,
            evidence: format!(
                "new connections are cut, and INFO said that as many clients are connected as may be ({})",
                health.max_clients
            )
            .into(),
            abilities: None,
        }
    }

    /// Takes the expiry of the certificate. It is seen on each new connection, so that a renewed certificate is
    /// reported too.
    pub(super) fn certified(&mut self, ends: WallMs, out: &mut Vec<Effect>) {
        let ends = KnownWallMs::new(ends);
        if self.verdict.certificate_ends != ends {
            self.verdict.certificate_ends = ends;
            out.push(Effect::Verdict(self.verdict.clone()));
        }
    }

    pub(super) fn informed(&mut self, out: &mut Vec<Effect>) {
        let info = &self.info;
        let mut verdict = self.verdict.clone();
        let known = !verdict.run_id.is_empty();
        let run_id = RunId::new(&info.run_id);
        if !run_id.is_empty() && verdict.run_id != run_id {
            verdict.restarts = verdict.restarts.saturating_add(u32::from(known));
            verdict.run_id = run_id;
        }
        // Dragonfly and Kvrocks have no run_id: there a restart is a younger process.
        let younger = info
            .uptime_seconds
            .zip(self.uptime_seconds)
            .is_some_and(|(now, before)| now < before);
        if info.run_id.is_empty() && younger {
            verdict.restarts = verdict.restarts.saturating_add(1);
        }
        self.uptime_seconds = info.uptime_seconds.or(self.uptime_seconds);
        if *verdict.server_version != info.version {
            verdict.server_version = info.version.as_str().into();
        }
        verdict.role = info.role.unwrap_or(Role::Unknown);
        if *verdict.master_address != info.master_address {
            verdict.master_address = info.master_address.as_str().into();
        }
        if verdict != self.verdict {
            self.verdict = verdict.clone();
            // A server that has just answered becomes UP with the next reply, and that change reports this too.
            let soon = self.successes > 0 && matches!(verdict.state(), State::Down | State::Unknown);
            if !soon {
                out.push(Effect::Verdict(verdict));
            }
        }
    }
}
