//! The in-memory store with planned faults: a request fails, loses its answer, or something else happens before it. It
//! also records what was sent.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;

use super::{
    CommitError, Connection, Kind, Node, Session, Stat, Store, StoreError, Watch, Write,
    memory::{Memory, MemorySession},
};

/// Kind of a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Call {
    Create,
    Get,
    Stat,
    Children,
    Watch,
    Sync,
    Commit,
}

/// What happens to one request.
pub(crate) enum Fault {
    /// It is not applied, and this is the answer.
    Fails(StoreError),
    /// It is applied, and this is the answer.
    Loses(StoreError),
    /// It is applied after this.
    After(BoxFuture<'static, ()>),
}

/// A multi that was sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Multi {
    /// The checked znode, and its version.
    pub(crate) check: (String, i32),
    pub(crate) writes: Vec<Write>,
}

#[derive(Default)]
struct Plan {
    faults: BTreeMap<Call, VecDeque<Fault>>,
    calls: Vec<Call>,
    multis: Vec<Multi>,
    /// Znodes that nobody may write.
    read_only: BTreeSet<String>,
    /// Znodes that nobody may read; true where not even their existence is told.
    unreadable: BTreeMap<String, bool>,
}

/// An in-memory ensemble with faults. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct FaultyStore {
    /// The same znodes without faults.
    pub(crate) memory: Memory,
    plan: Arc<Mutex<Plan>>,
}

/// A session with faults.
pub(crate) struct FaultySession {
    store: FaultyStore,
    inner: MemorySession,
}

impl FaultyStore {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plans a fault for the next request of this kind that has none yet.
    pub(crate) fn plan_fault(&self, call: Call, fault: Fault) {
        self.plan().faults.entry(call).or_default().push_back(fault);
    }

    /// Plans that the answer to the next multi is lost.
    pub(crate) fn lose_next_commit(&self, applied: bool) {
        let unknown = StoreError::Unknown("planned".to_owned());
        let fault = if applied { Fault::Loses } else { Fault::Fails };
        self.plan_fault(Call::Commit, fault(unknown));
    }

    /// Refuses all writes of a znode.
    pub(crate) fn make_read_only(&self, path: &str) {
        self.plan().read_only.insert(path.to_owned());
    }

    /// Refuses to read a znode; with `hidden`, to tell its owner too.
    pub(crate) fn make_unreadable(&self, path: &str, hidden: bool) {
        self.plan().unreadable.insert(path.to_owned(), hidden);
    }

    /// The kinds of the requests since the last call, in order.
    pub(crate) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.plan().calls)
    }

    /// The multis since the last call, in order.
    pub(crate) fn take_multis(&self) -> Vec<Multi> {
        std::mem::take(&mut self.plan().multis)
    }

    async fn around<T, E: From<StoreError>>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let fault = {
            let mut plan = self.plan();
            plan.calls.push(call);
            plan.faults.get_mut(&call).and_then(VecDeque::pop_front)
        };
        match fault {
            None => request.await,
            Some(Fault::Fails(error)) => Err(error.into()),
            Some(Fault::Loses(error)) => {
                request.await?;
                Err(error.into())
            }
            Some(Fault::After(first)) => {
                first.await;
                request.await
            }
        }
    }
}

fn not_authorized() -> StoreError {
    StoreError::Refused("not authorized".to_owned())
}

impl Store for FaultyStore {
    type Session = FaultySession;

    async fn connect(&self) -> Result<FaultySession, StoreError> {
        Ok(FaultySession {
            inner: self.memory.connect().await?,
            store: self.clone(),
        })
    }

    fn servers(&self) -> String {
        self.memory.servers()
    }
}

impl Session for FaultySession {
    fn id(&self) -> i64 {
        self.inner.id()
    }

    fn timeout(&self) -> Duration {
        self.inner.timeout()
    }

    fn connection(&self) -> Connection {
        self.inner.connection()
    }

    async fn changed(&self, known: Connection) -> Connection {
        self.inner.changed(known).await
    }

    async fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, StoreError> {
        let request = self.inner.create(path, data, kind);
        self.store.around(Call::Create, request).await
    }

    async fn get(&self, paths: &[String]) -> Result<Vec<Option<Node>>, StoreError> {
        let mut nodes = self.store.around(Call::Get, self.inner.get(paths)).await?;
        let plan = self.store.plan();
        for (path, node) in paths.iter().zip(&mut nodes) {
            if let Some(node) = node.as_mut().filter(|_| plan.unreadable.contains_key(path)) {
                *node = Node {
                    data: Vec::new(),
                    version: 0,
                    owner: 0,
                    readable: false,
                };
            }
        }
        Ok(nodes)
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let stat = self.store.around(Call::Stat, self.inner.stat(path)).await?;
        match self.store.plan().unreadable.get(path) {
            Some(true) => Err(not_authorized()),
            _ => Ok(stat),
        }
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.store.around(Call::Children, self.inner.children(path)).await
    }

    async fn watch(&self, path: &str) -> Result<Option<Watch>, StoreError> {
        self.store.around(Call::Watch, self.inner.watch(path)).await
    }

    async fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.store.around(Call::Sync, self.inner.sync(path)).await
    }

    async fn commit(&self, check: (&str, i32), writes: Vec<Write>) -> Result<(), CommitError> {
        let refused = {
            let mut plan = self.store.plan();
            plan.multis.push(Multi {
                check: (check.0.to_owned(), check.1),
                writes: writes.clone(),
            });
            writes
                .iter()
                .position(|write| plan.read_only.contains(write.path()))
        };
        let request = async {
            match refused {
                Some(index) => {
                    self.inner.commit(check, Vec::new()).await?;
                    Err(CommitError::Operation(index, not_authorized()))
                }
                None => self.inner.commit(check, writes).await,
            }
        };
        self.store.around(Call::Commit, request).await
    }

    async fn close(this: Arc<Self>) {
        drop(this);
    }
}

#[tokio::test]
async fn without_a_plan_it_passes_the_suite_of_every_store() {
    super::contract::run(&FaultyStore::default(), "/suite").await;
}
