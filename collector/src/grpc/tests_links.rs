//! Tests of the links between collectors: the service on a server, and the task that keeps links, over pipes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use redkeeper_core::{
    fleet::{AgentInfo, AgentSnapshot, Message, Report},
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    status::{Identity, Reason, Stage, Verdict},
    time::WallMs,
};
use redkeeper_proto::{
    dial::{Dial, Dialing},
    v1::{
        Heartbeat, PublishedBucket, PublishedWrites, ReportStatusRequest,
        report_status_request::Message as Wire,
    },
};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::tests_server::Rig;
use crate::{
    fleet::{
        command::Command,
        open_streams::{OpenStream, OpenStreamGuard, OpenStreams},
        stream_status::End,
        view::{self, AgentEntry, View},
    },
    leader::{hand_over, leadership::Leadership, proofs},
    metrics::Metrics,
    peers::{Peer, Peers, asking::Intervals, links::PeerLinks, relay::Intake},
    store::records::CollectorJson,
};

const LIMIT: Duration = Duration::from_secs(60);

/// How the address of the other collector behaves.
#[derive(Clone, Copy, PartialEq)]
enum Address {
    Answers,
    Refuses,
    /// Takes connections, and nothing is ever heard: a process that is stopped.
    Mute,
    /// Nothing comes back, not even a refusal.
    BlackHole,
}

/// The way to the other collector.
struct Way {
    entrance: tokio::sync::mpsc::Sender<Result<tokio::io::DuplexStream, std::convert::Infallible>>,
    address: Arc<AtomicU8>,
}

impl Dial for Way {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        let (entrance, address) = (self.entrance.clone(), self.address.load(Ordering::SeqCst));
        Box::pin(async move {
            let connect = service_fn(move |_| {
                let entrance = entrance.clone();
                async move {
                    let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
                    let (near, far) = tokio::io::duplex(64 * 1024);
                    match address {
                        a if a == Address::Answers as u8 => {
                            entrance.send(Ok(far)).await.map_err(|_| refused())?;
                        }
                        a if a == Address::Refuses as u8 => return Err(refused()),
                        a if a == Address::Mute as u8 => std::mem::forget(far),
                        _ => std::future::pending().await,
                    }
                    Ok(TokioIo::new(near))
                }
            });
            endpoint.connect_with_connector(connect).await
        })
    }
}

/// A collector `b` with a link to `a`.
struct Pair {
    server: Rig,
    address: Arc<AtomicU8>,
    peers: watch::Receiver<Peers>,
    ended: proofs::Reader,
    members: watch::Sender<Leadership>,
    stop: CancellationToken,
    /// What the link hands on of the leader's writes.
    published: tokio::sync::mpsc::Receiver<PublishedWrites>,
    /// What asks the coordinator of `b` to hand leadership over.
    handed_over: tokio::sync::mpsc::Receiver<hand_over::Request>,
    /// What the link hands to the aggregator of `b`.
    intake: tokio::sync::mpsc::Receiver<Command>,
    publisher: view::ViewPublisher,
    open_streams: Arc<OpenStreams>,
}

impl Pair {
    async fn linked() -> Self {
        let server = Rig::start();
        let (peers_sender, peers) = watch::channel(Peers::default());
        let (ended_sender, ended) = watch::channel(proofs::Ended::default());
        let (members, leadership) = watch::channel(Leadership::default());
        let (publisher, view) = view::channel();
        let (commands, intake) = tokio::sync::mpsc::channel(64);
        let (hand_over, handed_over) = tokio::sync::mpsc::channel(1);
        let (writes, published) = tokio::sync::mpsc::channel(1);
        let open_streams = Arc::<OpenStreams>::default();
        let (address, stop) = (
            Arc::new(AtomicU8::new(Address::Answers as u8)),
            CancellationToken::new(),
        );
        let links = PeerLinks {
            id: "b".to_owned(),
            leadership,
            view,
            peers: peers_sender,
            ended: ended_sender,
            open_streams: Arc::clone(&open_streams),
            intake: Intake {
                commands,
                next_stream: Arc::default(),
                metrics: Metrics::default(),
                refused: Arc::default(),
            },
            published: writes,
            hand_over,
            intervals: Intervals {
                heartbeat: Duration::from_secs(1),
                silent_after: Duration::from_secs(3),
            },
            dial: Arc::new(Way {
                entrance: server.entrance.clone(),
                address: Arc::clone(&address),
            }),
            clock: Clock::simulated(),
            stop: stop.clone(),
        };
        drop(Supervisor::new(CancellationToken::new()).spawn("links", "", links.run()));
        let mut pair = Self {
            server,
            address,
            peers,
            ended,
            members,
            stop,
            published,
            handed_over,
            intake,
            publisher,
            open_streams,
        };
        pair.server.leadership.send_modify(|d| {
            "n-1".clone_into(&mut d.candidate);
            "a".clone_into(&mut d.leader_hint);
            d.epoch = 7;
        });
        pair.register("a");
        pair.until("linked", |peer| peer.leader == "a" && peer.epoch == 7)
            .await;
        pair
    }

