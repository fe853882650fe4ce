//! Tests of an uplink in virtual time: a collector of the test answers over connections in memory.
#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    io,
    sync::{Mutex, PoisonError},
};

use hyper_util::rt::TokioIo;
use redkeeper_core::{
    ids::{Handle, InstanceId},
    status::{Identity, Reason, Stage, Verdict},
    time::{Mono, WallMs},
};
use redkeeper_proto::{
    dial::Dialing,
    v1::{
        agent_service_server::{AgentService, AgentServiceServer},
        report_status_request::Message as Request,
        report_status_response::Message as Answer,
    },
};
use redkeeper_runtime::supervise::{Supervisor, Task};
use tokio::{io::DuplexStream, time::timeout};
use tonic::{Response, Status, Streaming, transport::Server};
use tower::service_fn;

use super::*;

mod messages;
mod reconnecting;
mod status;

/// Longer than anything takes in virtual time.
const LIMIT: Duration = Duration::from_secs(300);
const COLLECTOR: &str = "collector:7400";
/// Deviation of tokio's timers, which count milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);

/// What the uplinks of an agent share.
struct Agent {
    clock: Clock,
    table: Arc<InstanceTable>,
    handles: Vec<Handle>,
    boot: Arc<Boot>,
    metrics: Metrics,
    supervisor: Supervisor,
}

impl Agent {
    fn with_instances(count: usize) -> Self {
        let clock = Clock::simulated();
        let table = Arc::new(InstanceTable::new(clock));
        let handles = (0..count).map(|n| add(&table, n)).collect();
        Self {
            clock,
            table,
            handles,
            boot: Arc::new(Boot::new().unwrap()),
            metrics: Metrics::default(),
            supervisor: Supervisor::new(CancellationToken::new()),
        }
    }

    fn set(&self, n: usize, reason: Reason) {
        self.table.set(self.handles[n], verdict(reason));
    }

    /// Starts an uplink to a collector of its own.
    fn uplink(&self) -> Collector {
        let (entrance, accepted) = mpsc::channel(4);
        let (sender, calls) = mpsc::channel(4);
        let service = AgentServiceServer::new(Service {
            calls: sender,
            clock: self.clock,
        });
        self.supervisor.spawn("collector", "", async move {
            let server = Server::builder().add_service(service);
            server
                .serve_with_incoming(ReceiverStream::new(accepted))
                .await
                .unwrap();
        });
        let route = Route {
            entrance,
            state: Arc::new(Mutex::new((Path::Open, Vec::new()))),
            clock: self.clock,
        };
        let status = StreamStatus::default();
        let uplink = Uplink {
            collector: COLLECTOR.to_owned(),
            dial: Arc::new(route.clone()),
            agent: AgentId::new("db01").unwrap(),
            boot: Arc::clone(&self.boot),
            host: "db01.example".to_owned(),
            table: Arc::clone(&self.table),
            clock: self.clock,
            metrics: self.metrics.clone(),
            status: status.clone(),
            stop: self.supervisor.stop().clone(),
        };
        let task = self.supervisor.spawn(UPLINK, "", uplink.run());
        Collector {
            calls,
            route,
            status,
            task,
        }
    }

    fn connected(&self) -> i64 {
        let label = ("collector", COLLECTOR.to_owned());
        self.metrics.connected.get_or_create_owned(&[label]).get()
    }

    fn refused(&self) -> i64 {
        let label = ("collector", COLLECTOR.to_owned());
        self.metrics.refused.get_or_create_owned(&[label]).get()
    }
}

fn add(table: &InstanceTable, n: usize) -> Handle {
    let identity = Identity {
        id: InstanceId::new(&format!("db01:{n}")).unwrap(),
        cluster: None,
        address: "127.0.0.1:1".into(),
        labels: Arc::default(),
    };
    let freshness_limit = Duration::from_secs(3);
    table.add(identity, verdict(Reason::NotProbed), freshness_limit).0
}

fn verdict(reason: Reason) -> Verdict {
    Verdict::blank(reason, Stage::Reply, "", WallMs(0))
}

/// How an address behaves.
#[derive(Clone, Copy)]
enum Path {
    Open,
    /// Nothing listens.
    Refused,
    /// Nothing comes back.
    Dead,
}

#[derive(Clone)]
struct Route {
    entrance: mpsc::Sender<Result<DuplexStream, Infallible>>,
    /// How the address behaves, and when it was dialed.
    state: Arc<Mutex<(Path, Vec<Mono>)>>,
    clock: Clock,
}

impl Route {
    async fn connect(self) -> io::Result<TokioIo<DuplexStream>> {
        let path = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.1.push(self.clock.now());
            state.0
        };
        match path {
            Path::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
            Path::Dead => std::future::pending().await,
            Path::Open => {
                let (ours, theirs) = tokio::io::duplex(64 * 1024);
                self.entrance.send(Ok(theirs)).await.unwrap();
                Ok(TokioIo::new(ours))
            }
        }
    }
}

impl Dial for Route {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        let route = self.clone();
        let connect = service_fn(move |_| route.clone().connect());
        Box::pin(async move { endpoint.connect_with_connector(connect).await })
    }
}

