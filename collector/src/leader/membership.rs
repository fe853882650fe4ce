//! The registration of this collector in ZooKeeper, and the reading of the members, the leader and its term.

use crate::store::{
    CommitError, Kind, Node, Session, StoreError, Write,
    layout::Layout,
    records::{CollectorJson, EpochJson, PublisherJson, read_json},
};

/// Result of [`read_membership`].
pub(crate) struct MembershipSnapshot {
    pub(crate) epoch: EpochJson,
    pub(crate) publisher: PublisherJson,
    pub(crate) members: Vec<CollectorJson>,
    /// Address of the collector that holds the own id, if that is another session.
    pub(crate) taken_by: Option<String>,
}

/// Reads the leader and the members, and registers this collector again if its node has gone with a former session.
pub(crate) async fn read_membership<T: Session>(
    session: &T,
    layout: &Layout,
    own: &CollectorJson,
) -> Result<MembershipSnapshot, StoreError> {
    let names = session.children(&layout.collectors()).await?;
    let mut paths = vec![layout.epoch(), layout.publisher()];
    paths.extend(names.iter().map(|name| layout.member(name)));
    let mut nodes = session.get(&paths).await?.into_iter();
    let (epoch, publisher) = (read_json(nodes.next().flatten()), nodes.next().flatten());
    let publisher = read_json(publisher.filter(is_owned));
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
        let mut member: CollectorJson = read_json(Some(node));
        if member.id.is_empty() {
            // Unreadable: only its name is known.
            member.id.clone_from(name);
        }
        member
    };
    let mut members: Vec<_> = members.into_iter().map(member).collect();
    members.sort_by(|a, b| a.id.cmp(&b.id));
    let taken_by = members.iter().find(|member| foreign && member.id == own.id);
    Ok(MembershipSnapshot {
        epoch,
        publisher,
        taken_by: taken_by.map(|member| member.grpc.clone()),
        members,
    })
}

/// True if a session owns the node, or its owner cannot be read. A znode that a session should own and none does says
/// nothing of who is there: a backup tool, or a person, created it.
fn is_owned(node: &Node) -> bool {
    node.owner != 0 || !node.readable
}

/// True if another session owns the node, as far as that can be read.
fn is_anothers(node: &Node, session: i64) -> bool {
    node.readable && node.owner != 0 && node.owner != session
}

/// Owner of the membership after [`register`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Membership {
    /// This session owns it.
    Own,
    /// Another session owns it; it is left alone.
    Foreign,
}

/// Registers this collector. A znode of its name that no session owns is replaced.
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
        // The node was changed concurrently.
        Err(CommitError::Fenced) => Ok(Membership::Foreign),
        Err(CommitError::Operation(_, e) | CommitError::Request(e)) => Err(e),
    }
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
        // The owner of a node that must not be read is unknown: it may be this session.
        let nodes = [(7, true), (8, true), (0, true), (0, false), (8, false)];
        let found = nodes.map(|(owner, readable)| is_anothers(&node(owner, readable), 7));
        assert_eq!(found, [false, true, false, false, false]);
    }
}
