//! The inputs and effects of the probe of one instance, and its configuration.

use std::time::Duration;

use crate::{
    probe::schedule::Spread,
    redis::reply::{Meaning, Reply},
    status::{Reason, Stage, Verdict},
    time::WallMs,
};

/// How to probe one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeConfig {
    /// Time between PINGs.
    pub interval: Duration,
    /// Position within the interval, from [`phase`](crate::probe::schedule::phase).
    pub phase: Duration,
    /// Position of the less frequent work within its intervals, from [`Spread::of`].
    pub spread: Spread,
    /// Time that a connection attempt may take.
    pub connect_timeout: Duration,
    /// Silence after the last valid reply that means DOWN.
    pub hang_after: Duration,
    /// Time between INFOs.
    pub info_interval: Duration,
    /// Time between proofs that new clients get in.
    pub connect_interval: Duration,
    /// Good replies in a row before UP.
    pub successes_before_up: u32,
    /// Soft failures in a row before DOWN.
    pub failures_before_down: u32,
    /// Whether AUTH comes first on each connection.
    pub authenticate: bool,
    /// Whether TLS is spoken.
    pub tls: bool,
    /// The instance was discovered, and its process is no longer found: a refused connection then means that it is
    /// gone.
    pub vanished: bool,
}

/// A command of the probe. Replies come in the order of the commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Command {
    Auth,
    Ping,
    Info,
    ClusterInfo,
}

impl Command {
    /// The command as it is sent, without arguments.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::ClusterInfo => "CLUSTER INFO",
        }
    }
}

/// State of the server's process, as the kernel shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProcessState {
    /// No process on this host that is known to be the server.
    NotLocal,
    /// Running, or waiting as servers do.
    Running,
    /// Stopped by a signal or a debugger.
    Stopped,
    /// In uninterruptible sleep, mostly for a disk.
    Uninterruptible,
    /// Exiting (`PF_EXITING`).
    Exiting,
    /// A zombie: its first thread has ended, while others may still free its memory.
    Zombie,
    /// Ended, or its number now belongs to another process.
    Gone,
}

/// Why a connection attempt failed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ConnectFailure {
    /// ECONNREFUSED: nothing listens.
    Refused,
    /// ENOENT: no such Unix socket.
    SocketMissing,
    /// EHOSTUNREACH, ENETUNREACH.
    Unreachable,
    /// The peer reset the attempt.
    Reset,
    /// The kernel gave up, or the queue of a Unix socket is full.
    TimedOut,
    /// The name has no address.
    Resolve(String),
    /// The peer's certificate is not accepted, or the peer does not accept the agent's certificate.
    TlsCertificate(String),
    /// The peer ended the handshake without sending a TLS record.
    TlsEnded(String),
    /// One side speaks TLS and the other does not.
    TlsMismatch(String),
    /// Connected, but the handshake gets no answer.
    TlsSilent,
    /// The peer sends something that is not RESP.
    NotRedis(String),
    /// The agent itself was too slow, for example in reading files.
    OwnDelay(String),
    /// A fault of the agent itself, such as EMFILE or an unreadable password file.
    Own(String),
}

impl ProcessState {
    /// Short name of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotLocal => "not local",
            Self::Running => "running",
            Self::Stopped => "stopped",
            Self::Uninterruptible => "uninterruptible",
            Self::Exiting => "exiting",
            Self::Zombie => "zombie",
            Self::Gone => "gone",
        }
    }
}

impl ConnectFailure {
    /// Human-readable description of the failure.
    pub fn describe(&self) -> String {
        self.meaning().3
    }

    /// True if the peer closed the connection before it sent anything.
    pub(super) fn closed_silently(&self) -> bool {
        matches!(self, Self::Reset | Self::TlsEnded(_))
    }

