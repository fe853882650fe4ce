//! The registration of this collector in ZooKeeper, and the look at who else is registered, who leads, and in which term.

use crate::store::{
    CommitError, Kind, Node, Session, StoreError, Write,
    layout::Layout,
    records::{CollectorJson, EpochJson, PublisherJson, read_json},
};

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
