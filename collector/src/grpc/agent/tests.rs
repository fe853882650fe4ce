//! Tests of agents' streams: the generated client calls the service directly, and the test takes the place of the
//! aggregator. Time is virtual.

use redkeeper_core::{fleet::Message, ids::Seq};
use redkeeper_proto::v1::{
    self, agent_service_client::AgentServiceClient, agent_service_server::AgentServiceServer,
    report_status_request::Message as Wire, report_status_response::Message as Answer,
};
use tokio::time::{Instant as TokioInstant, sleep, timeout};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::fleet::{
    heartbeats::{QUEUED_MAX, QueuedHeartbeat},
    stream_status::{self, Applied, End, StreamHandle},
};

mod answers;
mod messages;

const LIMIT: Duration = Duration::from_secs(60);
const SILENT_AFTER: Duration = Duration::from_secs(3);
const BOOT: &str = "00000000000000000000000000000001";

/// The service, with the test in the place of the aggregator.
struct Rig {
    client: AgentServiceClient<AgentServiceServer<Ingest>>,
    commands: mpsc::Receiver<Command>,
    heartbeats: Arc<HeartbeatQueue>,
    supervisor: Supervisor,
    metrics: Metrics,
    open_streams: Arc<OpenStreams>,
}

/// An agent with an open stream.
struct Agent {
    messages: mpsc::Sender<ReportStatusRequest>,
    answers: Streaming<ReportStatusResponse>,
    /// The aggregator's half of the stream.
    handle: StreamHandle,
}

impl Rig {
    fn new() -> Self {
        Self::with_room_for(64)
    }

    /// With room for this many commands.
    fn with_room_for(commands: usize) -> Self {
        let (sender, commands) = mpsc::channel(commands);
        let heartbeats = Arc::new(HeartbeatQueue::default());
        let supervisor = Supervisor::new(CancellationToken::new());
        let (metrics, open_streams) = (Metrics::default(), Arc::<OpenStreams>::default());
        let ingest = Ingest {
            id: "a".to_owned(),
            heartbeat_interval: Duration::from_secs(1),
            silent_after: SILENT_AFTER,
            commands: sender,
            heartbeats: Arc::clone(&heartbeats),
            clock: Clock::simulated(),
            supervisor: supervisor.clone(),
            metrics: metrics.clone(),
            next_stream: Arc::new(AtomicU64::new(7)),
            refusals: Arc::default(),
            open_streams: Arc::clone(&open_streams),
        };
        Self {
            client: AgentServiceClient::new(AgentServiceServer::new(ingest)),
            commands,
            heartbeats,
            supervisor,
            metrics,
            open_streams,
        }
    }

    /// Calls the service with these messages.
    async fn call(
        &self,
        messages: impl Stream<Item = ReportStatusRequest> + Send + 'static,
    ) -> Result<Streaming<ReportStatusResponse>, Status> {
        let called = self.client.clone().report_status(messages).await;
        called.map(Response::into_inner)
    }

    /// Calls the service with this first message, and no end.
    async fn first(&self, first: ReportStatusRequest) -> Result<Streaming<ReportStatusResponse>, Status> {
        let messages = tokio_stream::once(first);
        self.call(futures_util::StreamExt::chain(messages, tokio_stream::pending()))
            .await
    }

    async fn command(&mut self) -> Command {
        timeout(LIMIT, self.commands.recv())
            .await
            .expect("no command")
            .unwrap()
    }

    async fn hello(&mut self) -> (AgentInfo, StreamHandle) {
        match self.command().await {
            Command::Hello(_, info, handle) => (info, handle),
            _ => panic!("another command"),
        }
    }

    /// The next command, which is a message.
    async fn message(&mut self) -> (Seq, Message) {
        match self.command().await {
            Command::Message(_, seq, message) => (seq, message),
            _ => panic!("another command"),
        }
    }

    /// Waits until the stream has told its end.
    async fn until_bye(&mut self) {
        while !matches!(self.command().await, Command::Bye(7)) {}
    }

    /// Opens a stream, and takes its first answer.
    async fn connect(&mut self) -> Agent {
        let mut agent = self.accepted().await;
        let welcome = agent.answer().await;
        assert!(matches!(welcome, Answer::Welcome(_)), "{welcome:?}");
        agent
    }

    /// Opens a stream.
    async fn accepted(&mut self) -> Agent {
        let (messages, receiver) = mpsc::channel(256);
        messages.send(message(1, hello())).await.unwrap();
        let answers = self.call(ReceiverStream::new(receiver)).await.unwrap();
        let (_, mut handle) = self.hello().await;
        handle.accept();
        Agent {
            messages,
            answers,
            handle,
        }
    }

    fn reports(&self, result: &'static str) -> u64 {
        self.metrics.reports.get_or_create(&[("result", result)]).get()
    }

    /// Number of the streams' tasks.
    fn streams(&self) -> usize {
        self.supervisor.by_kind().get(STREAM).map_or(0, |(live, _)| *live)
    }
}

impl Agent {
    async fn send(&self, sequence: u64, content: Wire) {
        self.messages.send(message(sequence, content)).await.unwrap();
    }

    /// The next answer, an error, or the end.
    async fn next(&mut self) -> Result<Option<Answer>, Status> {
        let next = timeout(LIMIT, self.answers.message()).await.expect("no answer");
        Ok(next?.and_then(|answer| answer.message))
    }

    async fn answer(&mut self) -> Answer {
        self.next().await.unwrap().expect("the end")
    }

    /// The error that ends the stream.
    async fn error(&mut self) -> Status {
        self.next().await.expect_err("no error")
    }
}

