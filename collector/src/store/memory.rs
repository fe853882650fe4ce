//! The in-memory store for `--standalone` and tests: sessions, ephemeral and sequential znodes, one-shot watches,
//! checked multis. No persistence.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use imbl::OrdMap;
use tokio::sync::{oneshot, watch};

use super::{
    CommitError, Connection, Kind, Need, Node, Session, Stat, Store, StoreError, Watch, Write, parent,
};

/// Time-out of a session, which never expires by itself: nothing is lost between it and its ensemble here.
const SESSION_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Tree {
    /// Shares its structure with the copy that a refused multi restores.
    nodes: OrdMap<String, (Node, u32)>,
    watches: BTreeMap<String, Vec<oneshot::Sender<()>>>,
    sessions: BTreeMap<i64, watch::Sender<Connection>>,
    last_session: i64,
    /// Paths below which nobody may create znodes.
    locked: BTreeSet<String>,
}

/// An in-memory ensemble. Clones share the same znodes.
#[derive(Clone, Default)]
pub struct Memory {
    tree: Arc<Mutex<Tree>>,
}

impl Memory {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        // Every change is complete before anything could panic.
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Revokes everybody's right to create below `path`, as an administrator does on a shared ensemble.
    pub fn lock(&self, path: &str) {
        self.tree().locked.insert(path.to_owned());
    }

    /// Deletes every znode, as if the servers had been given empty disks. Ends all sessions except `but`.
    pub fn wipe(&self, but: i64) {
        for session in self.sessions() {
            if session != but {
                self.expire(session);
            }
        }
        let mut tree = self.tree();
        let paths: Vec<_> = tree.nodes.keys().cloned().collect();
        for path in &paths {
            tree.remove(path);
        }
    }

    /// Live sessions, oldest first.
    pub fn sessions(&self) -> Vec<i64> {
        self.tree().sessions.keys().copied().collect()
    }

    /// Ends a session as the server does when it expires. Returns the paths of its znodes, which are deleted.
    pub fn expire(&self, session: i64) -> Vec<String> {
        let mut tree = self.tree();
        let owned: Vec<_> = tree
            .nodes
            .iter()
            .filter(|(_, (n, _))| n.owner == session)
            .map(|(p, _)| p.clone())
            .collect();
        for path in &owned {
            tree.remove(path);
        }
        if let Some(state) = tree.sessions.remove(&session) {
            state.send_replace(Connection::Lost);
        }
        owned
    }
}

impl Store for Memory {
    type Session = MemorySession;

    async fn connect(&self) -> Result<MemorySession, StoreError> {
        let mut tree = self.tree();
        tree.last_session += 1;
        let id = tree.last_session;
        let state = watch::Sender::new(Connection::Connected);
        let receiver = state.subscribe();
        tree.sessions.insert(id, state);
        Ok(MemorySession {
            ensemble: self.clone(),
            id,
            state: receiver,
        })
    }

    fn servers(&self) -> String {
        "own memory".to_owned()
    }
}

/// A session with the in-memory store.
pub struct MemorySession {
    ensemble: Memory,
    id: i64,
    state: watch::Receiver<Connection>,
}

impl Drop for MemorySession {
    fn drop(&mut self) {
        self.ensemble.expire(self.id);
    }
}

impl Tree {
    fn fire(&mut self, path: &str) {
        for watcher in self.watches.remove(path).unwrap_or_default() {
            // The receiver may have been dropped.
            watcher.send(()).ok();
        }
    }

    fn has(&self, path: &str) -> bool {
        path.is_empty() || self.nodes.contains_key(path)
    }

    fn has_children(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        self.nodes
            .range(prefix.clone()..)
            .next()
            .is_some_and(|(p, _)| p.starts_with(&prefix))
    }

    fn create(&mut self, path: &str, data: Vec<u8>, owner: i64) -> Result<(), StoreError> {
        let parent = parent(path);
        if !self.has(parent) {
            return Err(StoreError::Missing);
        }
        // Checked before existence, as in ZooKeeper.
        if self.locked.contains(parent) {
            return Err(Need::create(path).refused("not authorized", true));
        }
        if self.nodes.get(parent).is_some_and(|(node, _)| node.owner != 0) {
            return Err(StoreError::Refused(
                "ephemeral node can not have children".to_owned(),
            ));
        }
        if self.has(path) {
            return Err(StoreError::Exists);
        }
        self.nodes.insert(
            path.to_owned(),
            (
                Node {
                    data,
                    version: 0,
                    owner,
                    readable: true,
                },
                0,
            ),
        );
        if let Some((_, children)) = self.nodes.get_mut(parent) {
            *children += 1;
        }
        Ok(())
    }

    fn remove(&mut self, path: &str) {
        self.nodes.remove(path);
        self.fire(path);
    }

