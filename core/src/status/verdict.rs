//! Defines the verdict on one instance: the reason, how far the probe came, and what was learned of the server.

use super::{
    reason::{Ability, Reason, Role, State},
    run_id::RunId,
    text::cut_shared,
};
use crate::{
    limits::EVIDENCE_BYTES_MAX,
    time::{KnownWallMs, WallMs},
};
use std::sync::Arc;

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
    /// A stage of a newer version.
    else Unrecognized(u8) = "STAGE"
);

/// The verdict on one instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// The reason; the state follows from it.
    pub reason: Reason,
    /// How far the probe came.
    pub stage: Stage,
    /// Replication role, last known.
    pub role: Role,
    /// `run_id` of INFO, last known; may be empty.
    pub run_id: RunId,
    /// Server version, last known; may be empty.
    pub server_version: Arc<str>,
    /// Address of the master if the role is replica.
    pub master_address: Arc<str>,
    /// Human-readable description of what was seen.
    pub evidence: Arc<str>,
    /// When state or reason last changed, by the clock of the process that holds the verdict.
    pub since: WallMs,
    /// True if state and reason may have begun before `since`: the agent has known the instance only since then.
    pub since_is_bound: bool,
    /// Number of restarts, seen as changes of `run_id`.
    pub restarts: u32,
    /// When the server's TLS certificate expires (`notAfter`), by the wall clock; `None` without TLS.
    pub certificate_ends: Option<KnownWallMs>,
    /// True if the state changes repeatedly.
    pub flapping: bool,
    /// What clients can do, (reads, writes), where more is known than the reason says. Used only while DEGRADED.
    pub known_abilities: Option<(Ability, Ability)>,
}

impl Verdict {
    /// A verdict without any knowledge of the server.
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