fn message(sequence: u64, content: Wire) -> ReportStatusRequest {
    ReportStatusRequest {
        sequence,
        message: Some(content),
    }
}

fn hello() -> Wire {
    Wire::Hello(v1::Hello {
        agent_id: "db".to_owned(),
        boot_id: BOOT.to_owned(),
        host: "db.example".to_owned(),
        ..Default::default()
    })
}

fn heartbeat() -> Wire {
    Wire::Heartbeat(v1::Heartbeat::default())
}

fn changes() -> Wire {
    Wire::Changes(v1::Changes::default())
}

/// Code and machine-readable reason of an error.
fn told(status: &Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map_or_else(String::new, |info| info.reason))
}

fn error(code: Code, reason: &str) -> (Code, String) {
    (code, reason.to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_welcomed_with_the_rules_of_the_collector() {
    let mut rig = Rig::new();
    let mut answers = rig.first(message(1, hello())).await.unwrap();
    let (info, mut handle) = rig.hello().await;
    assert_eq!((info.agent.as_str(), info.boot.as_str()), ("db", BOOT));
    assert_eq!(info.host, "db.example");
    // Not before the aggregator accepts it.
    let early = timeout(LIMIT, answers.message()).await;
    assert!(early.is_err(), "{early:?}");
    handle.accept();
    let answer = answers.message().await.unwrap().unwrap().message;
    let welcome = v1::Welcome {
        collector_id: "a".to_owned(),
        heartbeat_interval: Some(convert::duration_to_wire(Duration::from_secs(1))),
        silent_after: Some(convert::duration_to_wire(SILENT_AFTER)),
        max_message_bytes: 262_144,
        max_instances: 5_000,
    };
    assert_eq!(answer, Some(Answer::Welcome(welcome)));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_hello_is_refused_with_the_field_that_is_wrong() {
    let mut rig = Rig::new();
    let named = |agent: &str, boot: &str| {
        Wire::Hello(v1::Hello {
            agent_id: agent.to_owned(),
            boot_id: boot.to_owned(),
            ..Default::default()
        })
    };
    let wrong = [
        (message(1, heartbeat()), "first message must be a Hello"),
        (ReportStatusRequest::default(), "first message must be a Hello"),
        (message(1, named("a/b", BOOT)), "hello.agent_id"),
        (message(1, named("db", "xyz")), "hello.boot_id"),
        (message((1 << 63) + 1, hello()), "sequence 9223372036854775809"),
    ];
    let count = wrong.len() as u64;
    for (first, text) in wrong {
        let refused = rig.first(first).await.unwrap_err();
        assert_eq!(told(&refused), error(Code::InvalidArgument, "BAD_HELLO"));
        assert!(refused.message().contains(text), "{refused:?}");
    }
    let empty = rig.call(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(told(&empty), error(Code::InvalidArgument, "BAD_HELLO"));
    assert_eq!(rig.reports("bad_hello"), count + 1);
    assert!(rig.commands.try_recv().is_err(), "the aggregator hears of none");
    assert_eq!(rig.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_message_is_awaited_for_five_seconds() {
    let rig = Rig::new();
    let start = TokioInstant::now();
    let refused = rig.call(tokio_stream::pending()).await.unwrap_err();
    assert_eq!(told(&refused), error(Code::InvalidArgument, "BAD_HELLO"));
    assert_eq!(start.elapsed().as_secs(), 5);

    let mut rig = Rig::new();
    let late = async_once(Duration::from_millis(4_900), message(1, hello()));
    assert!(rig.call(late).await.is_ok());
    rig.hello().await;
}

/// A stream whose only message comes late.
fn async_once(delay: Duration, late: ReportStatusRequest) -> impl Stream<Item = ReportStatusRequest> + Send {
    futures_util::stream::once(async move {
        sleep(delay).await;
        late
    })
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_may_not_report_gets_the_reason_of_the_aggregator() {
    for (end, code, reason, counted) in [
        (
            End::InUse("host x".into()),
            Code::AlreadyExists,
            "AGENT_ID_IN_USE",
            "id_in_use",
        ),
        (
            End::Superseded,
            Code::FailedPrecondition,
            "STREAM_SUPERSEDED",
            "superseded",
        ),
        (
            End::Full("agents"),
            Code::ResourceExhausted,
            "COLLECTOR_FULL",
            "full",
        ),
    ] {
        let mut rig = Rig::new();
        let mut answers = rig.first(message(1, hello())).await.unwrap();
        let (_, mut handle) = rig.hello().await;
        handle.end(end);
        handle.accept();
        let refused = timeout(LIMIT, answers.message()).await.unwrap().unwrap_err();
        assert_eq!(told(&refused), error(code, reason));
        assert_eq!(rig.reports(counted), 1, "{counted}");
        rig.until_bye().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_stops_takes_no_more_streams() {
    let rig = Rig::new();
    rig.supervisor.stop().cancel();
    let refused = rig.first(message(1, hello())).await.unwrap_err();
    assert_eq!(told(&refused), error(Code::Unavailable, "SHUTTING_DOWN"));
}

#[tokio::test(start_paused = true)]
async fn without_the_aggregator_an_agent_is_sent_to_another_collector() {
    let mut rig = Rig::new();
    rig.commands.close();
    let mut answers = rig.first(message(1, hello())).await.unwrap();
    let refused = timeout(LIMIT, answers.message()).await.unwrap().unwrap_err();
    assert_eq!(told(&refused), error(Code::Unavailable, "SHUTTING_DOWN"));

    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    agent.handle = stream_status::channel(Applied::default()).0;
    assert_eq!(
        told(&agent.error().await),
        error(Code::Unavailable, "SHUTTING_DOWN")
    );
}
