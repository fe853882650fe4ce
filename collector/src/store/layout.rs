//! The paths of the znodes (`README.md` lists them with their contents), and the candidate's own node.

use std::fmt::Write;

use redkeeper_core::ids::{Bucket, InstanceId};

use crate::store::{
    Kind, Need, Session, StoreError,
    records::{EpochJson, MetaJson},
};

/// Paths below one root.
#[derive(Clone, Debug)]
pub struct Layout {
    root: String,
    /// Drawn for this process: identifies the own node after a create of unknown outcome.
    token: String,
}

impl Layout {
    /// A layout below `root`, such as `/redkeeper`.
    pub fn new(root: &str) -> Self {
        let token = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        Self {
            root: root.to_owned(),
            token,
        }
    }

    /// Parent of the candidates.
    pub fn election(&self) -> String {
        format!("{}/election", self.root)
    }

    /// One candidate.
    pub fn candidate(&self, node: &str) -> String {
        format!("{}/election/{node}", self.root)
    }

    /// The epoch: its version is the fencing token.
    pub fn epoch(&self) -> String {
        format!("{}/epoch", self.root)
    }

    /// Exists while somebody leads.
    pub fn publisher(&self) -> String {
        format!("{}/publisher", self.root)
    }

    /// Parent of the members.
    pub fn collectors(&self) -> String {
        format!("{}/collectors", self.root)
    }

    /// One member, by the name of its znode.
    pub fn member(&self, name: &str) -> String {
        format!("{}/collectors/{name}", self.root)
    }

    /// One bucket.
    pub fn bucket(&self, bucket: Bucket) -> String {
        format!("{}/instances/{bucket}", self.root)
    }

    /// One status.
    pub fn instance(&self, id: &InstanceId) -> String {
        let mut path = String::with_capacity(self.root.len() + id.as_str().len() + 16);
        // Writing to a `String` cannot fail.
        write!(path, "{}/instances/{}/{id}", self.root, id.bucket()).ok();
        path
    }

    /// Creates what is missing above the buckets, starting at the root. Each znode is looked up first instead of being
    /// created to find out: where only administrators may write to the parent, a create is refused even if nothing is
    /// missing. A layout of another version is refused.
    ///
    /// # Errors
    /// When ZooKeeper fails, or holds another layout. If something is missing and may not be created, the text names it
    /// and the right that is needed.
    pub async fn ensure<T: Session>(&self, session: &T) -> Result<(), StoreError> {
        let mut path = String::new();
        for part in self.root.split('/').filter(|part| !part.is_empty()) {
            path = format!("{path}/{part}");
            ensure(session, &path, b"").await?;
        }
        let meta = MetaJson::default();
        let meta_path = format!("{}/meta", self.root);
        ensure(
            session,
            &meta_path,
            &serde_json::to_vec(&meta).unwrap_or_default(),
        )
        .await?;
        let found = session.get(std::slice::from_ref(&meta_path)).await?.remove(0);
        if found.as_ref().is_some_and(|node| !node.readable) {
            return Err(Need::read(&meta_path).refused("not authorized", true));
        }
        if found.and_then(|node| serde_json::from_slice(&node.data).ok()) != Some(meta) {
            let text =
                format!("{meta_path} tells of another layout; use another root or the matching version");
            return Err(StoreError::Refused(text));
        }
        for name in ["election", "collectors", "instances"] {
            ensure(session, &format!("{}/{name}", self.root), b"").await?;
        }
        let epoch = serde_json::to_vec(&EpochJson::default()).unwrap_or_default();
        ensure(session, &self.epoch(), &epoch).await
    }

    /// Creates the own candidate node and returns its name.
    ///
    /// # Errors
    /// Those of the store; an unknown outcome is settled by [`find_own`](Self::find_own).
    pub async fn enqueue<T: Session>(&self, session: &T) -> Result<String, StoreError> {
        let prefix = self.candidate(&format!("_c_{}-n-", self.token));
        let path = session.create(&prefix, b"", Kind::EphemeralSequential).await?;
        Ok(path.rsplit('/').next().unwrap_or_default().to_owned())
    }

    /// Names of all candidates.
    ///
    /// # Errors
    /// Those of the store. If the parent of the candidates is gone, the session is to be ended: the next one creates it.
    pub async fn candidates<T: Session>(&self, session: &T) -> Result<Vec<String>, StoreError> {
        match session.children(&self.election()).await {
            Err(StoreError::Missing) => Err(StoreError::Lost(format!("{} is gone", self.election()))),
            other => other,
        }
    }

    /// Looks for a candidate node of this process that belongs to this session.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn find_own<T: Session>(&self, session: &T) -> Result<Option<String>, StoreError> {
        session.sync(&self.election()).await?;
        let prefix = format!("_c_{}-n-", self.token);
        let mut names = self.candidates(session).await?;
        names.retain(|name| name.starts_with(&prefix));
        let paths: Vec<_> = names.iter().map(|name| self.candidate(name)).collect();
        let nodes = session.get(&paths).await?;
        let own =
            |node: &Option<crate::store::Node>| node.as_ref().is_some_and(|node| node.owner == session.id());
        Ok(names
            .into_iter()
            .zip(&nodes)
            .find(|(_, node)| own(node))
            .map(|(name, _)| name))
    }
}

async fn ensure<T: Session>(session: &T, path: &str, data: &[u8]) -> Result<(), StoreError> {
    match session.stat(path).await {
        Ok(Some(_)) => return Ok(()),
        // Newer servers hide znodes that may not be read: the create reveals what is wrong.
        Ok(None) | Err(StoreError::Refused(_)) => {}
        Err(e) => return Err(e),
    }
    match session.create(path, data, Kind::Persistent).await {
        // Another collector was faster.
        Ok(_) | Err(StoreError::Exists) => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Store, memory::Memory};

    #[tokio::test]
    async fn a_root_that_an_administrator_prepared_is_enough() {
        let ensemble = Memory::default();
        let session = ensemble.connect().await.unwrap();
        for path in ["/infra", "/infra/redkeeper"] {
            session.create(path, b"", Kind::Persistent).await.unwrap();
        }
        for parent in ["", "/infra"] {
            ensemble.lock(parent);
        }
        let layout = Layout::new("/infra/redkeeper");
        layout.ensure(&session).await.unwrap();
        // Once everything exists, nothing is created.
        ensemble.lock("/infra/redkeeper");
        layout.ensure(&session).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_missing_and_refused_is_named_with_the_right() {
        let ensemble = Memory::default();
        let session = ensemble.connect().await.unwrap();
        session.create("/infra", b"", Kind::Persistent).await.unwrap();
        ensemble.lock("/infra");
        let refused = Layout::new("/infra/redkeeper").ensure(&session).await;
        let text = "not authorized: /infra/redkeeper needs the right CREATE on /infra".to_owned();
        assert_eq!(refused, Err(StoreError::Refused(text)));
    }
}
