//! Answers the links of the other collectors: tells each what this collector knows of leadership and which agents it
//! hears, and relays the agents that it asks for (`relay`).

mod relay;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use redkeeper_core::{
    fleet::unheard_agents::Heard,
    ids::{AgentId, CollectorId},
    status::cut,
};
use redkeeper_proto::v1::{
    HeardAgents, LinkRequest, LinkResponse, PeerStatus, PeerWelcome, PublishedWrites, link_request,
    link_response::Message, peer_service_server::PeerService,
};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{
    sync::{
        broadcast::{self, error::RecvError},
        mpsc,
    },
    time::{MissedTickBehavior, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use self::relay::Relay;
use super::{
    errors::Failure,
    responses::{self, ResponseSender, ResponseStream},
};
use crate::{
    fleet::{
        command::Command,
        open_streams::OpenStreams,
        view::{View, ViewHandle},
    },
    leader::leadership,
    metrics::Metrics,
};

/// Kind of the links' tasks.
pub const LINK: &str = "peer-stream";

/// Maximum links at a time: twice as many as a collector opens (`peers::links`), because one that broke may still be
/// there when the next one comes.
const LINKS_MAX: usize = 32;
/// How long a new link may take to send its Hello, and to take an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of statuses. The other side takes a link for dead after three of them (`PeerService`).
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// Answers that wait to be sent. More wait in the task, which has nothing else to do.
const ANSWERS_MAX: usize = 4;
/// Agents in one message: with ids of 128 bytes it has 130 KB, far below the 4 MiB that a client takes.
const AGENTS_PER_MESSAGE: usize = 1_000;

/// The service for links.
#[derive(Clone)]
pub struct Links {
    /// Id of this collector.
    pub id: String,
    /// Distinguishes this process from earlier ones with the same id.
    pub boot: String,
    /// The agents that are heard.
    pub view: ViewHandle,
    /// What is known of leadership.
    pub leadership: leadership::Reader,
    /// The streams of agents, from which messages are relayed.
    pub open_streams: Arc<OpenStreams>,
    /// Command channel of the aggregator, which knows the newest state of each instance.
    pub commands: mpsc::Sender<Command>,
    /// What this collector writes while it leads.
    pub writes: broadcast::Sender<Arc<PublishedWrites>>,
    /// Counters.
    pub metrics: Metrics,
    /// Clock.
    pub clock: Clock,
    /// Owner of the links' tasks.
    pub supervisor: Supervisor,
}

/// The service with its end: links last until the port closes, so that the others see whether the hand-over succeeds.
pub(super) struct Service {
    links: Links,
    stop: CancellationToken,
    open: Arc<AtomicUsize>,
}

/// Counts one link as open until it is dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service {
    pub(super) fn new(links: Links, stop: CancellationToken) -> Self {
        let open = Arc::default();
        Self { links, stop, open }
    }

    fn place(&self) -> Result<Place, Failure> {
        let place = Place(Arc::clone(&self.open));
        if self.open.fetch_add(1, Ordering::Relaxed) >= LINKS_MAX {
            return Err(Failure::Full("too many links of other collectors"));
        }
        Ok(place)
    }
}

#[tonic::async_trait]
impl PeerService for Service {
    type LinkStream = ResponseStream<LinkResponse>;

    async fn link(
        &self,
        request: Request<Streaming<LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        if self.stop.is_cancelled() {
            return Err(Failure::ShuttingDown.into());
        }
        let place = self.place()?;
        let mut requests = Box::new(request.into_inner());
        let other = greeting(&mut requests).await?;
        let (answers, receiver) = responses::channel(ANSWERS_MAX);
        let (links, stop, name) = (self.links.clone(), self.stop.clone(), other.to_string());
        let link = async move {
            let _place = place;
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // If it is not taken, the end of the connection says the same.
                    drop(answers.try_send(Err(Failure::ShuttingDown.into())));
                }
                ended = links.answer(&mut requests, &answers) => if let Err(failure) = ended {
                    drop(answers.try_send(Err(failure.into())));
                },
            }
        };
        let _owned_by_supervisor = self.links.supervisor.spawn(LINK, name, link);
        Ok(Response::new(receiver))
    }
}

