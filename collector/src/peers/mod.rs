//! What the other collectors say. ZooKeeper tells of a dead collector only when its session has ended, and nothing of an agent
//! that reaches a follower only; so [`poll`] asks each collector, as any tool could, whether it answers, whom it takes for the
//! leader, and which agents it hears. [`warnings`] says from this, and from the own leadership state, what is wrong with the
//! cluster. Nothing is decided here.

pub mod poll;
pub mod warnings;

use std::collections::BTreeMap;

use redkeeper_core::{fleet::hearing::Unheard, ids::AgentId, time::WallMs};
use tokio::sync::watch;

/// Where it is told.
pub type Sender = watch::Sender<Peers>;
/// Where it is read.
pub type Reader = watch::Receiver<Peers>;

/// What the other collectors said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// By name.
    pub peers: BTreeMap<String, Peer>,
    /// Agents that are heard, but not by the leader.
    pub unheard: Vec<Unheard>,
    /// Since when there are any.
    pub unheard_since: Option<WallMs>,
    /// Ids that two agents claim, of those that this collector hears.
    pub shared_ids: Vec<SharedId>,
}

/// An id that two agents claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedId {
    /// The id.
    pub agent: AgentId,
    /// Where the agent runs that has it.
    pub holder: String,
    /// Where the other one runs, which is refused.
    pub refused: String,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Since when it does not answer; `None` while it does.
    pub silent_since: Option<WallMs>,
    /// Why not.
    pub error: String,
    /// Who answered at its address.
    pub served_by: String,
    /// The leader as far as it knows; empty if it knows none.
    pub leader: String,
    pub(crate) first_failure: Option<WallMs>,
    pub(crate) failures: u32,
}
