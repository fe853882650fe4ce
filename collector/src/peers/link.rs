//! The link to one other collector: opens a stream, says who asks, and records what is answered. It opens the next one
//! when it ends, at once after a link that was good: a refused connection is then evidence that the process has ended.

use std::{error::Error, io, sync::Arc, time::Duration};

use redkeeper_core::{
    backoff::Backoff,
    ids::AgentId,
    limits::AGENTS_MAX,
    peer_link::{Failure, Process},
};
use redkeeper_proto::{
    dial::Dial,
    v1::{
        HeardAgents, LinkRequest, LinkResponse, PeerHello, PeerStatus, PeerWelcome, PublishedWrites,
        RelayRequest, link_request, link_response::Message, peer_service_client::PeerServiceClient,
    },
};
use redkeeper_runtime::clock::Clock;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use super::{
    Peer, Sender,
    asking::Wanted,
    relay::{Intake, Relayed},
};
use crate::fleet::command::Stopped;

/// How long a connection, and then each of the first answers, may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A link on which nothing is heard for so long is dead: three of the statuses that come once a second (`PeerService`).
const SILENCE: Duration = Duration::from_secs(3);
/// Pause before the next attempt. The first is short, for the sake of evidence: while a process ends, its port may close
/// some milliseconds after its connections. The longest is for a name that cannot be looked up, which holds a thread for
/// each attempt.
const RETRY: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(4));
/// A link that lasted so long was good: the next pause is short again.
const GOOD_AFTER: Duration = Duration::from_secs(3);
/// Requests that wait to be sent: the Hello.
const REQUESTS_MAX: usize = 1;

/// The link to one collector.
pub(super) struct Link {
    /// Id of this collector.
    pub(super) own: String,
    /// Id of the other one.
    pub(super) id: String,
    /// `host:port` of the other one.
    pub(super) address: String,
    pub(super) dial: Arc<dyn Dial>,
    pub(super) peers: Sender,
    /// The agents that the other one is to relay.
    pub(super) wanted: Wanted,
    /// Where what is relayed goes.
    pub(super) intake: Intake,
    /// Where what it tells of its writes goes.
    pub(super) published: mpsc::Sender<PublishedWrites>,
    pub(super) clock: Clock,
    /// Request to end the link.
    pub(super) stop: CancellationToken,
}

/// Why a link ended, or was not opened.
#[derive(Debug, PartialEq, Eq)]
struct Ended {
    kind: Failure,
    text: String,
}

impl Ended {
    fn no_answer(text: impl Into<String>) -> Self {
        Self {
            kind: Failure::NoAnswer,
            text: text.into(),
        }
    }
}

impl Link {
    /// Keeps the link open until asked to end it.
    pub(super) async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let opened = Instant::now();
            let (intake, via) = (self.intake.clone(), self.id.clone());
            let mut relayed = Relayed::new(&intake, &via);
            let stop = self.stop.clone();
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => None,
                ended = self.talk(&mut relayed) => Some(ended),
            };
            // The aggregator ends with the process only.
            relayed.close().await.ok();
            let Some(Err(ended)) = ended else { return };
            if opened.elapsed() >= GOOD_AFTER {
                attempt = 0;
            }
            tracing::debug!(collector = self.id, "link: {}", ended.text);
            self.note(|peer| peer.ended(ended, &self.clock));
            let pause = RETRY.delay(attempt, fastrand::f64());
            tokio::select! { biased; () = stop.cancelled() => return, () = tokio::time::sleep(pause) => () }
            attempt = attempt.saturating_add(1);
        }
    }

    /// Opens the link and records the answers, until it ends.
    async fn talk(&mut self, relayed: &mut Relayed<'_>) -> Result<std::convert::Infallible, Ended> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|e| Ended::no_answer(format!("{:?} is not a valid HOST:PORT: {e}", self.address)))?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true);
        let channel = timeout(CONNECT_TIMEOUT * 2, self.dial.dial(endpoint)).await;
        let channel = channel
            .map_err(|_| Ended::no_answer(format!("no connection within {CONNECT_TIMEOUT:?}")))?
            .map_err(|e| ended(&e, &e.to_string()))?;
        let (requests, stream) = mpsc::channel(REQUESTS_MAX);
        let hello = LinkRequest {
            message: Some(link_request::Message::Hello(PeerHello {
                collector_id: self.own.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
            })),
        };
        // The queue is empty, and its reader is in this function.
        drop(requests.try_send(hello));
        let mut client = PeerServiceClient::new(channel);
        let opened = timeout(CONNECT_TIMEOUT, client.link(ReceiverStream::new(stream))).await;
        let mut answers = opened
            .map_err(|_| silent(CONNECT_TIMEOUT))?
            .map_err(|status| refused(&status))?
            .into_inner();
        let Some(Message::Welcome(welcome)) = next(&mut answers, CONNECT_TIMEOUT, CONNECT_TIMEOUT).await?
        else {
            return Err(Ended::no_answer("the first answer is no Welcome"));
        };
        self.note(|peer| peer.welcomed(&welcome));
        if welcome.collector_id != self.id {
            // What it says of its process would be taken for a proof against another one.
            return Err(Ended {
                kind: Failure::LinkRefused,
                text: format!("collector {} answers there", welcome.collector_id),
            });
        }
        self.wanted.mark_changed();
        let mut heard = Instant::now();
        loop {
            let left = SILENCE.saturating_sub(heard.elapsed());
            let next = tokio::select! {
                biased;
                // First, so that less can be asked for however much comes.
                Ok(()) = self.wanted.changed() => {
                    self.ask(&requests, relayed).await?;
                    continue;
                }
                answer = next(&mut answers, left, SILENCE) => answer?,
            };
            heard = Instant::now();
            match next {
                Some(Message::Relayed(messages)) => {
                    relayed.take(messages).await.map_err(stopped)?;
                    // There may always be more, and all links share a task.
                    tokio::task::yield_now().await;
                }
                Some(Message::Status(status)) => {
                    self.note(|peer| peer.told(&welcome, status));
                }
                Some(Message::HeardAgents(changes)) => {
                    self.note(|peer| peer.hears(changes));
                    let peers = self.peers.borrow();
                    if peers
                        .peers
                        .get(&self.id)
                        .is_some_and(|peer| peer.heard.len() > AGENTS_MAX)
                    {
                        return Err(Ended::no_answer("it hears more agents than there may be"));
                    }
                }
                // What does not fit is missed, which the mirror finds out by itself.
                Some(Message::Published(writes)) => drop(self.published.try_send(writes)),
                Some(Message::Welcome(_)) => return Err(Ended::no_answer("a second Welcome")),
                // Of a newer version.
                None => {}
            }
        }
    }

    /// Asks the other collector to relay what is wanted now, and no more.
    async fn ask(
        &mut self,
        requests: &mpsc::Sender<LinkRequest>,
        relayed: &mut Relayed<'_>,
    ) -> Result<(), Ended> {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        relayed.keep(&wanted).await.map_err(stopped)?;
        let request = LinkRequest {
            message: Some(link_request::Message::Relay(RelayRequest {
                agent_ids: wanted.iter().take(AGENTS_MAX).map(ToString::to_string).collect(),
            })),
        };
        let sent = timeout(SILENCE, requests.send(request)).await;
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Ended::no_answer("it takes no request")),
        }
    }

    /// Changes what is known of the other collector.
    fn note(&self, change: impl FnOnce(&mut Peer)) {
        self.peers.send_if_modified(|peers| {
            let peer = peers.peers.entry(self.id.clone()).or_default();
            let before = peer.clone();
            change(peer);
            *peer != before
        });
    }
}

