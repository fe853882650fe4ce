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
use redkeeper_proto::dial::{Dial, Dialing};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::tests_server::Rig;
use crate::{
    fleet::view,
    leader::{leadership::Leadership, proofs},
    peers::{Peer, Peers, links::PeerLinks},
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
    _view: view::ViewPublisher,
}

impl Pair {
    async fn linked() -> Self {
        let server = Rig::start();
        let (peers_sender, peers) = watch::channel(Peers::default());
        let (ended_sender, ended) = watch::channel(proofs::Ended::default());
        let (members, leadership) = watch::channel(Leadership::default());
        let (publisher, view) = view::channel();
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
            _view: publisher,
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
async fn a_collector_that_is_no_member_any_more_is_forgotten_with_its_link() {
    let mut pair = Pair::linked().await;
    pair.members.send_modify(|d| d.members.clear());
    let gone = pair.peers.wait_for(|peers| peers.peers.is_empty());
    assert!(timeout(LIMIT, gone).await.is_ok());
    // And linked again when it returns.
    pair.register("a");
    pair.until("linked again", |peer| peer.leader == "a").await;
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
