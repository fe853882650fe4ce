//! What a collector knows of its peers and of its own standing. Told by the coordinator, read by all.

use redkeeper_core::{lease::Lease, time::Mono};
use tokio::sync::watch;

use crate::{
    layout::Layout,
    store::{Connection, Kind, Node, Session, StoreError},
    znode::{CollectorJson, EpochJson, PublisherJson},
};

/// Where the standing is told.
pub type Sender = watch::Sender<Directory>;
/// Where it is read.
pub type Reader = watch::Receiver<Directory>;

/// Peers and standing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// The leader as last known; ask [`leader`](Self::leader).
    pub last_leader: String,
    /// Held where this collector leads.
    pub lease: Option<Lease>,
    /// The newest term known.
    pub epoch: u64,
    /// All collectors.
    pub members: Vec<CollectorJson>,
    /// State of the own session; `None` before the first.
    pub connection: Option<Connection>,
    /// One word.
    pub phase: &'static str,
    /// Statuses not yet acknowledged; leader only.
    pub pending: usize,
    /// Since when the longest waiting of them waits.
    pub oldest_pending: Option<Mono>,
    /// Last error, for people.
    pub last_error: String,
}

impl Directory {
    /// Who leads; empty if nobody is known to. This collector names itself only while its lease holds.
    pub fn leader(&self, now: Mono) -> &str {
        match &self.lease {
            Some(lease) if !lease.holds(now) => "",
            _ => &self.last_leader,
        }
    }

    /// Whether this collector leads, everything known is published, and its lease holds.
    pub fn leads(&self, now: Mono) -> bool {
        self.phase == "leader" && self.lease.is_some_and(|lease| lease.holds(now))
    }

    /// Age of the oldest status that is known and not yet published, in seconds; 0 where there is none.
    pub fn behind(&self, now: Mono) -> f64 {
        self.oldest_pending.map_or(0.0, |at| now.since(at).as_secs_f64())
    }
}

/// What [`look`] saw.
pub(crate) struct Seen {
    pub(crate) epoch: EpochJson,
    pub(crate) publisher: PublisherJson,
    pub(crate) members: Vec<CollectorJson>,
}

/// Reads who leads and who is there, and registers this collector again where its node has gone with a former
/// session.
pub(crate) async fn look<T: Session>(
    session: &T,
    layout: &Layout,
    own: &CollectorJson,
) -> Result<Seen, StoreError> {
    let names = session.children(&layout.collectors()).await?;
    let path = |name: &str| format!("{}/{name}", layout.collectors());
    if !names.contains(&own.id) {
        let data = serde_json::to_vec(own).unwrap_or_default();
        match session.create(&path(&own.id), &data, Kind::Ephemeral).await {
            Ok(_) | Err(StoreError::Exists) => {}
            Err(e) => return Err(e),
        }
    }
    let mut paths = vec![layout.epoch(), layout.publisher()];
    paths.extend(names.iter().map(|name| path(name)));
    let mut nodes = session.get(&paths).await?.into_iter();
    let (epoch, publisher) = (read(nodes.next().flatten()), read(nodes.next().flatten()));
    let mut members: Vec<CollectorJson> = nodes.flatten().map(|node| read(Some(node))).collect();
    members.sort_by(|a, b| a.id.cmp(&b.id));
    Ok(Seen {
        epoch,
        publisher,
        members,
    })
}

/// JSON of a znode; damaged or absent content reads as nothing known.
pub(crate) fn read<T: serde::de::DeserializeOwned + Default>(node: Option<Node>) -> T {
    node.and_then(|node| serde_json::from_slice(&node.data).ok())
        .unwrap_or_default()
}