    /// True if the failure says something about the server and cannot be the agent's own mistake.
    pub(super) fn concerns_server(&self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::SocketMissing
                | Self::Reset
                | Self::TimedOut
                | Self::TlsEnded(_)
                | Self::TlsSilent
        )
    }

    /// Reason, stage, whether it is a hard fact, and a human-readable description.
    pub(super) fn meaning(&self) -> (Reason, Stage, bool, String) {
        match self {
            Self::Refused => (
                Reason::ConnectionRefused,
                Stage::Connect,
                true,
                "connection refused: nothing listens".to_owned(),
            ),
            Self::SocketMissing => (
                Reason::SocketMissing,
                Stage::Connect,
                true,
                "the Unix socket does not exist".to_owned(),
            ),
            Self::Unreachable => (
                Reason::HostUnreachable,
                Stage::Connect,
                false,
                "no route to the host".to_owned(),
            ),
            Self::Reset => (
                Reason::ConnectionReset,
                Stage::Connect,
                false,
                "connection attempt was reset".to_owned(),
            ),
            Self::TimedOut => (
                Reason::ConnectTimeout,
                Stage::Connect,
                false,
                "connection attempt timed out, or the listen queue is full".to_owned(),
            ),
            Self::Resolve(e) => (
                Reason::ResolveFailed,
                Stage::Resolve,
                false,
                format!("name cannot be resolved: {e}"),
            ),
            Self::TlsCertificate(e) => (Reason::TlsCertificate, Stage::Tls, false, format!("TLS: {e}")),
            Self::TlsEnded(e) | Self::TlsMismatch(e) => {
                (Reason::TlsMismatch, Stage::Tls, false, format!("TLS: {e}"))
            }
            Self::NotRedis(what) => (
                Reason::NotRedis,
                Stage::Reply,
                false,
                format!("answered with something that is not RESP: {what}"),
            ),
            Self::TlsSilent => (
                Reason::ReplyTimeout,
                Stage::Tls,
                false,
                "connected, but the TLS handshake gets no answer".to_owned(),
            ),
            Self::OwnDelay(e) => (
                Reason::AgentFault,
                Stage::Connect,
                false,
                format!("the agent could not connect: {e}"),
            ),
            Self::Own(e) => (
                Reason::AgentFault,
                Stage::Connect,
                true,
                format!("the agent could not connect: {e}"),
            ),
        }
    }
}

/// What the shell observed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// [`next_deadline`](super::Prober::next_deadline) has passed.
    Tick,
    /// The connection is open.
    Connected,
    /// The expiry of the certificate that the server presented.
    Certificate(WallMs),
    /// The attempt failed.
    ConnectFailed(ConnectFailure),
    /// The next answer.
    Replied(Reply),
    /// The peer closed the connection; the text says how (EOF, reset).
    Closed(String),
    /// The peer sent something that is not RESP.
    Garbage(String),
    /// State of the process, as requested by [`Effect::CheckProcess`].
    ProcessChecked(ProcessState),
    /// The answer on a second connection, as requested by [`Effect::CheckNewConnection`], or why the connection failed.
    NewConnectionChecked(Result<Meaning, ConnectFailure>),
    /// The same for a connection requested by [`Effect::CheckSecondConnection`], because the present one is silent.
    SecondConnectionChecked(Result<Meaning, ConnectFailure>),
    /// The name now resolves to other addresses: the connection goes to a former one.
    Moved,
}

/// What the shell must do, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Open a connection, dropping any other.
    Connect,
    /// Close the connection or abandon the attempt.
    Disconnect,
    /// Write these commands in one write.
    Send(Vec<Command>),
    /// Find the process of the server, if it is on this host. INFO reported its number and its uptime in seconds, or
    /// nothing.
    LocateProcess(Option<(u32, u64)>),
    /// Check the process at once -> `ProcessChecked`.
    CheckProcess,
    /// Open a second connection beside the present one, authenticate, PING, and close -> `NewConnectionChecked`.
    CheckNewConnection,
    /// The same within this time, because the open connection is silent -> `SecondConnectionChecked`.
    CheckSecondConnection(Duration),
    /// The connection was silent while the server answered on another one. It is replaced.
    SilentConnectionReplaced,
    /// A probe round was completed: proof of progress.
    Round,
    /// A reply took this long.
    Latency(Duration),
    /// The verdict changed.
    Verdict(Verdict),
    /// The agent itself did not run for this long.
    Paused(Duration),
}