    fn apply(&mut self, write: &Write, session: i64) -> Result<(), StoreError> {
        match write {
            Write::Create(path, data, ephemeral) => {
                self.create(path, data.clone(), if *ephemeral { session } else { 0 })
            }
            Write::Set(path, data, version) => {
                let (node, _) = self.nodes.get_mut(path).ok_or(StoreError::Missing)?;
                if version.is_some_and(|version| version != node.version) {
                    return Err(StoreError::Refused("mismatch version".to_owned()));
                }
                node.data.clone_from(data);
                node.version += 1;
                Ok(())
            }
            Write::Delete(path) => {
                if !self.has(path) {
                    return Err(StoreError::Missing);
                }
                if self.has_children(path) {
                    return Err(StoreError::Refused("node has not empty children".to_owned()));
                }
                self.nodes.remove(path);
                Ok(())
            }
        }
    }
}

impl MemorySession {
    fn live(&self) -> Result<MutexGuard<'_, Tree>, StoreError> {
        let tree = self.ensemble.tree();
        if tree.sessions.contains_key(&self.id) {
            Ok(tree)
        } else {
            Err(StoreError::Lost("session expired".to_owned()))
        }
    }
}

impl Session for MemorySession {
    fn id(&self) -> i64 {
        self.id
    }

    fn timeout(&self) -> Duration {
        SESSION_TIMEOUT
    }

    fn connection(&self) -> Connection {
        *self.state.borrow()
    }

    async fn changed(&self, known: Connection) -> Connection {
        let mut state = self.state.clone();
        let found = state
            .wait_for(|now| *now != known || *now == Connection::Lost)
            .await;
        found.map_or(Connection::Lost, |now| *now)
    }

    async fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, StoreError> {
        let mut tree = self.live()?;
        let (path, owner) = match kind {
            Kind::Persistent => (path.to_owned(), 0),
            Kind::Ephemeral => (path.to_owned(), self.id),
            Kind::EphemeralSequential => {
                let number = tree.nodes.get(parent(path)).ok_or(StoreError::Missing)?.1;
                (format!("{path}{number:010}"), self.id)
            }
        };
        tree.create(&path, data.to_vec(), owner)?;
        Ok(path)
    }

    async fn get(&self, paths: &[String]) -> Result<Vec<Option<Node>>, StoreError> {
        let tree = self.live()?;
        Ok(paths
            .iter()
            .map(|path| tree.nodes.get(path).map(|(node, _)| node.clone()))
            .collect())
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let tree = self.live()?;
        Ok(tree.nodes.get(path).map(|(node, _)| Stat {
            version: node.version,
            owner: node.owner,
        }))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let tree = self.live()?;
        if !tree.has(path) {
            return Err(StoreError::Missing);
        }
        let prefix = format!("{path}/");
        let below = tree
            .nodes
            .range(prefix.clone()..)
            .map(|(p, _)| p)
            .take_while(|p| p.starts_with(&prefix));
        Ok(below
            .map(|p| &p[prefix.len()..])
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }

    async fn watch(&self, path: &str) -> Result<Option<Watch>, StoreError> {
        let mut tree = self.live()?;
        if !tree.has(path) {
            return Ok(None);
        }
        let (sender, receiver) = oneshot::channel();
        tree.watches.entry(path.to_owned()).or_default().push(sender);
        let mut state = self.state.clone();
        Ok(Some(Box::pin(async move {
            tokio::select! {
                biased;
                _ = receiver => (),
                _ = state.wait_for(|state| *state == Connection::Lost) => (),
            }
        })))
    }

    async fn sync(&self, _path: &str) -> Result<(), StoreError> {
        self.live().map(drop)
    }

    async fn commit(&self, (check, version): (&str, i32), writes: Vec<Write>) -> Result<(), CommitError> {
        let mut tree = self.live()?;
        if tree
            .nodes
            .get(check)
            .is_none_or(|(node, _)| node.version != version)
        {
            return Err(CommitError::Fenced);
        }
        let before = tree.nodes.clone();
        for (index, write) in writes.iter().enumerate() {
            if let Err(error) = tree.apply(write, self.id) {
                tree.nodes = before;
                return Err(CommitError::Operation(index, error));
            }
        }
        for write in &writes {
            if let Write::Set(path, ..) | Write::Delete(path) = write {
                tree.fire(path);
            }
        }
        Ok(())
    }

    async fn close(this: Arc<Self>) {
        drop(this);
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn passes_the_suite() {
        super::super::contract::run(&super::Memory::default(), "/suite").await;
    }

    #[tokio::test]
    async fn expiry_ends_the_session_and_its_nodes() {
        use super::{Kind, Session, Store, StoreError};
        let ensemble = super::Memory::default();
        let (a, b) = (
            ensemble.connect().await.unwrap(),
            ensemble.connect().await.unwrap(),
        );
        a.create("/e", b"", Kind::Ephemeral).await.unwrap();
        let watch = b.watch("/e").await.unwrap().unwrap();
        ensemble.expire(a.id());
        watch.await;
        assert_eq!(
            a.changed(super::Connection::Connected).await,
            super::Connection::Lost
        );
        assert!(matches!(
            a.create("/f", b"", Kind::Persistent).await,
            Err(StoreError::Lost(_))
        ));
        assert_eq!(b.get(&["/e".to_owned()]).await.unwrap(), [None]);
    }
}
