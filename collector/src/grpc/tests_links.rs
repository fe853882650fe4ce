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
use redkeeper_proto::{
    dial::{Dial, Dialing},
    v1::{PublishedBucket, PublishedWrites},
};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::tests_server::Rig;
use crate::{
    fleet::{command::Command, open_streams::OpenStreams, view},
    leader::{hand_over, leadership::Leadership, proofs},
    metrics::Metrics,
    peers::{Peer, Peers, asking::Intervals, links::PeerLinks, relay::Intake},
    store::records::CollectorJson,
};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// How the address of the other collector behaves.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Address {
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
pub(super) struct Pair {
    pub(super) server: Rig,
    pub(super) address: Arc<AtomicU8>,
    pub(super) peers: watch::Receiver<Peers>,
    pub(super) ended: proofs::Reader,
    pub(super) members: watch::Sender<Leadership>,
    pub(super) stop: CancellationToken,
    /// What the link hands on of the leader's writes.
    pub(super) published: tokio::sync::mpsc::Receiver<PublishedWrites>,
    /// What asks the coordinator of `b` to hand leadership over.
    pub(super) handed_over: tokio::sync::mpsc::Receiver<hand_over::Request>,
    /// What the link hands to the aggregator of `b`.
    pub(super) intake: tokio::sync::mpsc::Receiver<Command>,
    pub(super) publisher: view::ViewPublisher,
    pub(super) open_streams: Arc<OpenStreams>,
}

impl Pair {
    pub(super) async fn linked() -> Self {
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

    pub(super) fn register(&self, id: &str) {
        let member = CollectorJson {
            id: id.to_owned(),
            grpc: "a:7400".to_owned(),
            ..CollectorJson::default()
        };
        self.members.send_modify(|d| d.members = vec![member]);
    }

    pub(super) fn set(&self, address: Address) {
        self.address.store(address as u8, Ordering::SeqCst);
    }

    pub(super) async fn until(&mut self, what: &str, reached: impl Fn(&Peer) -> bool) {
        let is_reached = |peers: &Peers| peers.peers.get("a").is_some_and(&reached);
        let reached = timeout(LIMIT, self.peers.wait_for(is_reached)).await.is_ok();
        assert!(reached, "not reached: {what}: {:?}", self.peers.borrow());
    }

    pub(super) fn ended(&self) -> Vec<String> {
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