impl Peer {
    fn welcomed(&mut self, welcome: &PeerWelcome) {
        self.error.clear();
        self.refusal.clear();
        self.served_by.clone_from(&welcome.collector_id);
        self.heard = Arc::default();
    }

    fn told(&mut self, welcome: &PeerWelcome, status: PeerStatus) {
        self.link.answered(Process {
            boot: welcome.boot_id.clone(),
            candidate: status.candidate,
        });
        (self.leader, self.epoch) = (status.leader, status.epoch);
    }

    fn hears(&mut self, changes: HeardAgents) {
        let heard = Arc::make_mut(&mut self.heard);
        heard.extend(changes.heard.iter().flat_map(|name| AgentId::new(name)));
        for name in &changes.lost {
            if let Ok(name) = AgentId::new(name) {
                heard.remove(&name);
            }
        }
    }

    fn ended(&mut self, why: Ended, clock: &Clock) {
        self.link.failed(why.kind, clock.wall());
        self.leader.clear();
        self.heard = Arc::default();
        (self.error, self.refusal) = match why.kind {
            Failure::LinkRefused => (String::new(), why.text),
            Failure::ConnectionRefused | Failure::NoAnswer => (why.text, String::new()),
        };
    }
}

fn stopped(stopped: Stopped) -> Ended {
    Ended::no_answer(stopped.to_string())
}

/// The next answer, which may take what is `left` of `limit`.
async fn next(
    answers: &mut Streaming<LinkResponse>,
    left: Duration,
    limit: Duration,
) -> Result<Option<Message>, Ended> {
    match timeout(left, answers.message()).await {
        Err(_) => Err(silent(limit)),
        Ok(Err(status)) => Err(refused(&status)),
        Ok(Ok(None)) => Err(Ended::no_answer("it closed the link")),
        Ok(Ok(Some(answer))) => Ok(answer.message),
    }
}

fn silent(limit: Duration) -> Ended {
    Ended::no_answer(format!("nothing heard for {limit:?}"))
}

/// What an error status says: an answer of the other side, or the loss of the connection.
fn refused(status: &Status) -> Ended {
    let text = match status.code() {
        Code::Unimplemented => "its version has no links between collectors",
        Code::InvalidArgument
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::PermissionDenied
        | Code::Unauthenticated => status.message(),
        _ => return ended(status, status.message()),
    };
    Ended {
        kind: Failure::LinkRefused,
        text: text.to_owned(),
    }
}

/// The innermost cause says what happened.
fn ended(error: &(dyn Error + 'static), message: &str) -> Ended {
    let (mut cause, mut kind) = (error, Failure::NoAnswer);
    while let Some(next) = cause.source() {
        cause = next;
        let io = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        if io == Some(io::ErrorKind::ConnectionRefused) {
            kind = Failure::ConnectionRefused;
        }
    }
    let text = if cause.is::<Status>() {
        message.to_owned()
    } else {
        cause.to_string()
    };
    Ended { kind, text }
}
