//! What is known of one Redis instance.

pub mod run_id;

use crate::{
    ids::{AgentId, ClusterName, InstanceId},
    limits::EVIDENCE_BYTES_MAX,
    status::run_id::RunId,
    time::{KnownWallMs, WallMs},
};
use std::{collections::BTreeMap, sync::Arc};

macro_rules! closed {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in ZooKeeper, metrics, logs and tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value that the word stands for.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

/// An enum of which newer versions know more values. Those are carried by their numbers on the wire.
macro_rules! open {
    (
        $(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }
        $(#[$odoc:meta])* else $other:ident($number:ty $(, $payload:ty)*) = $word:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($variant,)+ $(#[$odoc])* $other($number $(, $payload)*) }

        impl $name {
            /// All values that this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in metrics, where it must be one of a few.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::$other(..) => $word }
            }

            /// The value that the word stands for, where this version knows it.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }

            /// The number that stands for a value which this version does not know, in ZooKeeper and in tables.
            pub fn number(text: &str) -> Option<$number> {
                text.strip_prefix($word)?.strip_prefix('_')?.parse().ok()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::$other(number, ..) => f.pad(&format!("{}_{number}", $word)),
                    known => f.pad(known.as_str()),
                }
            }
        }
    };
}

closed!(
    /// Whether an instance works.
    State {
        /// Answers without a known restriction.
        Up = "UP",
        /// Alive with a stated restriction.
        Degraded = "DEGRADED",
        /// Does not serve.
        Down = "DOWN",
        /// Cannot be seen.
        Unknown = "UNKNOWN",
    }
);

open!(
    /// Why an instance has its state. The meaning of each is in `status.proto`.
    #[allow(missing_docs)]
    Reason {
        Ok = "OK",
        ConnectionRefused = "CONNECTION_REFUSED",
        ConnectionReset = "CONNECTION_RESET",
        HostUnreachable = "HOST_UNREACHABLE",
        SocketMissing = "SOCKET_MISSING",
        ConnectTimeout = "CONNECT_TIMEOUT",
        ReplyTimeout = "REPLY_TIMEOUT",
        BusyScript = "BUSY_SCRIPT",
        BusyModule = "BUSY_MODULE",
        Loading = "LOADING",
        MasterLinkDown = "MASTER_LINK_DOWN",
        ReplicaSyncing = "REPLICA_SYNCING",
        PersistenceFailed = "PERSISTENCE_FAILED",
        OutOfMemory = "OUT_OF_MEMORY",
        NotEnoughReplicas = "NOT_ENOUGH_REPLICAS",
        ClusterDown = "CLUSTER_DOWN",
        MaxClients = "MAX_CLIENTS",
        NewConnectionsFail = "NEW_CONNECTIONS_FAIL",
        WritesBlocked = "WRITES_BLOCKED",
        AuthRequired = "AUTH_REQUIRED",
        AuthFailed = "AUTH_FAILED",
        PermissionDenied = "PERMISSION_DENIED",
        ProtectedMode = "PROTECTED_MODE",
        TlsMismatch = "TLS_MISMATCH",
        TlsCertificate = "TLS_CERTIFICATE",
        ProtocolError = "PROTOCOL_ERROR",
        NotRedis = "NOT_REDIS",
        ProcessGone = "PROCESS_GONE",
        AgentSilent = "AGENT_SILENT",
        ProbeStalled = "PROBE_STALLED",
        NotProbed = "NOT_PROBED",
        ResolveFailed = "RESOLVE_FAILED",
        AgentFault = "AGENT_FAULT",
    }
    /// One of a newer version: its number, and the state that goes with it. 0 where the number is not known.
    else Unrecognized(u16, State) = "REASON"
);