/// The collector's side of one uplink.
struct Collector {
    calls: mpsc::Receiver<Call>,
    route: Route,
    status: StreamStatus,
    task: Task,
}

impl Collector {
    /// The next stream, after its Hello.
    async fn call(&mut self) -> (Call, v1::Hello) {
        let mut call = timeout(LIMIT, self.calls.recv()).await.unwrap().unwrap();
        let Request::Hello(hello) = call.next().await else {
            panic!("a stream does not begin with Hello");
        };
        (call, hello)
    }

    /// The next stream, welcomed and after its snapshot.
    async fn opened(&mut self, heartbeat: Duration, silent_after: Duration) -> Call {
        let (mut call, _) = self.call().await;
        call.welcome(heartbeat, silent_after).await;
        while !matches!(call.next().await, Request::Snapshot(part) if part.last) {}
        call
    }

    fn becomes(&self, path: Path) {
        self.route.state.lock().unwrap().0 = path;
    }

    /// When the address was dialed.
    fn dialed(&self) -> Vec<Mono> {
        self.route.state.lock().unwrap().1.clone()
    }
}

/// One stream of an agent.
struct Call {
    /// When it was opened.
    at: Mono,
    requests: Streaming<v1::ReportStatusRequest>,
    answers: mpsc::Sender<Result<v1::ReportStatusResponse, Status>>,
    /// Sequence of the last message.
    sequence: u64,
}

impl Call {
    async fn next(&mut self) -> Request {
        let message = timeout(LIMIT, self.requests.message()).await.unwrap();
        let message = message.unwrap().expect("the agent ended its stream");
        assert!(message.sequence > self.sequence, "{message:?}");
        self.sequence = message.sequence;
        message.message.unwrap()
    }

    /// The handles and reasons of the next message, which holds changes.
    async fn changes(&mut self) -> Vec<(Handle, v1::Reason)> {
        match self.next().await {
            Request::Changes(changes) => reports(&changes.instances),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing comes for this time.
    async fn is_quiet_for(&mut self, time: Duration) {
        let came = timeout(time, self.requests.message()).await;
        assert!(came.is_err(), "{came:?}");
    }

    async fn answer(&self, answer: Answer) {
        let message = Some(answer);
        let answer = v1::ReportStatusResponse { message };
        self.answers.send(Ok(answer)).await.unwrap();
    }

    async fn welcome(&self, heartbeat: Duration, silent_after: Duration) {
        let welcome = v1::Welcome {
            collector_id: "a".to_owned(),
            heartbeat_interval: Some(convert::duration_to_wire(heartbeat)),
            silent_after: Some(convert::duration_to_wire(silent_after)),
            ..v1::Welcome::default()
        };
        self.answer(Answer::Welcome(welcome)).await;
    }

    async fn ack(&self, sequence: u64) {
        self.answer(Answer::Ack(v1::Ack { sequence })).await;
    }

    async fn drain(&self, after: Duration) {
        let drain = v1::Drain {
            reason: "restart".to_owned(),
            reconnect_after: Some(convert::duration_to_wire(after)),
        };
        self.answer(Answer::Drain(drain)).await;
    }

    /// Acknowledges what comes for this time.
    async fn keep(&mut self, agent: &Agent, time: Duration) {
        while agent.clock.now().since(self.at) < time {
            self.next().await;
            self.ack(self.sequence).await;
        }
    }

    /// Ends the stream with an error.
    async fn fail(self, code: tonic::Code) {
        let status = Status::new(code, "so it is");
        self.answers.send(Err(status)).await.unwrap();
    }
}

fn reports(instances: &[v1::InstanceReport]) -> Vec<(Handle, v1::Reason)> {
    let one = |report: &v1::InstanceReport| {
        let reason = report.verdict.as_ref().unwrap().reason();
        (Handle(report.handle), reason)
    };
    instances.iter().map(one).collect()
}

struct Service {
    calls: mpsc::Sender<Call>,
    clock: Clock,
}

#[tonic::async_trait]
impl AgentService for Service {
    type ReportStatusStream = ReceiverStream<Result<v1::ReportStatusResponse, Status>>;

    async fn report_status(
        &self,
        request: tonic::Request<Streaming<v1::ReportStatusRequest>>,
    ) -> Result<Response<Self::ReportStatusStream>, Status> {
        let (answers, receiver) = mpsc::channel(16);
        let call = Call {
            at: self.clock.now(),
            requests: request.into_inner(),
            answers,
            sequence: 0,
        };
        self.calls.send(call).await.unwrap();
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// Pauses between attempts.
fn pauses(attempts: &[Mono]) -> Vec<Duration> {
    attempts.windows(2).map(|pair| pair[1].since(pair[0])).collect()
}

/// Asserts that each pause lies in the upper half of what back-off allows it.
fn assert_pauses(pauses: &[Duration], longest_ms: &[u64]) {
    assert_eq!(pauses.len(), longest_ms.len(), "{pauses:?}");
    for (pause, longest) in pauses.iter().zip(longest_ms) {
        let longest = Duration::from_millis(*longest);
        assert!(
            *pause >= longest / 2 && *pause <= longest + ROUNDING,
            "{pause:?} is not {longest:?}: {pauses:?}"
        );
    }
}
