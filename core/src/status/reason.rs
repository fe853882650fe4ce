//! Defines the state of an instance, the reasons for it, and what clients can do with the instance then.

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
    /// A reason of a newer version: its number, and its state. The number is 0 where it is not known.
    else Unrecognized(u16, State) = "REASON"
);

impl Reason {
    /// The state that follows from a reason, as in the tables of `docs/replies.md`. A reason never occurs with another
    /// state.
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
                // A node may be configured to serve reads of its own slots all the same
                // (cluster-allow-reads-when-down).
                Self::ClusterDown => (Unknown, No),
                Self::MaxClients | Self::NewConnectionsFail | Self::Unrecognized(..) => (Unknown, Unknown),
                _ => (Yes, No),
            },
        }
    }
}

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
    /// A role of a newer version.
    else Unrecognized(u8) = "role"
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Stage;

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
}
