//! What the other collectors report. ZooKeeper reveals a dead collector only when its session has ended, and says
//! nothing of an agent that reaches a follower only. Therefore [`poll`] asks each collector, as any tool could, whether
//! it answers, which collector it takes for the leader, and which agents it hears. From this and the own leadership
//! state, [`warnings`] derives what is wrong with the cluster. Nothing is decided here.

pub mod poll;
pub mod warnings;

use std::collections::BTreeMap;

use redkeeper_core::{fleet::unheard_agents::Unheard, ids::AgentId, time::WallMs};
use tokio::sync::watch;

/// Write half of the watched answers.
pub type Sender = watch::Sender<Peers>;
/// Read half of the watched answers.
pub type Reader = watch::Receiver<Peers>;

/// Latest answers of the other collectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// The collectors, by name.
    pub peers: BTreeMap<String, Peer>,
    /// Agents that are heard, but not by the leader.
    pub unheard: Vec<Unheard>,
    /// Since when there are such agents.
    pub unheard_since: Option<WallMs>,
    /// Ids that two agents claim, among those that this collector hears.
    pub shared_ids: Vec<SharedId>,
}

/// An id that two agents claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedId {
    /// The id.
    pub agent: AgentId,
    /// Where the agent that has the id runs.
    pub holder: String,
    /// Where the agent that is refused runs.
    pub refused: String,
}

/// Latest answer of one collector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Since when it does not answer; `None` while it does.
    pub silent_since: Option<WallMs>,
    /// Why it does not answer.
    pub error: String,
    /// Id of the collector that answered at its address.
    pub served_by: String,
    /// The leader that it knows; empty if it knows none.
    pub leader: String,
    pub(crate) first_failure: Option<WallMs>,
    pub(crate) failures: u32,
}