impl Reason {
    /// The state that goes with a reason (table of `reference`, section 3). A reason never stands with
    /// another state.
    pub const fn state(self) -> State {
        match self {
            Self::Ok => State::Up,
            Self::ConnectionRefused
            | Self::ConnectionReset
            | Self::HostUnreachable
            | Self::SocketMissing
            | Self::ConnectTimeout
            | Self::ReplyTimeout
            | Self::BusyScript
            | Self::BusyModule
            | Self::ProcessGone => State::Down,
            Self::Loading
            | Self::MasterLinkDown
            | Self::ReplicaSyncing
            | Self::PersistenceFailed
            | Self::OutOfMemory
            | Self::NotEnoughReplicas
            | Self::ClusterDown
            | Self::MaxClients
            | Self::NewConnectionsFail
            | Self::WritesBlocked => State::Degraded,
            Self::AuthRequired
            | Self::AuthFailed
            | Self::PermissionDenied
            | Self::ProtectedMode
            | Self::TlsMismatch
            | Self::TlsCertificate
            | Self::ProtocolError
            | Self::NotRedis
            | Self::AgentSilent
            | Self::ProbeStalled
            | Self::NotProbed
            | Self::ResolveFailed
            | Self::AgentFault => State::Unknown,
            Self::Unrecognized(_, state) => state,
        }
    }

    /// What clients can do: (reads, writes).
    pub const fn abilities(self, role: Role) -> (Ability, Ability) {
        use Ability::{No, Unknown, Yes};
        match self.state() {
            // A Sentinel holds no data.
            State::Up => match role {
                Role::Sentinel => (No, No),
                Role::Replica => (Yes, No),
                Role::Master | Role::Unknown => (Yes, Yes),
                Role::Unrecognized(_) => (Unknown, Unknown),
            },
            State::Down => (No, No),
            State::Unknown => (Unknown, Unknown),
            State::Degraded => match self {
                Self::Loading | Self::MasterLinkDown => (No, No),
                // A node may be told to serve reads of its own slots all the same (cluster-allow-reads-when-down).
                Self::ClusterDown => (Unknown, No),
                Self::MaxClients | Self::NewConnectionsFail | Self::Unrecognized(..) => (Unknown, Unknown),
                _ => (Yes, No),
            },
        }
    }
}

open!(
    /// How far a probe came.
    #[allow(missing_docs)]
    Stage {
        Resolve = "RESOLVE",
        Connect = "CONNECT",
        Tls = "TLS",
        Auth = "AUTH",
        Command = "COMMAND",
        Reply = "REPLY",
    }
    /// One of a newer version.
    else Unrecognized(u8) = "STAGE"
);

closed!(
    /// Whether something works.
    #[allow(missing_docs)]
    Ability {
        Yes = "yes",
        No = "no",
        Unknown = "unknown",
    }
);

open!(
    /// Replication role.
    #[allow(missing_docs)]
    Role {
        Unknown = "unknown",
        Master = "master",
        Replica = "replica",
        Sentinel = "sentinel",
    }
    /// One of a newer version.
    else Unrecognized(u8) = "role"
);

/// The judgement of one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Why; the state follows from it.
    pub reason: Reason,
    /// How far the probe came.
    pub stage: Stage,
    /// Replication role, last known.
    pub role: Role,
    /// `run_id` of INFO, last known; may be empty.
    pub run_id: RunId,
    /// Server version, last known; may be empty.
    pub server_version: Arc<str>,
    /// Address of the master where the role is replica.
    pub master_address: Arc<str>,
    /// What was seen, in words.
    pub evidence: Arc<str>,
    /// When state or reason last changed, by the clock of whoever holds the verdict.
    pub since: WallMs,
    /// It may have begun before `since`: the agent has known the instance only since then.
    pub since_is_bound: bool,
    /// Restarts seen, told by changes of `run_id`.
    pub restarts: u32,
    /// When the server's TLS certificate ends (`notAfter`), by the wall clock; `None` where TLS is not spoken.
    pub certificate_ends: Option<KnownWallMs>,
    /// Its state changes again and again.
    pub flapping: bool,
    /// What clients can do, (reads, writes), where more is known than the reason tells. Counts while DEGRADED only.
    pub known_abilities: Option<(Ability, Ability)>,
}

impl Verdict {
    /// A verdict that knows nothing of the server.
    pub fn blank(reason: Reason, stage: Stage, evidence: &str, since: WallMs) -> Self {
        Self {
            reason,
            stage,
            role: Role::Unknown,
            run_id: RunId::default(),
            server_version: Arc::default(),
            master_address: Arc::default(),
            evidence: cut_shared(evidence, EVIDENCE_BYTES_MAX),
            since,
            since_is_bound: false,
            restarts: 0,
            certificate_ends: None,
            flapping: false,
            known_abilities: None,
        }
    }

