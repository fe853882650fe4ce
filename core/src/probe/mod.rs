//! The judge of one instance. Rules: `reference/redis.md` section 7.2.
//!
//! A hard fact (connection refused, socket missing) is believed at once. Silence becomes DOWN exactly
//! `hang_after` after the last valid reply. Other failures need `failures_before_down` in a row, and UP needs
//! `successes_before_up` replies. Time during which the agent itself slept is never held against the server.

use std::{borrow::Cow, collections::VecDeque, time::Duration};

use crate::{
    redis::{info, reply::Meaning},
    status::{Reason, Stage, Verdict},
    time::{Mono, WallMs},
};

pub use messages::{Command, ConnectFailure, Effect, Input, ProbeConfig, Sight};

mod answers;
mod connection;
mod extra_checks;
mod flapping;
mod messages;
mod overdue;
mod refusals;
mod rounds;
pub mod schedule;
mod second_connection;
mod verdict;
pub mod watchdog;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Link {
    Closed { retry_at: Mono },
    Connecting { give_up_at: Mono },
    Open,
}

/// A dying process may close our connection before its listening socket: a reconnection is then accepted
/// and reset. It is repeated after 1, 2, 4, 8 and 16 ms before that counts as a failure.
const QUICK_MAX: u32 = 5;

/// A reply is confirmed by another one after this, or a fifth of the interval, at the latest.
const CONFIRM_AFTER: Duration = Duration::from_millis(100);

/// State of one instance's probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prober {
    config: ProbeConfig,
    link: Link,
    waiting: VecDeque<(Command, Mono)>,
    /// Silence counts from here: the last valid reply, or the last failure of another kind.
    quiet_since: Mono,
    replied_on_link: bool,
    pinged_on_link: bool,
    /// Answers on this connection that nothing asked for.
    unasked: u32,
    /// When a closed connection was last replaced at once.
    reconnected_at: Option<Mono>,
    auth_error: Option<Meaning>,
    ping_at: Mono,
    info_at: Mono,
    /// The peer closed on INFO: it is not asked again before this.
    info_not_before: Mono,
    successes: u32,
    failures: u32,
    /// Connections in a row that were closed between the answer to AUTH and that to PING.
    cut_short: u32,
    /// What INFO and CLUSTER INFO restrict.
    restriction: Option<Meaning>,
    /// The verdict rests on INFO.
    by_info: bool,
    /// What the last fresh connection was refused for.
    fresh: Option<Meaning>,
    fresh_at: Mono,
    /// Fresh connections in a row that the server did not serve.
    fresh_failures: u32,
    /// What the server refuses, by its own counts.
    refusals: refusals::Refusals,
    /// What an error to INFO or CLUSTER INFO says of the server.
    side: Option<Meaning>,
    /// The last answer to PING that means health.
    ping_evidence: Cow<'static, str>,
    /// What the last fresh connection adds to it.
    fresh_note: Option<String>,
    /// Why INFO tells nothing.
    info_gap: Option<String>,
    /// Why CLUSTER INFO tells nothing.
    cluster_gap: Option<String>,
    /// The last INFO, while CLUSTER INFO is awaited; and whether it is asked for.
    info: info::Info,
    /// What the INFO before told.
    uptime_seconds: Option<u64>,
    /// When it was answered.
    informed_at: Mono,
    suspicion: overdue::Suspicion,
    /// What a second connection tells while this one is silent.
    second: second_connection::Second,
    /// Connections that were mute while the server answered on another one.
    mute_connections: u32,
    /// When the process is looked at next while no answer is awaited.
    patrol_at: Mono,
    /// Quick reconnections made since a working connection was closed.
    quick: u32,
    flapping: flapping::Flapping,
    verdict: Verdict,
    /// What `next_deadline` promised last; waking much later means that the agent slept.
    promised: Mono,
}