    fn register(&self, id: &str) {
        let member = CollectorJson {
            id: id.to_owned(),
            grpc: "a:7400".to_owned(),
            ..CollectorJson::default()
        };
        self.members.send_modify(|d| d.members = vec![member]);
    }

    fn set(&self, address: Address) {
        self.address.store(address as u8, Ordering::SeqCst);
    }

    async fn until(&mut self, what: &str, reached: impl Fn(&Peer) -> bool) {
        let is_reached = |peers: &Peers| peers.peers.get("a").is_some_and(&reached);
        let reached = timeout(LIMIT, self.peers.wait_for(is_reached)).await.is_ok();
        assert!(reached, "not reached: {what}: {:?}", self.peers.borrow());
    }

    fn ended(&self) -> Vec<String> {
        self.ended.borrow().iter().cloned().collect()
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_closes_its_link_and_refuses_connections_has_ended() {
    let mut pair = Pair::linked().await;
    assert_eq!(pair.peers.borrow().peers["a"].served_by, "a");
    let start = tokio::time::Instant::now();
    pair.set(Address::Refuses);
    pair.server.stop.cancel();
    let proven = pair.ended.wait_for(|ended| ended.contains("n-1"));
    assert!(timeout(LIMIT, proven).await.is_ok());
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
    let peer = pair.peers.borrow().peers["a"].clone();
    assert!(peer.link.silent_since().is_some() && peer.leader.is_empty());
    assert_eq!(peer.error, "connection refused");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_breaks_proves_nothing_where_nobody_refuses() {
    for address in [Address::Mute, Address::BlackHole] {
        let mut pair = Pair::linked().await;
        pair.set(address);
        pair.server.stop.cancel();
        pair.until("it is silent", |peer| peer.link.silent_since().is_some())
            .await;
        assert_eq!(pair.ended(), [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_is_no_member_any_more_is_forgotten_once_its_link_has_ended() {
    let mut pair = Pair::linked().await;
    pair.members.send_modify(|d| d.members.clear());
    // It has lost ZooKeeper only, and may still relay.
    let gone = timeout(
        Duration::from_secs(30),
        pair.peers.wait_for(|peers| peers.peers.is_empty()),
    );
    assert!(gone.await.is_err());
    pair.set(Address::BlackHole);
    pair.server.stop.cancel();
    let gone = pair.peers.wait_for(|peers| peers.peers.is_empty());
    assert!(timeout(LIMIT, gone).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_leadership_is_told_at_once() {
    let mut pair = Pair::linked().await;
    let start = tokio::time::Instant::now();
    pair.server.leadership.send_modify(|d| {
        "n-2".clone_into(&mut d.candidate);
        d.leader_hint.clear();
        d.epoch = 8;
    });
    pair.until("told", |peer| peer.epoch == 8 && peer.leader.is_empty())
        .await;
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "{:?}",
        start.elapsed()
    );
    // The new candidate is what is proven to be gone.
    pair.set(Address::Refuses);
    pair.server.stop.cancel();
    let proven = pair.ended.wait_for(|ended| !ended.is_empty());
    assert!(timeout(LIMIT, proven).await.is_ok());
    assert_eq!(pair.ended(), ["n-2"]);
}

const BOOT: &str = "00000000000000000000000000000001";

fn boot() -> BootId {
    BootId::new(BOOT).unwrap()
}

fn db() -> AgentId {
    AgentId::new("db").unwrap()
}

fn greeting() -> AgentInfo {
    AgentInfo {
        agent: db(),
        boot: boot(),
        version: "1".to_owned(),
        host: "db.example".to_owned(),
        address: String::new(),
        via: String::new(),
        clock: WallMs(0),
    }
}

fn report(n: u32) -> Report {
    Report {
        handle: Handle(n),
        identity: Identity {
            id: InstanceId::new(&format!("db:{n}")).unwrap(),
            cluster: None,
            address: "127.0.0.1:1".into(),
            labels: Arc::default(),
        },
        verdict: Verdict::blank(Reason::Ok, Stage::Reply, "", WallMs(1)),
        probe_age: Some(Duration::from_millis(7)),
        freshness_limit: Duration::from_secs(2),
    }
}

fn beat(sequence: u64) -> ReportStatusRequest {
    let beat = Heartbeat {
        handles: vec![1],
        probe_ages_ms: vec![30],
        agent_time: None,
    };
    ReportStatusRequest {
        sequence,
        message: Some(Wire::Heartbeat(beat)),
    }
}

/// An open stream of the agent.
fn open_stream(number: u64) -> OpenStream {
    let clock = Clock::simulated();
    let now = (clock.now(), clock.wall());
    OpenStream::new(number, (db(), boot()), None, 1, now)
}

/// Waits until nobody is passed what comes on a stream, which no event tells.
async fn untapped(stream: &OpenStream) {
    let untapped = async {
        while stream.tap_state().is_tapped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(LIMIT, untapped).await.is_ok(), "still tapped");
}

impl Pair {
    /// `a` hears the agent, which `b` does not, and is asked for it; returns the agent's stream.
    async fn relays(&mut self) -> OpenStreamGuard {
        let there = self.server.open_streams.add(open_stream(5));
        self.hears_the_agent();
        self.answers().await;
        there
    }

    /// `a` hears the agent, and says so.
    fn hears_the_agent(&self) {
        let mut view = View::default();
        view.agents.insert(db(), self.entry());
        self.server.view.replace(view);
    }

    fn entry(&self) -> Arc<AgentEntry> {
        Arc::new(AgentEntry {
            name: db(),
            greeting: Some(greeting()),
            silent: false,
            clock_ahead_ms: 0,
            complete: true,
            connected: WallMs(0),
            rival: None,
            ids: Vec::new(),
            reporting: Box::default(),
            live: Arc::default(),
        })
    }

    /// Answers what `a` is asked by its link: three instances, two of which came with the same message.
    async fn answers(&mut self) {
        let asked = timeout(LIMIT, self.server.commands.recv()).await.unwrap();
        let Some(Command::Snapshot(agent, answer)) = asked else {
            panic!("another command");
        };
        assert_eq!(agent, db());
        let snapshot = AgentSnapshot {
            greeting: greeting(),
            heard_age: Duration::from_millis(400),
            heartbeat_age: Duration::from_millis(900),
            reports: [(Seq(4), vec![report(1), report(2)]), (Seq(9), vec![report(3)])].into(),
            complete: Some(Seq(11)),
        };
        assert!(answer.send(Some(snapshot)).is_ok());
    }

    async fn taken(&mut self) -> Command {
        timeout(LIMIT, self.intake.recv()).await.unwrap().unwrap()
    }

    /// The link hands on what `a` knows; returns the number of the stream.
    async fn begins(&mut self) -> u64 {
        let Command::RelayBegins(stream, told, _handle, ages) = self.taken().await else {
            panic!("another command");
        };
        let via = AgentInfo {
            via: "a".to_owned(),
            ..greeting()
        };
        assert_eq!(*told, via);
        assert_eq!(*ages, [400, 900].map(Duration::from_millis));
        let expected = [
            (4, Message::Snapshot(vec![report(1), report(2)], false)),
            (9, Message::Snapshot(vec![report(3)], false)),
            (11, Message::Snapshot(Vec::new(), true)),
        ];
        for (seq, message) in expected {
            let Command::Relayed(of, sequence, content, age) = self.taken().await else {
                panic!("another command");
            };
            assert_eq!((of, sequence, content), (stream, Seq(seq), message));
            assert_eq!(age, Duration::from_millis(400));
        }
        stream
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_only_the_other_collector_hears_is_relayed_until_it_is_heard() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let stream = pair.begins().await;
    assert!(there.tap_state().is_tapped());
    // What comes from then on, with the time that it waited.
    there.pass_on(&beat(12), pair.server.clock.now());
    let Command::Relayed(of, Seq(12), Message::Heartbeat(ages, _), age) = pair.taken().await else {
        panic!("another command");
    };
    assert_eq!(of, stream);
    assert_eq!(ages, [(Handle(1), Duration::from_millis(30))]);
    assert!(age < Duration::from_millis(100), "{age:?}");

    // The agent connects here, and talks: after a while the relay ends.
    let here = pair.open_streams.add(open_stream(6));
    let mut view = View::default();
    view.agents.insert(db(), pair.entry());
    pair.publisher.replace(view);
    let talks = async {
        for sequence in 2.. {
            here.received(sequence, pair.server.clock.now());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::select! { taken = pair.intake.recv() => taken, () = talks => None };
    assert!(matches!(ended, Some(Command::Bye(of)) if of == stream));
    untapped(&there).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_ends_leaves_no_relay_behind_on_either_side() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let stream = pair.begins().await;
    pair.set(Address::BlackHole);
    pair.server.stop.cancel();
    let ended = pair.taken().await;
    assert!(matches!(ended, Command::Bye(of) if of == stream));
    untapped(&there).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_stream_is_refused_is_asked_for_again() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let Command::RelayBegins(first, _, mut handle, _) = pair.taken().await else {
        panic!("another command");
    };
    handle.end(End::Resend);
    // What is on its way is dropped, and the next message finds the end.
    there.pass_on(&beat(12), pair.server.clock.now());
    loop {
        match pair.taken().await {
            Command::Bye(of) if of == first => break,
            Command::Relayed(of, ..) if of == first => (),
            _ => panic!("another command"),
        }
    }
    pair.answers().await;
    assert!(pair.begins().await > first);
}

/// Another collector answers at the address of `c`: by the link to `c`, its end proves nothing of either.
#[tokio::test(start_paused = true)]
async fn a_collector_that_answers_for_another_one_proves_nothing() {
    let mut pair = Pair::linked().await;
    pair.register("c");
    let mistaken = |peers: &Peers| {
        let peer = peers.peers.get("c");
        peer.is_some_and(|peer| peer.served_by == "a" && !peer.is_linked())
    };
    assert!(timeout(LIMIT, pair.peers.wait_for(mistaken)).await.is_ok());
    pair.set(Address::Refuses);
    pair.server.stop.cancel();
    let silent = |peers: &Peers| peers.peers["c"].link.silent_since().is_some();
    let peers = timeout(LIMIT, pair.peers.wait_for(silent)).await.unwrap();
    // The link to `a` itself proves the end of `a`.
    assert_eq!(peers.as_ref().unwrap().peers["c"].link.ended(), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_leader_writes_is_told() {
    let mut pair = Pair::linked().await;
    let written = |generation| PublishedWrites {
        buckets: vec![PublishedBucket {
            bucket: 7,
            generation,
            ..PublishedBucket::default()
        }],
    };
    for generation in [1, 2] {
        assert_eq!(pair.server.writes.send(Arc::new(written(generation))).unwrap(), 1);
        let told = timeout(LIMIT, pair.published.recv()).await.unwrap();
        assert_eq!(told, Some(written(generation)));
    }
    // A follower that does not take it misses some, and the link goes on.
    for generation in 3..300 {
        pair.server.writes.send(Arc::new(written(generation))).unwrap();
    }
    pair.server.leadership.send_modify(|d| d.epoch = 9);
    pair.until("told", |peer| peer.epoch == 9).await;
}

/// `b` leads and hears nobody, while `a` hears four agents.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_far_fewer_agents_hands_over() {
    let mut pair = Pair::linked().await;
    let mut view = View::default();
    for n in 0..4 {
        let name = AgentId::new(&format!("db{n}")).unwrap();
        let entry = AgentEntry {
            name: name.clone(),
            ..AgentEntry::clone(&pair.entry())
        };
        view.agents.insert(name, Arc::new(entry));
    }
    pair.server.view.replace(view);
    pair.members.send_modify(|d| "b".clone_into(&mut d.leader_hint));
    // As long as `a` takes another one for the leader, it could not take over.
    let asked = timeout(LIMIT, pair.handed_over.recv()).await;
    assert!(asked.is_err(), "asked too early");
    pair.server
        .leadership
        .send_modify(|d| "b".clone_into(&mut d.leader_hint));
    let asked = timeout(LIMIT, pair.handed_over.recv()).await.unwrap().unwrap();
    assert_eq!(asked.to.as_deref(), Some("n-1"));
    assert!(
        asked.why.contains("a hears 4 agents, this collector 0"),
        "{}",
        asked.why
    );
}

/// A message that came between the tap and the answer of the aggregator is told once more.
#[tokio::test(start_paused = true)]
async fn what_a_tap_may_have_missed_is_told_again() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let first = pair.begins().await;
    let missed = ReportStatusRequest {
        sequence: 12,
        message: None,
    };
    there.pass_on(&missed, pair.server.clock.now());
    pair.answers().await;
    let ended = pair.taken().await;
    assert!(matches!(ended, Command::Bye(of) if of == first));
    assert!(pair.begins().await > first);
}
