//! Tests of a leader's term with the in-memory store, in virtual time: what it writes, how it ends, and what it does
//! after faults.

use std::sync::{Mutex, PoisonError};

use redkeeper_core::{
    fleet::{AgentInfo, message_order::Origin},
    ids::{AgentId, BootId, BootTag, Epoch, InstanceId, Seq},
    publish::Record,
    status::{Identity, Reason, Stage as ProbeStage, Status, Verdict},
    time::WallMs,
};
use redkeeper_proto::v1::PublishedWrites;
use redkeeper_runtime::supervise::Supervisor;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    fleet::{
        change_log::{Change, ChangeLog},
        command::COMMANDS_MAX,
        view::{self, AgentEntry, View, ViewPublisher},
    },
    store::{
        Kind, Node, Session, Write,
        records::PublisherJson,
        tests_faults::{Call, Fault, FaultySession, FaultyStore},
    },
};

mod audit;
mod follow;
mod freshness;
mod load;
mod outcomes;
mod takeover;

const LIMIT: Duration = Duration::from_secs(60);
/// Interval of freshness marks.
const FRESHNESS: Duration = Duration::from_secs(5);
/// Token of the term under test.
const TOKEN: i32 = 1;

/// What was handed to the fleet: ids, each list with the grace that was asked for.
type Adopted = Arc<Mutex<Vec<(Vec<String>, bool)>>>;

/// Takes the place of the aggregator: statuses that are handed over count as adopted at once.
fn adopt_everything(mut commands: mpsc::Receiver<Command>) -> Adopted {
    let adopted = Adopted::default();
    let told = Arc::clone(&adopted);
    let supervisor = Supervisor::new(CancellationToken::new());
    let _ends_with_the_test = supervisor.spawn("fleet", "", async move {
        while let Some(command) = commands.recv().await {
            let Command::Adopt(adoption, done) = command else {
                continue;
            };
            let ids = adoption
                .statuses
                .iter()
                .map(|(status, _)| status.identity.id.to_string());
            let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
            told.push((ids.collect(), adoption.grace));
            done.send(()).ok();
        }
    });
    adopted
}

fn id(name: &str) -> InstanceId {
    InstanceId::new(name).unwrap()
}

fn status(name: &str, reason: Reason) -> Arc<Status> {
    let identity = Identity {
        id: id(name),
        cluster: None,
        address: "127.0.0.1:6379".into(),
        labels: Arc::default(),
    };
    Arc::new(Status {
        identity,
        agent: AgentId::new("db").unwrap(),
        verdict: Verdict::blank(reason, ProbeStage::Reply, "", WallMs(1_000)),
    })
}

/// The znode that an earlier leader wrote.
fn stored(name: &str, reason: Reason) -> Vec<u8> {
    let mut record = Record::of(&status(name, reason), ORIGIN);
    (record.epoch, record.rev) = (Epoch(1), 1);
    format::native::status(&record)
}

const ORIGIN: Origin = Origin {
    boot: BootTag(7),
    seq: Seq(9),
};

/// A term, the fleet that it publishes, and a hand that reads and edits znodes.
struct Rig {
    setup: Setup,
    links: replicate::Sender,
    store: FaultyStore,
    session: Arc<FaultySession>,
    layout: Layout,
    hand: crate::store::memory::MemorySession,
    view: View,
    publisher: ViewPublisher,
    adopted: Adopted,
    metrics: Metrics,
    diagnostics: Arc<Diagnostics>,
    term: LeaderTerm<FaultyStore>,
}

impl Rig {
    /// A term that has just been claimed, over an empty ZooKeeper.
    async fn new() -> Self {
        Self::over(&[]).await
    }

    /// A live term with `db:1`, which is OK.
    async fn live() -> Self {
        let mut rig = Self::new().await;
        rig.put("db:1", Reason::Ok);
        rig.until_live().await;
        rig
    }

    /// A term that has just been claimed, over these statuses of an earlier leader.
    async fn over(held: &[(&str, Vec<u8>)]) -> Self {
        Self::knowing(held, Mirror::default()).await
    }