    /// UP, DEGRADED, DOWN or UNKNOWN.
    pub const fn state(&self) -> State {
        self.reason.state()
    }

    /// (reads, writes).
    pub const fn abilities(&self) -> (Ability, Ability) {
        match (self.state(), self.known_abilities) {
            (State::Degraded, Some(known)) => known,
            _ => self.reason.abilities(self.role),
        }
    }
}

/// What an agent is told about an instance by its configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name.
    pub id: InstanceId,
    /// Its group.
    pub cluster: Option<ClusterName>,
    /// `host:port` or a Unix socket path.
    pub address: Arc<str>,
    /// Labels.
    pub labels: Arc<BTreeMap<String, String>>,
}

/// One instance as a collector holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its name, group and address.
    pub identity: Identity,
    /// Who reports it.
    pub agent: AgentId,
    /// The verdict in force: the agent's, or the collector's own UNKNOWN.
    pub verdict: Verdict,
}

impl Status {
    /// Whether the change from `former` is a transition: of state, reason or role. Evidence and the like may change without
    /// one.
    pub fn is_transition_from(&self, former: &Self) -> bool {
        (self.verdict.reason, self.verdict.role) != (former.verdict.reason, former.verdict.role)
    }
}

/// Characters that turn the direction of the text around them: what stands beside them would be read wrongly.
pub const fn is_directional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_unwanted(c: char) -> bool {
    c.is_control() || is_directional(c)
}

/// `text` cut to at most `max` bytes at a character boundary; control characters, and those that turn the
/// direction of text, replaced.
pub fn cut(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if is_unwanted(c) { ' ' } else { c };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

/// The same, to be shared. The empty text is one for all.
pub fn cut_shared(text: &str, max: usize) -> Arc<str> {
    if text.is_empty() {
        Arc::default()
    } else if text.len() <= max && !text.contains(is_unwanted) {
        text.into()
    } else {
        cut(text, max).into()
    }
}

// A collector holds one for each instance: with 16 bytes more it would take the next larger size of the allocator.
const _: () = assert!(std::mem::size_of::<Status>() <= 176);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(State::parse("UP"), Some(State::Up));
        assert_eq!(Reason::parse("NONSENSE"), None);
    }

    #[test]
    fn what_newer_versions_say_keeps_its_number_and_state() {
        let reason = Reason::Unrecognized(77, State::Degraded);
        assert_eq!(
            (reason.to_string(), reason.state()),
            ("REASON_77".to_owned(), State::Degraded)
        );
        assert_eq!(
            reason.abilities(Role::Master),
            (Ability::Unknown, Ability::Unknown)
        );
        assert_eq!(Reason::number("REASON_77"), Some(77));
        for text in ["77", "REASON_", "REASON_-1", "REASON_70000", "OK"] {
            assert_eq!(Reason::number(text), None);
        }
        assert_eq!(Role::Unrecognized(9).to_string(), "role_9");
        assert_eq!(Stage::Unrecognized(9).to_string(), "STAGE_9");
        assert!(!Reason::ALL.contains(&reason));
    }

    #[test]
    fn our_own_faults_are_never_down() {
        for reason in [
            Reason::AuthFailed,
            Reason::AuthRequired,
            Reason::PermissionDenied,
            Reason::AgentSilent,
            Reason::ProbeStalled,
            Reason::AgentFault,
        ] {
            assert_eq!(reason.state(), State::Unknown);
        }
    }

    #[test]
    fn cut_keeps_characters_whole() {
        assert_eq!(cut("aéb", 2), "a");
        assert_eq!(cut("a\nb", 9), "a b");
        assert_eq!(cut("a\u{202e}b\u{2066}", 9), "a b ");
        for text in ["", "a", "aéb", "a\nb", "\u{202e}"] {
            (0..5).for_each(|max| assert_eq!(*cut_shared(text, max), cut(text, max)));
        }
    }
}
