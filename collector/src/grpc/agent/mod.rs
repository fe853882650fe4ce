//! Accepts agents' streams: reads the Hello of each, refuses those that may not report, and starts the task of the
//! others (`stream`).

mod control;
mod stream;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::{Duration, Instant},
};

use redkeeper_core::fleet::AgentInfo;
use redkeeper_proto::{
    convert,
    v1::{
        ReportStatusRequest, ReportStatusResponse, agent_service_server::AgentService, report_status_request,
    },
};
use redkeeper_runtime::{clock::Clock, log_limit::RepeatLimit, supervise::Supervisor};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{
    errors::Failure,
    responses::{self, ResponseStream},
};
use crate::{
    fleet::{command::Command, heartbeats::HeartbeatQueue, open_streams::OpenStreams},
    metrics::Metrics,
};

/// Kind of the streams' tasks.
pub const STREAM: &str = "agent-stream";

/// How long a new stream may take to send its Hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Responses queued on one stream: acknowledgements carry the newest number only, so a few are enough.
const ANSWERS_MAX: usize = 4;

/// The service for agents' streams.
#[derive(Clone)]
pub struct Ingest {
    /// Id of this collector.
    pub id: String,
    /// Sent to agents.
    pub heartbeat_interval: Duration,
    /// Sent to agents; a stream ends when nothing was heard for twice as long.
    pub silent_after: Duration,
    /// Command channel of the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Queue of heartbeats for the aggregator.
    pub heartbeats: Arc<HeartbeatQueue>,
    /// Clock.
    pub clock: Clock,
    /// Owner of the streams' tasks.
    pub supervisor: Supervisor,
    /// Counters.
    pub metrics: Metrics,
    /// Number of the next stream.
    pub next_stream: Arc<AtomicU64>,
    /// Limits the log lines about refused agents, which try again and again.
    pub refusals: Arc<Refusals>,
    /// The open streams.
    pub open_streams: Arc<OpenStreams>,
}

/// An agent that has sent its Hello on a new stream.
struct Newcomer {
    greeting: AgentInfo,
    peer: Option<SocketAddr>,
    /// Sequence of the Hello.
    first: u64,
}

/// Limits the log lines about refused agents.
#[derive(Debug)]
pub struct Refusals(Mutex<RepeatLimit>);

impl Default for Refusals {
    fn default() -> Self {
        Self(Mutex::new(RepeatLimit::new(REFUSAL_INTERVAL)))
    }
}

/// Interval between two lines about the same agent that is refused for the same reason.
const REFUSAL_INTERVAL: Duration = Duration::from_secs(600);

#[tonic::async_trait]
impl AgentService for Ingest {
    type ReportStatusStream = ResponseStream<ReportStatusResponse>;

    async fn report_status(
        &self,
        request: Request<Streaming<ReportStatusRequest>>,
    ) -> Result<Response<Self::ReportStatusStream>, Status> {
        if self.supervisor.stop().is_cancelled() {
            return Err(Failure::ShuttingDown.into());
        }
        let peer = request.remote_addr();
        let name = peer.map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let address = peer.map_or_else(String::new, |address| address.ip().to_canonical().to_string());
        // Boxed and shared: a task keeps room for each value that it is given, and for each place to which the value
        // moves.
        let mut messages = Box::new(request.into_inner());
        let (first, mut greeting) = self.greeting(&mut messages, &address).await?;
        greeting.address = address;
        let (answers, receiver) = responses::channel(ANSWERS_MAX);
        let name = format!("{} from {name}", greeting.agent);
        let newcomer = Newcomer {
            greeting,
            peer,
            first,
        };
        let stream = Arc::new(self.clone()).stream(messages, Box::new(newcomer), answers);
        let _owned_by_supervisor = self.supervisor.spawn(STREAM, name, stream);
        Ok(Response::new(receiver))
    }
}

/// Largest sequence that is accepted. An agent counts its messages from 1 on; beyond this, which one message each
/// microsecond reaches after 290,000 years, sums could overflow.
const SEQUENCE_MAX: u64 = 1 << 63;

fn in_range(sequence: u64) -> Result<(), String> {
    let text = || format!("sequence {sequence} is beyond {SEQUENCE_MAX}");
    (sequence <= SEQUENCE_MAX).then_some(()).ok_or_else(text)
}

impl Ingest {
    /// Counts a refused agent, and logs it unless the same was logged recently: it tries again and again.
    fn refused(&self, who: &str, failure: &Failure) {
        let result = match failure {
            Failure::BadHello(_) => "bad_hello",
            Failure::IdInUse(..) => "id_in_use",
            Failure::Superseded => "superseded",
            Failure::Full(_) => "full",
            // The agent is not at fault.
            _ => return,
        };
        self.metrics.reports.get_or_create(&[("result", result)]).inc();
        let text = format!("{who} is refused: {failure}");
        let mut lines = self.refusals.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(more) = lines.line(&text, Instant::now()) {
            tracing::warn!(more, "{text}");
        }
    }

    async fn greeting(
        &self,
        messages: &mut Streaming<ReportStatusRequest>,
        address: &str,
    ) -> Result<(u64, AgentInfo), Status> {
        let bad = |text: String| {
            let failure = Failure::BadHello(text);
            self.refused(&format!("an agent at {address}"), &failure);
            Status::from(failure)
        };
        let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message()).await;
        let first = first.map_err(|_| bad(format!("none within {HELLO_TIMEOUT:?}")))?;
        let first = first
            .map_err(|e| bad(e.message().to_owned()))?
            .ok_or_else(|| bad("the stream is empty".to_owned()))?;
        let Some(report_status_request::Message::Hello(hello)) = first.message else {
            return Err(bad("the first message must be a Hello".to_owned()));
        };
        in_range(first.sequence).map_err(bad)?;
        let greeting = convert::greeting_from_wire(&hello).map_err(|e| bad(e.to_string()))?;
        Ok((first.sequence, greeting))
    }
}

#[cfg(test)]
mod tests;