    /// The same, of a collector that knows what is published.
    async fn knowing(held: &[(&str, Vec<u8>)], mirror: Mirror) -> Self {
        let (store, layout) = (FaultyStore::default(), Layout::new("/redkeeper"));
        let hand = store.memory.connect().await.unwrap();
        layout.ensure(&hand).await.unwrap();
        for (name, data) in held {
            plant(&hand, &layout, name, data).await;
        }
        let session = Arc::new(store.connect().await.unwrap());
        session
            .create(&layout.publisher(), b"", Kind::Ephemeral)
            .await
            .unwrap();
        set(&hand, &layout.epoch(), br#"{"epoch":5}"#).await;
        let (publisher, handle) = view::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let links = replicate::Sender::new(replicate::TOLD_MAX);
        let metrics = Metrics::default();
        let diagnostics = Arc::new(Diagnostics::new(Clock::simulated()));
        let setup = Setup {
            layout: layout.clone(),
            id: "a".to_owned(),
            view: handle,
            commands,
            clock: Clock::simulated(),
            orphans_max_percent: 10,
            audit_interval: AUDIT_INTERVAL,
            freshness_interval: FRESHNESS,
            links: links.clone(),
            next_adoption: Arc::default(),
            metrics: metrics.clone(),
            diagnostics: Arc::clone(&diagnostics),
        };
        let term = Term {
            epoch: Epoch(5),
            token: TOKEN,
        };
        Self {
            term: LeaderTerm::new(setup.clone(), &session, term, mirror, true),
            adopted: adopt_everything(receiver),
            setup,
            links,
            store,
            session,
            layout,
            hand,
            view: View::default(),
            publisher,
            metrics,
            diagnostics,
        }
    }

    /// The fleet learns of a status.
    fn put(&mut self, name: &str, reason: Reason) {
        let status = status(name, reason);
        let put = self.view.put(&status, ORIGIN);
        self.view.log.push(Change {
            revision: self.view.revision,
            status,
            origin: ORIGIN,
            previous: put.former().cloned(),
            removed: false,
            time: WallMs(0),
        });
        self.publisher.replace(self.view.clone());
    }

    /// The fleet learns that `db:1` is OK, and the commit of it ends this long after now.
    fn put_slowly(&mut self, time: Duration) {
        let slow = Fault::After(Box::pin(tokio::time::sleep(time)));
        self.store.plan_fault(Call::Commit, slow);
        self.put("db:1", Reason::Ok);
    }

    /// The fleet forgets an instance.
    fn remove(&mut self, name: &str) {
        let former = self.view.remove(&id(name)).unwrap();
        self.view.revision.0 += 1;
        self.view.log.push(Change {
            revision: self.view.revision,
            previous: Some(Arc::clone(&former.status)),
            status: former.status,
            origin: ORIGIN,
            removed: true,
            time: WallMs(0),
        });
        self.publisher.replace(self.view.clone());
    }

    /// The agent of all instances, which has told everything and is heard; or not.
    fn put_agent(&mut self, complete: bool, silent: bool) {
        let entry = AgentEntry {
            name: AgentId::new("db").unwrap(),
            greeting: Some(AgentInfo {
                agent: AgentId::new("db").unwrap(),
                boot: BootId::new(&"0".repeat(32)).unwrap(),
                version: String::new(),
                host: String::new(),
                via: String::new(),
                address: String::new(),
                clock: WallMs(0),
            }),
            silent,
            clock_ahead_ms: 0,
            complete,
            connected: WallMs(0),
            rival: None,
            ids: Vec::new(),
            reporting: Box::default(),
            live: Arc::default(),
        };
        self.view.agents.insert(entry.name.clone(), Arc::new(entry));
        self.publisher.replace(self.view.clone());
    }

    /// Runs the term until something must be told.
    async fn told(&mut self) -> Input {
        timeout(LIMIT, self.term.run()).await.expect("nothing is told")
    }

    async fn until_live(&mut self) {
        assert_eq!(self.told().await, Input::LookAgain);
        assert_eq!(self.term.phase(), "leader");
    }

    /// Runs the term until a condition holds, during which nothing may be told.
    async fn until(&mut self, what: &str, reached: impl AsyncFn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !reached(self).await {
            assert!(Instant::now() < deadline, "not reached: {what}");
            self.run_for(Duration::from_millis(10)).await;
        }
    }

    /// Runs the term for this long, during which nothing may be told.
    async fn run_for(&mut self, time: Duration) {
        if let Ok(told) = timeout(time, self.term.run()).await {
            panic!("{told:?} is told");
        }
    }

    async fn node(&self, path: &str) -> Option<Node> {
        self.hand.get(&[path.to_owned()]).await.unwrap().remove(0)
    }

    /// A field of a status znode; `None` where the znode does not exist, or is no JSON.
    async fn field(&self, name: &str, field: &str) -> Option<Value> {
        let node = self.node(&self.layout.instance(&id(name))).await?;
        let json: Value = serde_json::from_slice(&node.data).ok()?;
        json.get(field).cloned()
    }

    async fn reason(&self, name: &str) -> Option<String> {
        let reason = self.field(name, "reason").await?;
        reason.as_str().map(str::to_owned)
    }

    /// Waits until the znode has this reason.
    async fn until_reason(&mut self, name: &str, reason: Option<&str>) {
        let what = format!("{name} is {reason:?}");
        self.until(&what, async |rig| rig.reason(name).await.as_deref() == reason)
            .await;
    }

    /// A number of the bucket of an instance.
    async fn bucket(&self, name: &str, field: &str) -> u64 {
        let node = self.node(&self.layout.bucket(id(name).bucket())).await.unwrap();
        serde_json::from_slice::<Value>(&node.data).unwrap()[field]
            .as_u64()
            .unwrap()
    }

    async fn phase(&self) -> String {
        let node = self.node(&self.layout.publisher()).await.unwrap();
        serde_json::from_slice(&node.data).map_or_else(|_| String::new(), |json: PublisherJson| json.phase)
    }

    async fn edit(&self, name: &str, data: &[u8]) {
        set(&self.hand, &self.layout.instance(&id(name)), data).await;
    }

    async fn delete(&self, path: &str) {
        change(&self.hand, path, Write::Delete(path.to_owned())).await;
    }

    /// The claim of a successor: the token of this term is outdated.
    async fn depose(&self) {
        set(&self.hand, &self.layout.epoch(), br#"{"epoch":6}"#).await;
    }

    fn batches(&self, result: &'static str) -> u64 {
        self.metrics.batches.get_or_create(&[("result", result)]).get()
    }

    fn adopted(&self) -> Vec<(Vec<String>, bool)> {
        self.adopted.lock().unwrap().clone()
    }
}

async fn change<T: Session>(session: &T, path: &str, write: Write) {
    let version = session.stat(path).await.unwrap().unwrap().version;
    session.commit((path, version), vec![write]).await.unwrap();
}

async fn set<T: Session>(session: &T, path: &str, data: &[u8]) {
    change(session, path, Write::Set(path.to_owned(), data.to_vec(), None)).await;
}

/// Creates a status, and its bucket, as an earlier leader would.
async fn plant<T: Session>(session: &T, layout: &Layout, name: &str, data: &[u8]) {
    let bucket = layout.bucket(id(name).bucket());
    if session.stat(&bucket).await.unwrap().is_none() {
        session.create(&bucket, b"", Kind::Persistent).await.unwrap();
    }
    let path = layout.instance(&id(name));
    session.create(&path, data, Kind::Persistent).await.unwrap();
    let count = session.children(&bucket).await.unwrap().len();
    let data = format!(r#"{{"gen":3,"count":{count},"epoch":1}}"#);
    set(session, &bucket, data.as_bytes()).await;
}

#[tokio::test(start_paused = true)]
async fn a_term_publishes_what_is_known_and_then_says_that_it_is_live() {
    let mut rig = Rig::new().await;
    rig.put("db:1", Reason::Ok);
    rig.put("db:2", Reason::NotProbed);
    assert_eq!(rig.term.phase(), "reconciling");
    rig.until_live().await;
    assert_eq!(rig.reason("db:1").await.as_deref(), Some("OK"));
    assert_eq!(rig.field("db:1", "epoch").await, Some(5.into()));
    assert_eq!(rig.field("db:1", "boot").await, Some("00000007".into()));
    assert_eq!(rig.reason("db:2").await, None, "nothing is known of it yet");
    assert_eq!(rig.bucket("db:1", "count").await, 1);
    assert_eq!(rig.phase().await, "live");
    assert_eq!((rig.metrics.pending.get(), rig.term.oldest_pending()), (0, None));
    // Each multi is conditional on the term.
    let check = (rig.layout.epoch(), TOKEN);
    assert!(rig.store.take_multis().iter().all(|multi| multi.check == check));
}

#[tokio::test(start_paused = true)]
async fn only_differences_from_the_earlier_leader_are_written() {
    let held = ["db:1", "db:2", "db:3"].map(|name| (name, stored(name, Reason::Ok)));
    let mut rig = Rig::over(&held).await;
    rig.put_agent(false, false);
    rig.put("db:1", Reason::Ok);
    rig.put("db:2", Reason::Loading);
    rig.until_live().await;
    assert_eq!(rig.field("db:1", "epoch").await, Some(1.into()), "it was right");
    assert_eq!(rig.field("db:2", "epoch").await, Some(5.into()));
    assert_eq!(rig.field("db:2", "rev").await, Some(2.into()));
    // The fleet knows the others.
    let adopted = [(vec!["db:3".to_owned()], true)];
    assert_eq!(rig.adopted(), adopted, "with the grace of a change of leaders");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_written_with_its_bucket_and_a_removal_deletes_the_znode() {
    let mut rig = Rig::live().await;
    let generation = rig.bucket("db:1", "gen").await;
    rig.put("db:1", Reason::ConnectionRefused);
    rig.until_reason("db:1", Some("CONNECTION_REFUSED")).await;
    assert_eq!(rig.field("db:1", "rev").await, Some(2.into()));
    assert_eq!(rig.bucket("db:1", "gen").await, generation + 1);
    rig.remove("db:1");
    rig.until_reason("db:1", None).await;
    assert_eq!(rig.bucket("db:1", "gen").await, generation + 2);
    assert_eq!(rig.bucket("db:1", "count").await, 0);
    rig.until("all are booked", async |rig| rig.metrics.writes.get() == 3)
        .await;
}

/// The log of the view does not reach back to the last change that was read.
#[tokio::test(start_paused = true)]
async fn a_term_that_missed_changes_compares_everything() {
    let mut rig = Rig::live().await;
    rig.view.log = ChangeLog::default();
    rig.view.put(&status("db:1", Reason::Loading), ORIGIN);
    rig.view.put(&status("db:2", Reason::Ok), ORIGIN);
    rig.publisher.replace(rig.view.clone());
    rig.until_reason("db:1", Some("LOADING")).await;
    rig.until_reason("db:2", Some("OK")).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_on_hold_and_the_newest_state_after_it() {
    let mut rig = Rig::live().await;
    assert!(rig.term.pause());
    assert!(!rig.term.pause(), "it is on hold already");
    rig.store.take_calls();
    rig.put("db:1", Reason::Loading);
    rig.run_for(Duration::from_secs(10)).await;
    rig.put("db:1", Reason::ConnectionRefused);
    rig.run_for(Duration::from_secs(10)).await;
    assert_eq!(rig.store.take_calls(), []);
    // What waits is counted, and since when.
    assert_eq!(rig.metrics.pending.get(), 1);
    assert!(rig.term.oldest_pending().is_some());
    rig.term.resume();
    rig.until_reason("db:1", Some("CONNECTION_REFUSED")).await;
    assert_eq!(rig.field("db:1", "rev").await, Some(2.into()));
}

#[tokio::test(start_paused = true)]
async fn on_hold_the_answer_to_what_is_in_flight_counts_and_nothing_more_is_sent() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    rig.put_slowly(Duration::from_secs(1));
    rig.run_for(Duration::from_millis(100)).await;
    rig.term.pause();
    rig.store.take_multis();
    rig.put("db:2", Reason::Ok);
    rig.run_for(Duration::from_secs(2)).await;
    assert_eq!(rig.store.take_multis(), []);
    assert_eq!(rig.metrics.writes.get(), 1);
    rig.term.resume();
    rig.until_reason("db:2", Some("OK")).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_fence_ends_the_term() {
    let mut rig = Rig::live().await;
    rig.depose().await;
    rig.put("db:1", Reason::ConnectionRefused);
    assert_eq!(rig.told().await, Input::Fenced);
    assert_eq!(rig.reason("db:1").await.as_deref(), Some("OK"));
    assert_eq!(rig.batches("failed"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_term_that_ends_while_it_takes_over_never_says_that_it_is_live() {
    let mut rig = Rig::new().await;
    rig.depose().await;
    assert_eq!(rig.told().await, Input::Fenced);
    assert_eq!(
        (rig.term.phase(), rig.phase().await.as_str()),
        ("reconciling", "")
    );
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_aggregator_ends_the_session() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    let (publisher, _view) = view::channel();
    rig.publisher = publisher;
    assert_eq!(rig.told().await, Input::Lost);
}

#[tokio::test(start_paused = true)]
async fn before_a_hand_over_batches_in_flight_are_waited_for() {
    let mut rig = Rig::new().await;
    rig.until_live().await;
    rig.put_slowly(Duration::from_secs(1));
    rig.run_for(Duration::from_millis(100)).await;
    assert_eq!(rig.reason("db:1").await, None);
    let (start, mut told) = (Instant::now(), rig.links.subscribe());
    rig.term.finish().await;
    // It counts as any other batch.
    assert_eq!(rig.metrics.writes.get(), 1);
    assert_eq!(told.try_recv().unwrap().buckets[0].written.len(), 1);
    assert_eq!(rig.reason("db:1").await.as_deref(), Some("OK"));
    assert_eq!(start.elapsed().as_millis(), 900);
}