impl Prober {
    /// Starts at once with a connection attempt, on the first tick.
    pub fn new(now: Mono, wall: WallMs, config: ProbeConfig) -> Self {
        Self {
            link: Link::Closed { retry_at: now },
            waiting: VecDeque::with_capacity(3),
            quiet_since: now,
            replied_on_link: false,
            pinged_on_link: false,
            unasked: 0,
            reconnected_at: None,
            auth_error: None,
            ping_at: schedule::next(now, config.interval, config.phase),
            info_at: now,
            info_not_before: now,
            successes: 0,
            failures: 0,
            cut_short: 0,
            restriction: None,
            by_info: false,
            fresh: None,
            fresh_at: config.spread.next(now, config.connect_interval),
            fresh_failures: 0,
            refusals: refusals::Refusals::default(),
            side: None,
            ping_evidence: Cow::Borrowed(""),
            fresh_note: None,
            info_gap: None,
            cluster_gap: None,
            info: info::Info::default(),
            uptime_seconds: None,
            informed_at: now,
            suspicion: overdue::Suspicion::default(),
            second: second_connection::Second::default(),
            mute_connections: 0,
            patrol_at: overdue::NEVER,
            quick: QUICK_MAX,
            flapping: flapping::Flapping::default(),
            verdict: Verdict::blank(Reason::NotProbed, Stage::Resolve, "not yet probed", wall),
            promised: now,
            config,
        }
    }

    /// Goes on with what a replaced worker of the same instance knew.
    pub fn resume(now: Mono, config: ProbeConfig, verdict: Verdict) -> Self {
        Self {
            verdict,
            ..Self::new(now, WallMs::default(), config)
        }
    }

    /// The verdict in force.
    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    /// What the last INFO told.
    pub fn info(&self) -> &info::Info {
        &self.info
    }

    /// When [`step`](Self::step) must be called with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Mono {
        match self.link {
            Link::Closed { retry_at } => retry_at,
            Link::Connecting { give_up_at } => give_up_at.min(self.ping_at),
            Link::Open if self.waiting.is_empty() => self.ping_at.min(self.patrol_at),
            Link::Open => self
                .silence_deadline()
                .min(self.ping_at)
                .min(self.suspicion.look_at())
                .min(self.patrol_at),
        }
    }

    /// Takes what was seen at `now` (`wall` is only copied into verdicts) and says what to do.
    pub fn step(&mut self, now: Mono, wall: WallMs, input: Input, out: &mut Vec<Effect>) {
        self.forgive_own_pause(now, out);
        match input {
            Input::Tick => self.tick(now, wall, out),
            Input::Connected => self.connected(now, out),
            Input::Certificate(ends) => self.certified(ends, out),
            Input::ConnectFailed(failure) => self.connect_failed(now, wall, &failure, out),
            Input::Replied(reply) => self.replied(now, wall, &reply, out),
            Input::Closed(how) => self.closed(now, wall, &how, out),
            Input::Inspected(sight) => self.inspected(now, wall, sight, out),
            Input::Fresh(answer) => self.tried_fresh(now, wall, answer, out),
            Input::Moved if self.link == Link::Open => {
                // What is known of the former server says nothing about the one at the new address.
                self.successes = 0;
                self.quiet_since = now;
                out.push(Effect::Disconnect);
                self.connect(now, out);
            }
            Input::Moved => {}
            Input::Second(answer) => self.second_answered(now, wall, answer, out),
            Input::Garbage(what) if self.awaits_side_answer() => {
                self.info_not_before = now + self.config.info_interval;
                self.unanswered(
                    Command::Info,
                    Some(format!("is answered with what is not RESP ({what})")),
                    out,
                );
                out.push(Effect::Disconnect);
                self.connect(now, out);
            }
            Input::Garbage(what) => {
                let (reason, stage, _, text) = ConnectFailure::NotRedis(what).meaning();
                self.judge(now, wall, reason, stage, &text, out);
                self.hang_up(now, out);
            }
        }
        self.promised = self.next_deadline();
    }

    fn forgive_own_pause(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let late = now.since(self.promised);
        if late > self.config.interval * 2 {
            self.quiet_since = self.quiet_since + late;
            if let Link::Connecting { give_up_at } = &mut self.link {
                *give_up_at = *give_up_at + late;
            }
            out.push(Effect::Paused(late));
        }
    }
}

#[cfg(test)]
mod tests;
