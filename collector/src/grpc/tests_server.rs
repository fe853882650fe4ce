//! Tests of the whole server: generated clients talk to it over HTTP/2 in memory, in virtual time.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use redkeeper_core::{election::lease::Lease, limits::AGENT_MESSAGE_BYTES_MAX};
use redkeeper_proto::v1::{
    self, PublishedWrites, ReportStatusRequest, admin_service_client::AdminServiceClient,
    agent_service_client::AgentServiceClient, report_status_request::Message as Wire,
    report_status_response::Message as Answer, status_service_client::StatusServiceClient,
};
use redkeeper_runtime::{
    clock::Clock,
    supervise::{Supervisor, Task},
};
use tokio::{
    io::DuplexStream,
    sync::{broadcast, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_types::StatusExt;
use tower::service_fn;

use super::{
    admin::Admin,
    agent::Ingest,
    health::LEADER_HEALTH,
    peer_link::Links,
    server::{Services, serve},
    status::Queries,
};
use crate::{
    fleet::{
        command::Command,
        open_streams::OpenStreams,
        stream_status::StreamHandle,
        view::{self, ViewPublisher},
    },
    leader::{hand_over, leadership::Leadership},
    metrics::Metrics,
    peers::{Peer, Peers},
};

const LIMIT: Duration = Duration::from_secs(60);
/// How long connections may take to close.
const CLOSE_GRACE: Duration = Duration::from_secs(3);
const PIPE_BYTES: usize = 64 * 1024;

/// A running server.
pub(super) struct Rig {
    pub(super) entrance: mpsc::Sender<Result<DuplexStream, Infallible>>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) leadership: watch::Sender<Leadership>,
    pub(super) clock: Clock,
    pub(super) open_streams: Arc<OpenStreams>,
    pub(super) view: ViewPublisher,
    /// What this collector writes while it leads.
    pub(super) writes: broadcast::Sender<Arc<PublishedWrites>>,
    /// The other collectors.
    peers: watch::Sender<Peers>,
    /// Requests to hand leadership over.
    requests: mpsc::Receiver<hand_over::Request>,
    /// Ends the streams.
    draining: CancellationToken,
    /// Closes the port.
    pub(super) stop: CancellationToken,
    running: Task,
}

impl Rig {
    pub(super) fn start() -> Self {
        let (publisher, view) = view::channel();
        let (leadership, reader) = watch::channel(Leadership::default());
        let (sender, commands) = mpsc::channel(16);
        let writes = broadcast::Sender::new(4);
        let (hand_over, requests) = mpsc::channel(1);
        let (peers_sender, peers) = watch::channel(Peers::default());
        let open_streams = Arc::<OpenStreams>::default();
        let (draining, stop) = (CancellationToken::new(), CancellationToken::new());
        let (supervisor, clock) = (Supervisor::new(draining.clone()), Clock::simulated());
        let services = Services {
            ingest: Ingest {
                id: "a".to_owned(),
                heartbeat_interval: Duration::from_secs(1),
                silent_after: Duration::from_secs(3),
                commands: sender.clone(),
                heartbeats: Arc::default(),
                clock,
                supervisor: supervisor.clone(),
                metrics: Metrics::default(),
                next_stream: Arc::new(AtomicU64::new(1)),
                refusals: Arc::default(),
                open_streams: Arc::clone(&open_streams),
            },
            queries: Queries {
                id: "a".to_owned(),
                boot: "boot".to_owned(),
                view: view.clone(),
                leadership: reader.clone(),
                peers: watch::channel(Peers::default()).1,
                standalone: false,
                clock,
                supervisor: supervisor.clone(),
                metrics: Metrics::default(),
            },
            admin: Admin {
                id: "a".to_owned(),
                leadership: reader.clone(),
                peers: peers.clone(),
                hand_over,
                clock,
            },
            links: Links {
                open_streams: Arc::clone(&open_streams),
                commands: sender.clone(),
                writes: writes.clone(),
                metrics: Metrics::default(),
                id: "a".to_owned(),
                boot: "boot".to_owned(),
                view: view.clone(),
                leadership: reader.clone(),
                clock,
                supervisor: supervisor.clone(),
            },
            leadership: reader,
            clock,
            draining: draining.clone(),
            close_grace: CLOSE_GRACE,
        };
        let (entrance, connections) = mpsc::channel(16);
        let serving = serve(ReceiverStream::new(connections), services, stop.clone());
        let owner = Supervisor::new(CancellationToken::new());
        let running = owner.spawn("server", "", async { serving.await.unwrap() });
        Self {
            entrance,
            commands,
            leadership,
            clock,
            open_streams,
            view: publisher,
            writes,
            peers: peers_sender,
            requests,
            draining,
            stop,
            running,
        }
    }

    async fn connect(&self) -> Channel {
        let entrance = self.entrance.clone();
        let connect = service_fn(move |_| {
            let entrance = entrance.clone();
            async move {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
                entrance.send(Ok(far)).await.map_err(refused)?;
                Ok::<_, io::Error>(TokioIo::new(near))
            }
        });
        let endpoint = Endpoint::from_static("http://collector");
        endpoint.connect_with_connector(connect).await.unwrap()
    }

    /// Opens a stream of an agent.
    async fn agent(&mut self) -> Agent {
        let (messages, receiver) = mpsc::channel(4);
        let hello = v1::Hello {
            agent_id: "db".to_owned(),
            boot_id: "0".repeat(32),
            ..Default::default()
        };
        messages.send(message(1, Wire::Hello(hello))).await.unwrap();
        let mut client = AgentServiceClient::new(self.connect().await);
        let answers = client.report_status(ReceiverStream::new(receiver)).await.unwrap();
        let Some(Command::Hello(_, _, mut handle)) = self.commands.recv().await else {
            panic!("no Hello")
        };
        handle.accept();
        let mut agent = Agent {
            messages,
            answers: answers.into_inner(),
            _handle: handle,
        };
        assert!(matches!(agent.next().await, Ok(Some(Answer::Welcome(_)))));
        agent
    }

    async fn health(&self, service: &str) -> ServingStatus {
        let request = HealthCheckRequest {
            service: service.to_owned(),
        };
        let mut client = HealthClient::new(self.connect().await);
        client.check(request).await.unwrap().into_inner().status()
    }

    /// Closes the port, and returns how long the server takes to end.
    async fn close(self) -> Duration {
        let start = Instant::now();
        self.stop.cancel();
        timeout(LIMIT, self.running.join()).await.expect("still running");
        start.elapsed()
    }
}

struct Agent {
    messages: mpsc::Sender<ReportStatusRequest>,
    answers: tonic::Streaming<v1::ReportStatusResponse>,
    _handle: StreamHandle,
}

impl Agent {
    async fn next(&mut self) -> Result<Option<Answer>, tonic::Status> {
        let next = timeout(LIMIT, self.answers.message()).await.expect("no answer");
        Ok(next?.and_then(|answer| answer.message))
    }
}

fn message(sequence: u64, content: Wire) -> ReportStatusRequest {
    ReportStatusRequest {
        sequence,
        message: Some(content),
    }
}

#[tokio::test(start_paused = true)]
async fn once_its_streams_are_drained_the_server_ends_at_once() {
    let mut rig = Rig::start();
    let mut agent = rig.agent().await;
    rig.draining.cancel();
    assert!(matches!(agent.next().await, Ok(Some(Answer::Drain(_)))));
    assert_eq!(agent.next().await.unwrap(), None);
    let took = rig.close().await;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_keeps_its_stream_is_cut_after_the_grace() {
    let mut rig = Rig::start();
    let mut agent = rig.agent().await;
    // A stream on which heartbeats come does not end by itself.
    let messages = agent.messages.clone();
    let beats = async move {
        for sequence in 2.. {
            let beat = Wire::Heartbeat(v1::Heartbeat::default());
            if messages.send(message(sequence, beat)).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    let (took, ()) = tokio::join!(rig.close(), async {
        timeout(Duration::from_secs(10), beats).await.ok();
    });
    assert_eq!(took.as_secs(), CLOSE_GRACE.as_secs());
    assert!(agent.next().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_message_of_an_agent_may_have_256_kib_and_no_more() {
    let mut rig = Rig::start();
    let mut agent = rig.agent().await;
    // Handles of one byte each, and some bytes around them.
    let gone = |bytes: usize| {
        Wire::Gone(v1::Gone {
            handles: vec![1; bytes],
        })
    };
    let send = agent.messages.send(message(2, gone(AGENT_MESSAGE_BYTES_MAX + 1)));
    send.await.unwrap();
    let refused = agent.next().await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let info = refused.get_details_error_info().unwrap();
    assert_eq!(info.reason, "BAD_MESSAGE");
    assert!(refused.message().contains("too large"), "{refused:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_of_a_tool_may_have_64_kib_and_no_more() {
    let rig = Rig::start();
    let mut tool = StatusServiceClient::new(rig.connect().await);
    let mut ask = async |bytes: usize| {
        let filter = v1::InstanceFilter {
            agent_ids: vec!["i".repeat(bytes)],
            ..Default::default()
        };
        let request = v1::SummarizeInstancesRequest { filter: Some(filter) };
        tool.summarize_instances(request).await
    };
    assert!(ask(64 * 1024 - 16).await.is_ok());
    assert_eq!(ask(64 * 1024).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test(start_paused = true)]
async fn only_a_leader_that_is_live_is_healthy_as_the_leader_and_only_while_its_lease_holds() {
    let rig = Rig::start();
    assert_eq!(rig.health("").await, ServingStatus::Serving);
    assert_eq!(rig.health(LEADER_HEALTH).await, ServingStatus::NotServing);
    let mut lease = Lease::new(Duration::from_secs(9));
    lease.renewed(rig.clock.now());
    for (phase, expected) in [
        ("reconciling", ServingStatus::NotServing),
        ("leader", ServingStatus::Serving),
    ] {
        rig.leadership
            .send_modify(|d| (d.phase, d.lease) = (phase, Some(lease)));
        sleep(Duration::from_millis(1)).await;
        assert_eq!(rig.health(LEADER_HEALTH).await, expected, "{phase}");
    }
    sleep(Duration::from_secs(6)).await;
    assert_eq!(rig.health(LEADER_HEALTH).await, ServingStatus::NotServing);
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_drains_serves_nothing() {
    let rig = Rig::start();
    rig.draining.cancel();
    sleep(Duration::from_millis(1)).await;
    for service in [
        "",
        "redkeeper.v1.AgentService",
        "redkeeper.v1.StatusService",
        LEADER_HEALTH,
    ] {
        assert_eq!(rig.health(service).await, ServingStatus::NotServing, "{service}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_sent_is_repeated_in_part_only() {
    let rig = Rig::start();
    let mut tool = StatusServiceClient::new(rig.connect().await);
    // Percent-encoded, each character becomes six.
    for text in ["i".repeat(8_000), "\u{e4}".repeat(8_000)] {
        let request = v1::GetInstanceRequest { id: text.clone() };
        let status = tool.get_instance(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        let request = v1::ListInstancesRequest {
            page_token: text,
            ..v1::ListInstancesRequest::default()
        };
        let status = tool.list_instances(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_watchers_as_a_connection_may_have_open_at_once() {
    let rig = Rig::start();
    let tool = StatusServiceClient::new(rig.connect().await);
    let open = |mut tool: StatusServiceClient<_>| async move {
        let call = tool.watch_instances(v1::WatchInstancesRequest::default()).await;
        let mut stream = call.unwrap().into_inner();
        stream.message().await.unwrap().expect("a stream has a beginning");
        stream
    };
    let watchers = futures_util::future::join_all((0..64).map(|_| open(tool.clone()))).await;
    assert_eq!(watchers.len(), 64);
}

/// Asks to step down; the code and the reason of a refusal.
async fn step_down(rig: &Rig, to: &str) -> Result<v1::StepDownResponse, (Code, String)> {
    let mut client = AdminServiceClient::new(rig.connect().await);
    let request = v1::StepDownRequest {
        to_collector_id: to.to_owned(),
    };
    let answer = client.step_down(request).await;
    answer.map(tonic::Response::into_inner).map_err(|status| {
        let info = status.get_details_error_info();
        (status.code(), info.map_or_else(String::new, |info| info.reason))
    })
}

#[tokio::test(start_paused = true)]
async fn a_leader_is_asked_to_hand_over_and_nobody_else() {
    let mut rig = Rig::start();
    let refused = |code, reason: &str| Err((code, reason.to_owned()));
    rig.leadership.send_modify(|d| "b".clone_into(&mut d.leader_hint));
    let not_leader = refused(Code::FailedPrecondition, "NOT_LEADER");
    assert_eq!(step_down(&rig, "").await, not_leader);
    rig.leadership.send_modify(|d| {
        "a".clone_into(&mut d.leader_hint);
        d.epoch = 7;
    });
    for unknown in ["x", "no id"] {
        let not_found = refused(Code::NotFound, "COLLECTOR_NOT_FOUND");
        assert_eq!(step_down(&rig, unknown).await, not_found);
    }
    // It has no link, so it is not known to be a candidate.
    rig.peers
        .send_modify(|peers| *peers.peers.entry("b".to_owned()).or_default() = Peer::default());
    let not_handed_over = refused(Code::FailedPrecondition, "NOT_HANDED_OVER");
    assert_eq!(step_down(&rig, "b").await, not_handed_over);
    rig.peers.send_modify(|peers| {
        let peer = peers.peers.entry("b".to_owned()).or_default();
        "b".clone_into(&mut peer.served_by);
        let candidate = "b-n-1".to_owned();
        peer.link.answered(redkeeper_core::peer_link::Process {
            boot: "1".to_owned(),
            candidate,
        });
    });
    for (to, candidate) in [("b", Some("b-n-1")), ("", None)] {
        let connected = rig.connect().await;
        let requests = &mut rig.requests;
        let coordinator = async {
            let asked = timeout(LIMIT, requests.recv()).await.unwrap().unwrap();
            assert_eq!(asked.to.as_deref(), candidate);
            asked.answer.unwrap().send(Ok(())).unwrap();
        };
        let mut client = AdminServiceClient::new(connected);
        let request = v1::StepDownRequest {
            to_collector_id: to.to_owned(),
        };
        let (answer, ()) = tokio::join!(client.step_down(request), coordinator);
        let expected = v1::StepDownResponse {
            served_by: "a".to_owned(),
            epoch: 7,
        };
        assert_eq!(answer.unwrap().into_inner(), expected);
    }
    // Nobody answers: the call ends all the same.
    let start = Instant::now();
    assert_eq!(step_down(&rig, "").await, not_handed_over);
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    // One waits already.
    let too_many = refused(Code::ResourceExhausted, "COLLECTOR_FULL");
    assert_eq!(step_down(&rig, "").await, too_many);
}
