//! What a prober holds and will do next, as plain values that another thread may keep: debug pages show them.

use std::time::Duration;

use super::{Command, Link, ProbeConfig, Prober, overdue, trail::Trail};
use crate::time::Mono;

/// Commands that may be awaited at one time: AUTH, PING, INFO and CLUSTER INFO.
pub(super) const AWAITED_MAX: usize = 4;

/// State of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// There is none.
    Closed,
    /// It is being opened.
    Connecting,
    /// It is open.
    Open,
}

impl LinkState {
    /// Name of the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Connecting => "connecting",
            Self::Open => "open",
        }
    }
}

/// What is due next, and when. `None` where it is not due in the present state of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Due {
    /// The next attempt to connect.
    pub connect: Option<Mono>,
    /// The end of the present attempt to connect.
    pub give_up: Option<Mono>,
    /// The next PING, if the awaited answers have come.
    pub ping: Option<Mono>,
    /// INFO, with the first PING from then on.
    pub info: Option<Mono>,
    /// The check with a new connection, with the first PING from then on.
    pub new_connection: Option<Mono>,
    /// The next check of the server's process.
    pub process_check: Option<Mono>,
    /// A second connection is opened, if nothing is answered until then.
    pub second_connection: Option<Mono>,
    /// Silence becomes a verdict, if nothing is answered until then.
    pub silence_verdict: Option<Mono>,
}

/// What a prober awaits, and what it will do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outlook {
    /// State of the connection.
    pub link: LinkState,
    /// Commands without an answer, and when each was sent. The first is answered first.
    pub awaited: [Option<(Command, Mono)>; AWAITED_MAX],
    /// What is due next.
    pub due: Due,
    /// When the prober acts at the latest.
    pub next_step: Mono,
}

/// Counters on which decisions rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Good answers to PING in a row.
    pub successes: u32,
    /// Soft failures in a row.
    pub failures: u32,
    /// Connections in a row that were closed between the answers to AUTH and PING.
    pub closed_after_auth: u32,
    /// Checks with a new connection in a row that the server did not serve.
    pub new_connection_failures: u32,
    /// Connections that were silent while the server answered on another one.
    pub silent_connections: u32,
    /// Unrequested answers on the present connection.
    pub unasked: u32,
}

/// Everything about a prober that explains its verdict.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeSnapshot {
    /// The configuration, with all thresholds.
    pub config: ProbeConfig,
    /// What is awaited and due.
    pub outlook: Outlook,
    /// Counters on which decisions rest.
    pub counters: Counters,
    /// Start of the silence: the last valid reply, or the last failure of another kind.
    pub silent_since: Mono,
    /// About the worst recent latency; a PING is overdue after a multiple of it.
    pub usual_latency: Duration,
    /// The last probes and decisions.
    pub trail: Trail,
}

impl Prober {
    /// What is awaited, and what is due next.
    pub fn outlook(&self) -> Outlook {
        let mut awaited = [None; AWAITED_MAX];
        for (place, waiting) in awaited.iter_mut().zip(&self.waiting) {
            *place = Some(*waiting);
        }
        let link = match self.link {
            Link::Closed { .. } => LinkState::Closed,
            Link::Connecting { .. } => LinkState::Connecting,
            Link::Open => LinkState::Open,
        };
        Outlook {
            link,
            awaited,
            due: self.due(),
            next_step: self.next_deadline(),
        }
    }

    /// Copies what explains the verdict. Allocates nothing.
    pub fn snapshot(&self) -> ProbeSnapshot {
        ProbeSnapshot {
            config: self.config.clone(),
            outlook: self.outlook(),
            counters: Counters {
                successes: self.successes,
                failures: self.failures,
                closed_after_auth: self.closed_after_auth,
                new_connection_failures: self.new_connection_failures,
                silent_connections: self.silent_connections,
                unasked: self.unasked,
            },
            silent_since: self.silent_since,
            usual_latency: self.overdue_check.usual(),
            trail: self.trail.clone(),
        }
    }

    fn due(&self) -> Due {
        let mut due = Due {
            info: Some(self.info_at),
            new_connection: Some(self.new_connection_at),
            ..Due::default()
        };
        match self.link {
            Link::Closed { retry_at } => due.connect = Some(retry_at),
            Link::Connecting { give_up_at } => due.give_up = Some(give_up_at),
            Link::Open => {
                due.ping = Some(self.ping_at);
                let checks = if self.waiting.is_empty() {
                    self.process_check_at
                } else {
                    self.process_check_at.min(self.overdue_check.check_at())
                };
                due.process_check = Some(checks).filter(|at| *at != overdue::NEVER);
                (due.second_connection, due.silence_verdict) = self.silence_times();
            }
        }
        due
    }
}