/// Reads the Hello.
async fn greeting(requests: &mut Streaming<LinkRequest>) -> Result<CollectorId, Status> {
    let first = timeout(TIMEOUT, requests.message()).await;
    let first = first.map_err(|_| Failure::BadHello(format!("none within {TIMEOUT:?}")))??;
    let Some(link_request::Message::Hello(hello)) = first.and_then(|first| first.message) else {
        return Err(Failure::BadHello("the first message must be a Hello".to_owned()).into());
    };
    let id =
        CollectorId::new(&hello.collector_id).map_err(|e| Failure::BadHello(format!("collector_id: {e}")))?;
    tracing::info!(collector = %id, version = cut(&hello.version, 64), "collector linked");
    Ok(id)
}

/// What was told last.
struct Told {
    status: PeerStatus,
    heard: Heard,
    view: Arc<View>,
}

impl Links {
    /// Answers until the other side ends the link, or takes no more.
    async fn answer(
        self,
        requests: &mut Streaming<LinkRequest>,
        answers: &ResponseSender<LinkResponse>,
    ) -> Result<(), Failure> {
        let mut relay = Relay::new(&self);
        let mut leadership = self.leadership.clone();
        let mut writes = self.writes.subscribe();
        let mut rounds = tokio::time::interval(STATUS_INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let welcome = PeerWelcome {
            collector_id: self.id.clone(),
            boot_id: self.boot.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let mut told = Told {
            status: PeerStatus::default(),
            heard: Heard::new(),
            view: Arc::default(),
        };
        let mut next = vec![Message::Welcome(welcome)];
        loop {
            for message in next.drain(..) {
                let answer = Box::new(LinkResponse {
                    message: Some(message),
                });
                if !matches!(timeout(TIMEOUT, answers.send(Ok(answer))).await, Ok(Ok(()))) {
                    return Ok(());
                }
            }
            tokio::select! {
                biased;
                Ok(()) = leadership.changed() => {
                    let status = self.status(&mut leadership);
                    if status != told.status {
                        told.status = status;
                        next.push(Message::Status(told.status.clone()));
                    }
                }
                request = requests.message() => match request {
                    Ok(Some(request)) => match request.message {
                        Some(link_request::Message::Relay(wanted)) => relay.ask(&wanted.agent_ids)?,
                        Some(link_request::Message::Hello(_)) => {
                            return Err(Failure::BadMessage("a second Hello".to_owned()));
                        }
                        // Of a newer version.
                        None => {}
                    },
                    Ok(None) | Err(_) => return Ok(()),
                },
                _ = rounds.tick() => {
                    told.status = self.status(&mut leadership);
                    next.push(Message::Status(told.status.clone()));
                    self.hearing(&mut told, &mut next);
                }
                written = writes.recv() => match written {
                    Ok(written) => next.push(Message::Published(PublishedWrites::clone(&written))),
                    // The other side finds out by the generations of the buckets.
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Err(Failure::ShuttingDown),
                },
                messages = relay.next() => next.push(Message::Relayed(messages?)),
            }
        }
    }

    fn status(&self, leadership: &mut leadership::Reader) -> PeerStatus {
        let leadership = leadership.borrow_and_update();
        PeerStatus {
            candidate: leadership.candidate.clone(),
            leader: leadership.leader(self.clock.now()).to_owned(),
            epoch: leadership.epoch,
        }
    }

    /// Appends what has changed of the agents that are heard.
    fn hearing(&self, told: &mut Told, next: &mut Vec<Message>) {
        let view = self.view.get();
        if told.view.agents.ptr_eq(&view.agents) {
            return;
        }
        told.view = view;
        let now: Heard = told.view.heard_agents().cloned().collect();
        let names = |names: &[&AgentId]| names.iter().map(ToString::to_string).collect();
        let (heard, lost): (Vec<_>, Vec<_>) = (
            now.difference(&told.heard).collect(),
            told.heard.difference(&now).collect(),
        );
        for part in heard.chunks(AGENTS_PER_MESSAGE) {
            next.push(Message::HeardAgents(HeardAgents {
                heard: names(part),
                lost: Vec::new(),
            }));
        }
        for part in lost.chunks(AGENTS_PER_MESSAGE) {
            next.push(Message::HeardAgents(HeardAgents {
                heard: Vec::new(),
                lost: names(part),
            }));
        }
        told.heard = now;
    }
}
