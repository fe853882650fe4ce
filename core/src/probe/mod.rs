//! The probe of one instance: decides what to send, and the verdict. `docs/replies.md` has the rules.
//!
//! A hard fact (connection refused, socket missing) is believed at once. Silence becomes DOWN exactly `hang_after`
//! after the last valid reply. Other failures need `failures_before_down` in a row, and UP needs `successes_before_up`
//! replies. Time during which the agent itself did not run never counts against the server.

use std::{borrow::Cow, collections::VecDeque, time::Duration};

use crate::{
    redis::{info, reply::Meaning},
    status::{Reason, Stage, Verdict},
    time::{Mono, WallMs},
};
use trail::{Before, Event};

pub use messages::{Command, ConnectFailure, Effect, Input, ProbeConfig, ProcessState};
pub use outlook::{Counters, Due, LinkState, Outlook, ProbeSnapshot};

mod answers;
mod connection;
mod extra_checks;
mod flapping;
mod messages;
mod outlook;
mod overdue;
mod refusals;
mod rounds;
pub mod schedule;
mod silence;
pub mod trail;
mod verdict;
pub mod watchdog;

#[derive(Clone, PartialEq, Eq, Debug)]
enum Link {
    Closed { retry_at: Mono },
    Connecting { give_up_at: Mono },
    Open,
}

/// Most immediate reconnections. A dying process may close the probe's connection before its listening socket: a
/// reconnection is then accepted and reset. It is repeated after 1, 2, 4, 8 and 16 ms before that counts as a failure.
const FAST_RETRIES_MAX: u32 = 5;

/// Longest delay of the PING that confirms a reply; a fifth of the interval if that is shorter.
const CONFIRM_AFTER: Duration = Duration::from_millis(100);

/// State of one instance's probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prober {
    config: ProbeConfig,
    link: Link,
    waiting: VecDeque<(Command, Mono)>,
    /// Start of the silence: the last valid reply, or the last failure of another kind.
    silent_since: Mono,
    replied_on_link: bool,
    pinged_on_link: bool,
    /// Unrequested answers on this connection.
    unasked: u32,
    /// When a closed connection was last replaced immediately.
    reconnected_at: Option<Mono>,
    auth_error: Option<Meaning>,
    ping_at: Mono,
    info_at: Mono,
    /// INFO is not sent again before this time, because the peer closed the connection on INFO.
    info_not_before: Mono,
    successes: u32,
    failures: u32,
    /// Connections in a row that were closed between the answer to AUTH and that to PING.
    closed_after_auth: u32,
    /// The restriction that INFO and CLUSTER INFO show.
    restriction: Option<Meaning>,
    /// True if the verdict rests on INFO.
    by_info: bool,
    /// Why the last new connection was not served.
    new_connection: Option<Meaning>,
    new_connection_at: Mono,
    /// New connections in a row that the server did not serve.
    new_connection_failures: u32,
    /// What the server refuses, by its own counters.
    refusals: refusals::Refusals,
    /// What an error in answer to INFO or CLUSTER INFO says of the server.
    side: Option<Meaning>,
    /// The last answer to PING that counted as healthy.
    ping_evidence: Cow<'static, str>,
    /// What the last new connection adds to that evidence.
    new_connection_note: Option<String>,
    /// Why INFO is not known.
    info_gap: Option<String>,
    /// Why CLUSTER INFO is not known.
    cluster_gap: Option<String>,
    /// The last INFO. It says whether CLUSTER INFO is sent, and is judged together with its answer.
    info: info::Info,
    /// Uptime by the previous INFO.
    uptime_seconds: Option<u64>,
    /// When INFO was last answered.
    informed_at: Mono,
    overdue_check: overdue::OverdueCheck,
    /// State of the second connection, which is asked while the present one is silent.
    second: silence::SecondConnection,
    /// Number of connections that were silent while the server answered on another one.
    silent_connections: u32,
    /// When the process is checked next while no answer is awaited.
    process_check_at: Mono,
    /// Immediate reconnections since a working connection was closed.
    fast_retries: u32,
    flapping: flapping::Flapping,
    verdict: Verdict,
    /// The last probes and decisions, for debug pages.
    trail: trail::Trail,
    /// The last result of `next_deadline`; waking much later means that the agent did not run.
    promised: Mono,
}

