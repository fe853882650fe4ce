//! The other collectors. [`links`] keeps a gRPC stream to each of them, because ZooKeeper reveals a dead collector only
//! when its session has expired, and says nothing of an agent that reaches a follower only. A link tells at once that
//! its collector has ended, which collector it takes for the leader, and which agents it hears. From this and the own
//! leadership state, [`warnings`] derives what is wrong with the cluster.

pub mod asking;
mod compare;
mod connect;
mod link;
pub mod links;
pub mod relay;
pub mod warnings;

use std::{collections::BTreeMap, sync::Arc};

use redkeeper_core::{
    fleet::{
        Held,
        unheard_agents::{Heard, Unheard},
    },
    ids::AgentId,
    peer_link::PeerLink,
    time::WallMs,
};
use tokio::sync::watch;

pub use connect::Network;

/// Write half of the watched answers.
pub type Sender = watch::Sender<Peers>;
/// Read half of the watched answers.
pub type Reader = watch::Receiver<Peers>;

/// What the links to the other collectors tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peers {
    /// The collectors, by name.
    pub peers: BTreeMap<String, Peer>,
    /// Agents that are heard, but not by the leader.
    pub unheard: Vec<Unheard>,
    /// Since when there are such agents.
    pub unheard_since: Option<WallMs>,
    /// What this collector holds, while too many agents are silent at once.
    pub held: Option<Held>,
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

/// What the link to one collector tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// What is proven of its process.
    pub link: PeerLink,
    /// Why it does not answer; empty while it does.
    pub error: String,
    /// Why it refuses the link, although it answers; empty if it does not.
    pub refusal: String,
    /// Id of the collector that answered at its address.
    pub served_by: String,
    /// The leader that it knows; empty if it knows none.
    pub leader: String,
    /// Newest term that it knows.
    pub epoch: u64,
    /// The agents that it hears.
    pub heard: Arc<Heard>,
}

impl Peer {
    /// Whether the link to it is open.
    pub fn is_linked(&self) -> bool {
        self.error.is_empty() && self.refusal.is_empty() && !self.served_by.is_empty()
    }
}

#[cfg(test)]
impl Peer {
    /// One that refuses connections since this time, for this reason.
    pub(crate) fn silent(since: WallMs, error: &str) -> Self {
        let mut peer = Self {
            error: error.to_owned(),
            ..Self::default()
        };
        let refused = redkeeper_core::peer_link::Failure::ConnectionRefused;
        peer.link.failed(refused, since);
        peer
    }
}
