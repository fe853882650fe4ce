//! The judge of one instance. Rules: `reference/redis.md` section 7.2.
//!
//! A hard fact (connection refused, socket missing) is believed at once. Silence becomes DOWN exactly
//! `hang_after` after the last valid reply. Other failures need `failures_before_down` in a row, and UP needs
//! `successes_before_up` replies. Time during which the agent itself slept is never held against the server.

use std::{borrow::Cow, collections::VecDeque, time::Duration};

use crate::{
    redis::{
        info,
        reply::{self, Meaning, Reply},
    },
    status::{Reason, Stage, State, Verdict},
    time::{Mono, WallMs},
};

pub use messages::{Command, ConnectFailure, Effect, Input, ProbeConfig, Sight};

mod connection;
mod extra_checks;
mod flapping;
mod messages;
mod overdue;
mod refusals;
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

/// So many answers on one connection that nothing asked for: some servers speak first to say why they will hang up,
/// and a request may get a second answer; more is a peer that talks by itself.
const UNASKED_MAX: u32 = 8;

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

    fn tick(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        if self.verdict.flapping && !self.flapping.is_flapping(now) {
            self.verdict.flapping = false;
            out.push(Effect::Verdict(self.verdict.clone()));
        }
        match self.link {
            Link::Closed { retry_at } if now >= retry_at => self.connect(now, out),
            Link::Closed { .. } => {}
            Link::Connecting { give_up_at } if now >= give_up_at => {
                let text = format!("no connection within {:?}", self.config.connect_timeout);
                out.push(Effect::Disconnect);
                self.soft_failure(now, wall, Reason::ConnectTimeout, Stage::Connect, &text, out);
            }
            Link::Open if !self.waiting.is_empty() && now >= self.silence_deadline() => {
                self.silent(now, wall, out);
                self.still_waiting(now, out);
            }
            Link::Connecting { .. } => self.still_waiting(now, out),
            Link::Open if !self.waiting.is_empty() => {
                if now >= self.suspicion.look_at() {
                    self.suspicion.look(now, self.config.interval);
                    out.push(Effect::Inspect);
                } else if now >= self.patrol_at {
                    self.patrol_from(now);
                    out.push(Effect::Inspect);
                }
                self.still_waiting(now, out);
            }
            Link::Open if now >= self.ping_at => self.send(now, out),
            Link::Open if now >= self.patrol_at => {
                self.patrol_from(now);
                out.push(Effect::Inspect);
            }
            Link::Open => {}
        }
    }

    /// A round that found the former one still open: judged, nothing to change yet.
    fn still_waiting(&mut self, now: Mono, out: &mut Vec<Effect>) {
        if now >= self.ping_at {
            self.ping_at = schedule::next(now, self.config.interval, self.config.phase);
            out.push(Effect::Round);
        }
    }

    fn connect(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.waiting.clear();
        self.replied_on_link = false;
        self.pinged_on_link = false;
        self.unasked = 0;
        self.auth_error = None;
        self.restriction = None;
        self.suspicion.forget();
        self.second_is_void();
        self.patrol_at = overdue::NEVER;
        self.link = Link::Connecting {
            give_up_at: now + self.config.connect_timeout,
        };
        self.ping_at = schedule::next(now, self.config.interval, self.config.phase);
        out.push(Effect::Connect);
    }

    fn connected(&mut self, now: Mono, out: &mut Vec<Effect>) {
        self.link = Link::Open;
        if now >= self.quiet_since + self.config.hang_after {
            // Silence of a former connection is not held against one that has had no time to answer.
            self.quiet_since = now;
        }
        // INFO on each new connection: the server may have been restarted.
        self.info_at = now.max(self.info_not_before);
        self.send(now, out);
    }

    fn send(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let mut commands = Vec::with_capacity(3);
        let info_due = now >= self.info_at;
        if self.config.authenticate && !self.replied_on_link {
            commands.push(Command::Auth);
        } else if self.auth_error.is_some() && info_due {
            // Authentication is tried again on a new connection, no more often than INFO.
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
        if now >= self.fresh_at && self.verdict.state() != State::Unknown {
            out.push(Effect::TryFresh);
            self.fresh_at = self.config.spread.next(now, self.config.connect_interval);
        }
        self.suspicion
            .sent(now, self.verdict.reason == Reason::ReplyTimeout);
        self.waiting
            .extend(commands.iter().map(|command| (*command, now)));
        self.ping_at = schedule::next(now, self.config.interval, self.config.phase);
        out.push(Effect::Send(commands));
    }

    fn replied(&mut self, now: Mono, wall: WallMs, reply: &Reply, out: &mut Vec<Effect>) {
        let Some((command, sent)) = self.waiting.pop_front() else {
            // Some servers speak first, to say why they will hang up.
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
        match command {
            Command::Auth => {
                if let Reply::Error(line) = reply {
                    self.auth_error = reply::auth(line);
                }
            }
            Command::Ping => {
                if !std::mem::replace(&mut self.pinged_on_link, true) {
                    // This connection was a new one.
                    (self.fresh, self.fresh_failures) = (None, 0);
                }
                self.cut_short = 0;
                let latency = now.since(sent);
                self.suspicion.answered(latency, self.config.hang_after);
                out.push(Effect::Latency(latency));
                let mut meaning = reply::ping(reply);
                if let (Some(auth), Reason::AuthRequired) = (&self.auth_error, meaning.reason) {
                    meaning = auth.clone();
                }
                self.heard(now, wall, meaning, out);
                out.push(Effect::Round);
            }
            Command::Info => {
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
                        self.patrol_from(now);
                        out.push(Effect::Locate(self.info.process_id.zip(self.info.uptime_seconds)));
                    }
                    // Without the permission to ask, the process may still be found by its socket.
                    Reply::Error(_) | Reply::Other => {
                        // What it told before is of the past.
                        self.info.health = info::Health::default();
                        out.push(Effect::Locate(None));
                    }
                }
                if self.waiting.is_empty() {
                    if self.info.cluster_enabled {
                        // Known only now: asked at once, in the same round.
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
                self.unanswered(command, why, out);
                self.restricted(now, wall, text, out);
            }
        }
    }

    fn parse_info(&mut self, text: &str) {
        let former = std::mem::replace(&mut self.info, info::parse(text));
        // What it refused in another role, or before it was restarted, says nothing about now.
        if (former.role, &former.run_id) != (self.info.role, &self.info.run_id) {
            self.refusals = refusals::Refusals::default();
        }
    }

    /// PING was answered on this connection, and what comes next is no answer to PING.
    fn awaits_side_answer(&self) -> bool {
        let side = matches!(
            self.waiting.front(),
            Some((Command::Info | Command::ClusterInfo, _))
        );
        self.pinged_on_link && side
    }

    fn valid_reply(&mut self, now: Mono) {
        self.quiet_since = now;
        self.replied_on_link = true;
        self.quick = QUICK_MAX;
        self.failures = 0;
        self.silence_ended();
    }

    fn next_info(&self, now: Mono) -> Mono {
        match self.restricted_info_interval(now) {
            Some(soon) => now + soon,
            None => self.config.spread.next(now, self.config.info_interval),
        }
    }
}

#[cfg(test)]
mod tests;