impl Prober {
    /// Starts with a connection attempt on the first tick.
    pub fn new(now: Mono, wall: WallMs, config: ProbeConfig) -> Self {
        Self {
            link: Link::Closed { retry_at: now },
            waiting: VecDeque::with_capacity(3),
            silent_since: now,
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
            closed_after_auth: 0,
            restriction: None,
            by_info: false,
            new_connection: None,
            new_connection_at: config.spread.next(now, config.connect_interval),
            new_connection_failures: 0,
            refusals: refusals::Refusals::default(),
            side: None,
            ping_evidence: Cow::Borrowed(""),
            new_connection_note: None,
            info_gap: None,
            cluster_gap: None,
            info: info::Info::default(),
            uptime_seconds: None,
            informed_at: now,
            overdue_check: overdue::OverdueCheck::default(),
            second: silence::SecondConnection::default(),
            silent_connections: 0,
            process_check_at: overdue::NEVER,
            fast_retries: FAST_RETRIES_MAX,
            flapping: flapping::Flapping::default(),
            verdict: Verdict::blank(Reason::NotProbed, Stage::Resolve, "not yet probed", wall),
            trail: trail::Trail::default(),
            promised: now,
            config,
        }
    }

    /// Continues with the verdict of a replaced worker of the same instance.
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

    /// Content of the last INFO.
    pub fn info(&self) -> &info::Info {
        &self.info
    }

    /// When [`step`](Self::step) must be called with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Mono {
        match self.link {
            Link::Closed { retry_at } => retry_at,
            Link::Connecting { give_up_at } => give_up_at.min(self.ping_at),
            Link::Open if self.waiting.is_empty() => self.ping_at.min(self.process_check_at),
            Link::Open => self
                .silence_deadline()
                .min(self.ping_at)
                .min(self.overdue_check.check_at())
                .min(self.process_check_at),
        }
    }

    /// Applies an input at `now` and appends what to do. `wall` is only copied into verdicts.
    pub fn step(&mut self, now: Mono, wall: WallMs, input: Input, out: &mut Vec<Effect>) {
        let (before, begin) = (Before::of(&self.verdict), out.len());
        self.forgive_own_pause(now, out);
        self.trail.observed(now, &input);
        self.apply(now, wall, input, out);
        let effects = out.get(begin..).unwrap_or_default();
        self.trail.decided(now, before, &self.verdict, effects);
        self.promised = self.next_deadline();
    }

    fn apply(&mut self, now: Mono, wall: WallMs, input: Input, out: &mut Vec<Effect>) {
        match input {
            Input::Tick => self.tick(now, wall, out),
            Input::Connected => self.connected(now, out),
            Input::Certificate(ends) => self.certified(ends, out),
            Input::ConnectFailed(failure) => self.connect_failed(now, wall, &failure, out),
            Input::Replied(reply) => self.replied(now, wall, &reply, out),
            Input::Closed(how) => self.closed(now, wall, &how, out),
            Input::ProcessChecked(state) => self.process_checked(now, wall, state, out),
            Input::NewConnectionChecked(answer) => self.new_connection_checked(now, wall, answer, out),
            Input::Moved if self.link == Link::Open => {
                // What is known of the former server does not apply to the one at the new address.
                self.successes = 0;
                self.silent_since = now;
                out.push(Effect::Disconnect);
                self.connect(now, out);
            }
            Input::Moved => {}
            Input::SecondConnectionChecked(answer) => self.second_answered(now, wall, answer, out),
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
    }

    fn forgive_own_pause(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let late = now.since(self.promised);
        if late > self.config.interval * 2 {
            self.silent_since = self.silent_since + late;
            if let Link::Connecting { give_up_at } = &mut self.link {
                *give_up_at = *give_up_at + late;
            }
            self.trail.record(now, Event::Paused, &format!("for {late:?}"));
            out.push(Effect::Paused(late));
        }
    }
}

#[cfg(test)]
mod tests;
