//! What a collector knows of its peers and of its own standing. Told by the coordinator, read by all.

use std::time::Duration;

use redkeeper_core::{
    election::lease::Lease,
    time::{Mono, WallMs},
};
use tokio::sync::watch;

use crate::{
    peers::warnings::time,
    store::{
        CommitError, Connection, Kind, Node, Session, StoreError, Write,
        layout::Layout,
        records::{CollectorJson, EpochJson, PublisherJson},
    },
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
    /// Since when the longest waiting of them waits.
    pub oldest_pending: Option<Mono>,
    /// Statuses that ZooKeeper refuses to let this leader write: why the first one was, and how many there are.
    pub refused: Option<(String, usize)>,
    /// Since when another session holds the registration of this collector's id, and the address that it gives.
    pub id_taken: Option<(Mono, String)>,
    /// The address of another collector that has this one's id.
    pub id_shared: Option<String>,
    /// Since when there is a session, or none; `None` before the first attempt.
    pub since: Option<WallMs>,
    /// The ZooKeeper servers as configured.
    pub servers: String,
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

    /// Takes the state of the connection, at this wall-clock time.
    pub(crate) fn note_connection(&mut self, connection: Option<Connection>, now: WallMs) {
        let is_there = |connection| connection == Some(Connection::Connected);
        if self.since.is_none() || is_there(self.connection) != is_there(connection) {
            self.since = Some(now);
            self.last_error.clear();
            if !is_there(connection) && self.connection.is_some() {
                "the connection broke".clone_into(&mut self.last_error);
            }
        }
        self.connection = connection;
    }

    /// Where there is no session: since when, and which servers were tried with what result.
    pub fn away(&self) -> Option<String> {
        if self.connection == Some(Connection::Connected) {
            return None;
        }
        let since = self.since.map_or_else(|| "the start".to_owned(), time);
        let why = match self.last_error.as_str() {
            "" => "no answer yet",
            why => why,
        };
        let servers = &self.servers;
        Some(format!(
            "no session since {since}, servers tried: {servers} ({why})"
        ))
    }

    /// Takes whose the registration of the own id is. A former session of this collector keeps it until it expires;
    /// what keeps it for longer than `session_timeout` and a half is another collector.
    pub(crate) fn note_id(&mut self, taken_by: Option<String>, now: Mono, session_timeout: Duration) {
        let since = self.id_taken.as_ref().map_or(now, |(since, _)| *since);
        self.id_taken = taken_by.map(|address| (since, address));
        let long = |(since, _): &&(Mono, String)| now.since(*since) > session_timeout * 3 / 2;
        self.id_shared = self.id_taken.as_ref().filter(long).map(|(_, by)| by.clone());
    }

    /// Where another collector has the id of this one: which one, and what to do.
    pub fn shares_id(&self) -> Option<String> {
        let other = self.id_shared.as_ref()?;
        Some(format!(
            "another collector, which gives {other} as its address, is registered in ZooKeeper under the id of this one; give each collector its own `id`"
        ))
    }

    /// When the lease runs out, which no change tells.
    pub fn lease_ends(&self) -> Option<Mono> {
        self.lease.and_then(|lease| lease.ends())
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
    /// The address of the collector that holds the own id, where that is another session's.
    pub(crate) taken_by: Option<String>,
}

/// Reads who leads and who is there, and registers this collector again where its node has gone with a former
/// session.
pub(crate) async fn look<T: Session>(
    session: &T,
    layout: &Layout,
    own: &CollectorJson,
) -> Result<Seen, StoreError> {
    let names = session.children(&layout.collectors()).await?;
    let mut paths = vec![layout.epoch(), layout.publisher()];
    paths.extend(names.iter().map(|name| layout.member(name)));
    let mut nodes = session.get(&paths).await?.into_iter();
    let (epoch, publisher) = (read(nodes.next().flatten()), nodes.next().flatten());
    let publisher = read(publisher.filter(is_owned));
    let members = names.iter().zip(nodes);
    let members: Vec<_> = members
        .filter_map(|(name, node)| Some((name, node.filter(is_owned)?)))
        .collect();
    let registered = members.iter().find(|(name, _)| **name == own.id);
    let foreign = registered.is_some_and(|(_, node)| is_anothers(node, session.id()));
    if registered.is_none() {
        register(session, layout, own).await?;
    }
    let member = |(name, node): (&String, Node)| {
        let mut member: CollectorJson = read(Some(node));
        if member.id.is_empty() {
            // Unreadable: its name is all that is known.
            member.id.clone_from(name);
        }
        member
    };
    let mut members: Vec<_> = members.into_iter().map(member).collect();
    members.sort_by(|a, b| a.id.cmp(&b.id));
    let taken_by = members.iter().find(|member| foreign && member.id == own.id);
    Ok(Seen {
        epoch,
        publisher,
        taken_by: taken_by.map(|member| member.grpc.clone()),
        members,
    })
}

/// A znode that is meant to be a session's and is nobody's says nothing of who is there: a backup tool, or a hand, made
/// it.
fn is_owned(node: &Node) -> bool {
    node.owner != 0 || !node.readable
}

/// Owned by another session, as far as that can be read.
fn is_anothers(node: &Node, session: i64) -> bool {
    node.readable && node.owner != 0 && node.owner != session
}

/// Whose membership stands after [`register`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Membership {
    /// This session's.
    Own,
    /// That of another session, which is left alone.
    Foreign,
}

/// Makes the own membership. A znode of that name which no session owns is replaced.
pub(crate) async fn register<T: Session>(
    session: &T,
    layout: &Layout,
    own: &CollectorJson,
) -> Result<Membership, StoreError> {
    let path = layout.member(&own.id);
    let data = serde_json::to_vec(own).unwrap_or_default();
    let Some(there) = session.stat(&path).await? else {
        return match session.create(&path, &data, Kind::Ephemeral).await {
            Ok(_) => Ok(Membership::Own),
            Err(StoreError::Exists) => Ok(Membership::Foreign),
            Err(e) => Err(e),
        };
    };
    if there.owner == session.id() {
        return Ok(Membership::Own);
    }
    if there.owner != 0 {
        return Ok(Membership::Foreign);
    }
    tracing::warn!(znode = path, "no session owns this znode; it is replaced");
    let writes = vec![
        Write::Delete(path.clone()),
        Write::Create(path.clone(), data, true),
    ];
    match session.commit((&path, there.version), writes).await {
        Ok(()) => Ok(Membership::Own),
        // Somebody else changed it in this instant.
        Err(CommitError::Fenced) => Ok(Membership::Foreign),
        Err(CommitError::Operation(_, e) | CommitError::Request(e)) => Err(e),
    }
}

/// JSON of a znode; damaged or absent content reads as nothing known.
pub(crate) fn read<T: serde::de::DeserializeOwned + Default>(node: Option<Node>) -> T {
    node.and_then(|node| serde_json::from_slice(&node.data).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_another_session_surely_owns_is_anothers() {
        let node = |owner, readable| Node {
            data: Vec::new(),
            version: 0,
            owner,
            readable,
        };
        // Whose a node is that must not be read is not known: it may be the own one.
        let nodes = [(7, true), (8, true), (0, true), (0, false), (8, false)];
        let found = nodes.map(|(owner, readable)| is_anothers(&node(owner, readable), 7));
        assert_eq!(found, [false, true, false, false, false]);
    }
}
