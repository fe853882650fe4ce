//! Simulated ZooKeeper: the in-memory store, which passes the same contract tests as the real server, behind a network
//! that delays, cuts and loses requests, and a clock that expires sessions. Records every transaction.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redkeeper_collector::store::{
    CommitError, Connection, Kind, Node, Session, Stat, Store, StoreError, Watch, Write,
    memory::{Memory, MemorySession},
};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::{Flag, run_in_background};
use crate::history::{Op, Txn};

/// Session time-out, counted by the server from the last message of the client.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
/// Expiry is checked once per tick.
const TICK: Duration = Duration::from_millis(500);

/// The ensemble and the network to it.
#[derive(Clone)]
pub struct Ensemble {
    memory: Memory,
    start: Instant,
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    rng: fastrand::Rng,
    history: Vec<Txn>,
    /// Share of requests that fail with an unknown outcome, in percent.
    loss: u8,
}

impl Ensemble {
    /// Creates an empty ensemble.
    pub fn new(start: Instant, rng: fastrand::Rng) -> Self {
        Self {
            memory: Memory::default(),
            start,
            inner: Arc::new(Mutex::new(Inner {
                rng,
                history: Vec::new(),
                loss: 0,
            })),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Sets the share of requests, in percent, that have an unknown outcome from now on.
    pub fn lose(&self, percent: u8) {
        self.inner().loss = percent;
    }

    /// Everything that was written so far.
    pub fn history(&self) -> Vec<Txn> {
        self.inner().history.clone()
    }

    /// Creates a client whose connection `link` can cut.
    pub fn client(&self, link: Arc<Flag>) -> Client {
        Client {
            ensemble: self.clone(),
            link,
        }
    }

    /// Opens a session of the test itself, which no fault affects.
    ///
    /// # Panics
    /// Never: the in-memory store accepts every session.
    pub async fn other_hand(&self) -> MemorySession {
        self.memory.connect().await.expect("a session")
    }

    /// Deletes a znode, or falsifies its content.
    pub async fn meddle(&self, hand: &MemorySession, path: &str, deletes: bool) {
        let Ok(Some(node)) = hand
            .get(&[path.to_owned()])
            .await
            .map(|mut nodes| nodes.remove(0))
        else {
            return;
        };
        let write = if deletes {
            Write::Delete(path.to_owned())
        } else {
            let text = String::from_utf8_lossy(&node.data).replace("\"UP\"", "\"DEGRADED\"");
            Write::Set(path.to_owned(), text.into_bytes(), None)
        };
        let ops = vec![op(&write)];
        if hand.commit((path, node.version), vec![write]).await.is_ok() {
            self.record(hand.id(), ops);
        }
    }

    fn expire(&self, session: i64) {
        let ops: Vec<_> = self.memory.expire(session).into_iter().map(Op::Delete).collect();
        if !ops.is_empty() {
            self.record(session, ops);
        }
    }

    fn delay(&self) -> Duration {
        Duration::from_micros(self.inner().rng.u64(100..3_000))
    }

    fn fails(&self) -> Option<bool> {
        let mut inner = self.inner();
        let loss = inner.loss;
        (inner.rng.u8(0..100) < loss).then(|| inner.rng.bool())
    }

    async fn apply(
        &self,
        session: Arc<MemorySession>,
        (check, version): (String, i32),
        writes: Vec<Write>,
    ) -> Result<(), CommitError> {
        let mut ops = vec![Op::Check(check.clone(), version)];
        ops.extend(writes.iter().map(op));
        session.commit((&check, version), writes).await?;
        self.record(session.id(), ops);
        Ok(())
    }

    fn record(&self, session: i64, ops: Vec<Op>) {
        let at = self.now();
        self.inner().history.push(Txn { session, at, ops });
    }
}

/// A collector's client of the ensemble.
#[derive(Clone)]
pub struct Client {
    ensemble: Ensemble,
    link: Arc<Flag>,
}

impl Store for Client {
    type Session = SimSession;

    async fn connect(&self) -> Result<SimSession, StoreError> {
        let connected = tokio::time::timeout(SESSION_TIMEOUT, self.link.is(true)).await;
        connected.map_err(|_| StoreError::TimedOut)?;
        let session = Arc::new(self.ensemble.memory.connect().await?);
        let state = watch::Sender::new(Connection::Connected);
        let life = Arc::new(Life {
            session,
            alive: Flag::new(true),
            state,
        });
        run_in_background(expire(self.clone(), Arc::clone(&life)));
        run_in_background(follow(Arc::clone(&self.link), Arc::clone(&life)));
        Ok(SimSession {
            client: self.clone(),
            life,
            order: Arc::default(),
        })
    }

    fn servers(&self) -> String {
        "simulation".to_owned()
    }
}

/// State of a session, as both ends see it.
struct Life {
    session: Arc<MemorySession>,
    /// On while the client process holds the session.
    alive: Flag,
    /// Connection state as the client sees it.
    state: watch::Sender<Connection>,
}

/// The server's end: expires a session whose client is dead or cut off.
async fn expire(client: Client, life: Arc<Life>) {
    let unheard = || async {
        tokio::select! { biased; () = client.link.is(false) => (), () = life.alive.is(false) => () }
    };
    loop {
        unheard().await;
        let deadline = Instant::now() + SESSION_TIMEOUT + TICK.mul_f64(client.ensemble.inner().rng.f64());
        let back = async {
            client.link.is(true).await;
            life.alive.is(true).await;
        };
        if tokio::time::timeout_at(deadline, back).await.is_err()
            || life.session.connection() == Connection::Lost
        {
            client.ensemble.expire(life.session.id());
            return;
        }
    }
}

/// The client's end: updates its connection state. It gives up later than the server does.
async fn follow(link: Arc<Flag>, life: Arc<Life>) {
    loop {
        link.is(false).await;
        life.state.send_replace(Connection::Suspended);
        let back = tokio::time::timeout(SESSION_TIMEOUT.mul_f64(1.4), link.is(true)).await;
        if back.is_err() || life.session.connection() == Connection::Lost {
            life.state.send_replace(Connection::Lost);
            return;
        }
        life.state.send_replace(Connection::Connected);
    }
}

/// A collector's session.
pub struct SimSession {
    client: Client,
    life: Arc<Life>,
    /// Makes requests reach the server in the order in which they were made.
    order: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for SimSession {
    fn drop(&mut self) {
        // Without a close, the server learns of the end only by the time-out.
        self.life.alive.set(false);
    }
}

impl SimSession {
    /// Sends one request. It is carried out even if the caller stops waiting for the answer.
    async fn request<T, F>(
        &self,
        apply: impl FnOnce(Arc<MemorySession>) -> F + Send + 'static,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send,
    {
        let (answer, answered) = oneshot::channel();
        let (client, life, order) = (
            self.client.clone(),
            Arc::clone(&self.life),
            Arc::clone(&self.order),
        );
        run_in_background(async move {
            // The caller may no longer wait for the answer.
            drop(answer.send(convey(&client, &life, &order, apply).await));
        });
        match tokio::time::timeout(SESSION_TIMEOUT * 2 / 3, answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreError::Unknown("lost".to_owned())),
            Err(_) => Err(StoreError::TimedOut),
        }
    }
}

/// Carries a request to the server, applies it, and carries the answer back.
async fn convey<T, F>(
    client: &Client,
    life: &Life,
    order: &tokio::sync::Mutex<()>,
    apply: impl FnOnce(Arc<MemorySession>) -> F + Send,
) -> Result<T, StoreError>
where
    F: Future<Output = T> + Send,
{
    let (ensemble, link) = (&client.ensemble, &client.link);
    let turn = order.lock().await;
    tokio::time::sleep(ensemble.delay()).await;
    // While disconnected, the request waits in the client library and is sent after the reconnection. If the library is
    // gone before that, the request is lost, unless it was already on its way.
    tokio::select! {
        biased;
        () = link.is(true) => {}
        () = life.alive.is(false) => {
            if ensemble.inner().rng.bool() {
                return Err(StoreError::Unknown("given up".to_owned()));
            }
            link.is(true).await;
        }
    }
    let fails = ensemble.fails();
    if fails == Some(false) {
        blip(client);
        return Err(StoreError::Unknown("lost on its way there".to_owned()));
    }
    let result = apply(Arc::clone(&life.session)).await;
    drop(turn);
    if fails == Some(true) {
        blip(client);
        return Err(StoreError::Unknown("lost on its way back".to_owned()));
    }
    tokio::select! {
        biased;
        () = link.is(false) => Err(StoreError::Unknown("cut on its way back".to_owned())),
        () = tokio::time::sleep(ensemble.delay()) => Ok(result),
    }
}

/// Breaks the connection for a moment.
fn blip(client: &Client) {
    let (link, time) = (Arc::clone(&client.link), client.ensemble.delay() * 30);
    if link.get() {
        link.set(false);
        run_in_background(async move {
            tokio::time::sleep(time).await;
            link.set(true);
        });
    }
}

fn op(write: &Write) -> Op {
    match write.clone() {
        Write::Create(path, data, _) => Op::Create(path, data),
        Write::Set(path, data, _) => Op::Set(path, data),
        Write::Delete(path) => Op::Delete(path),
    }
}

impl Session for SimSession {
    fn id(&self) -> i64 {
        self.life.session.id()
    }

    fn timeout(&self) -> Duration {
        SESSION_TIMEOUT
    }

    fn connection(&self) -> Connection {
        *self.life.state.borrow()
    }

    async fn changed(&self, known: Connection) -> Connection {
        let mut state = self.life.state.subscribe();
        let found = state
            .wait_for(|now| *now != known || *now == Connection::Lost)
            .await;
        found.map_or(Connection::Lost, |now| *now)
    }

    async fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, StoreError> {
        let (path, data) = (path.to_owned(), data.to_vec());
        let (ensemble, id) = (self.client.ensemble.clone(), self.id());
        let apply = move |session: Arc<MemorySession>| async move {
            let made = session.create(&path, &data, kind).await;
            if let Ok(made) = &made {
                ensemble.record(id, vec![Op::Create(made.clone(), data)]);
            }
            made
        };
        self.request(apply).await?
    }

    async fn get(&self, paths: &[String]) -> Result<Vec<Option<Node>>, StoreError> {
        let paths = paths.to_vec();
        self.request(move |session: Arc<MemorySession>| async move { session.get(&paths).await })
            .await?
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let path = path.to_owned();
        self.request(move |session: Arc<MemorySession>| async move { session.stat(&path).await })
            .await?
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        let path = path.to_owned();
        self.request(move |session: Arc<MemorySession>| async move { session.children(&path).await })
            .await?
    }

    async fn watch(&self, path: &str) -> Result<Option<Watch>, StoreError> {
        let path = path.to_owned();
        self.request(move |session: Arc<MemorySession>| async move { session.watch(&path).await })
            .await?
    }

    async fn sync(&self, path: &str) -> Result<(), StoreError> {
        let path = path.to_owned();
        self.request(move |session: Arc<MemorySession>| async move { session.sync(&path).await })
            .await?
    }

    async fn commit(&self, (check, version): (&str, i32), writes: Vec<Write>) -> Result<(), CommitError> {
        let (check, ensemble) = (check.to_owned(), self.client.ensemble.clone());
        let apply = move |session| async move { ensemble.apply(session, (check, version), writes).await };
        self.request(apply).await?
    }

    async fn close(this: Arc<Self>) {
        if this.client.link.get() {
            this.client.ensemble.expire(this.life.session.id());
        }
        drop(this);
    }
}
