//! One task for each agent's stream: checks messages, hands them to the aggregator, acknowledges what was
//! applied, and ends the stream when it must.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redkeeper_core::{
    fleet::Greeting,
    ids::Seq,
    limits::{AGENT_INSTANCES_MAX, AGENT_MESSAGE_BYTES_MAX, UNACKED_MESSAGES_MAX},
};
use redkeeper_proto::{
    convert,
    v1::{
        Ack, Drain, ReportStatusRequest, ReportStatusResponse, Welcome, agent_service_server::AgentService,
        report_status_request, report_status_response::Message as Answer,
    },
};
use redkeeper_runtime::supervise::Supervisor;
use tokio::{sync::mpsc, time::Instant};
use tonic::{Request, Response, Status, Streaming};

use super::{
    answer_stream::{self, AnswerStream, Answers},
    errors::Failure,
};
use crate::{
    aggregator::Command,
    feedback::{self, End},
    metrics::Metrics,
};

/// Kind of the streams' tasks.
pub const STREAM: &str = "agent-stream";

/// How long a new stream may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Answers under way on one stream: acknowledgements carry the newest number only, so a few are enough.
const ANSWERS_MAX: usize = 4;
/// When agents of a stopping collector come back.
const DRAIN_RECONNECT: Duration = Duration::from_millis(500);

/// Takes agents' streams.
#[derive(Clone)]
pub struct Ingest {
    /// Own name.
    pub id: String,
    /// Told to agents.
    pub heartbeat_interval: Duration,
    /// Told to agents; nothing heard for twice as long ends a stream.
    pub silent_after: Duration,
    /// To the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Owner of the streams' tasks.
    pub supervisor: Supervisor,
    /// Counters.
    pub metrics: Metrics,
    /// Numbers streams.
    pub next_stream: Arc<AtomicU64>,
}

/// An acknowledgement waits for others, up to this time, or a third of `silent_after`: each costs as much as the
/// message that it answers. An agent calls a collector mute after the whole of `silent_after`.
const ACK_DELAY: Duration = Duration::from_secs(1);
/// So many messages wait no longer than until they are applied: a quarter of what an agent may have unacknowledged.
const ACK_EVERY: u64 = UNACKED_MESSAGES_MAX as u64 / 4;
/// When a stream looks whether so many messages are applied; then after twice as long each time, up to the latter.
const ACK_SOON: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(64));

#[tonic::async_trait]
impl AgentService for Ingest {
    type ReportStatusStream = AnswerStream<ReportStatusResponse>;

    async fn report_status(
        &self,
        request: Request<Streaming<ReportStatusRequest>>,
    ) -> Result<Response<Self::ReportStatusStream>, Status> {
        let peer = request
            .remote_addr()
            .map_or_else(|| "unknown".to_owned(), |address| address.to_string());
        let mut messages = request.into_inner();
        let (seq, greeting) = self.greeting(&mut messages, &peer).await?;
        let (answers, receiver) = answer_stream::channel(ANSWERS_MAX);
        let (ingest, name) = (self.clone(), format!("{} from {peer}", greeting.agent));
        let _owned_by_supervisor = self.supervisor.spawn(STREAM, name, async move {
            ingest.stream(messages, seq, greeting, &answers).await;
        });
        Ok(Response::new(receiver))
    }
}

fn answer(message: Answer) -> Result<Box<ReportStatusResponse>, Status> {
    Ok(Box::new(ReportStatusResponse {
        message: Some(message),
    }))
}

impl Ingest {
    fn refuse(&self, result: &'static str, peer: &str, failure: Failure) -> Status {
        self.metrics.reports.get_or_create(&[("result", result)]).inc();
        tracing::warn!(peer, "stream refused: {failure}");
        failure.into()
    }

    async fn greeting(
        &self,
        messages: &mut Streaming<ReportStatusRequest>,
        peer: &str,
    ) -> Result<(u64, Greeting), Status> {
        let bad = |text: String| self.refuse("bad_hello", peer, Failure::BadHello(text));
        let first = tokio::time::timeout(HELLO_TIMEOUT, messages.message()).await;
        let first = first.map_err(|_| bad(format!("none within {HELLO_TIMEOUT:?}")))?;
        let first = first
            .map_err(|e| bad(e.message().to_owned()))?
            .ok_or_else(|| bad("the stream is empty".to_owned()))?;
        let Some(report_status_request::Message::Hello(hello)) = first.message else {
            return Err(bad("the first message must be a Hello".to_owned()));
        };
        let greeting = convert::greeting_from_wire(&hello).map_err(|e| bad(e.to_string()))?;
        Ok((first.sequence, greeting))
    }

    async fn stream(
        &self,
        mut messages: Streaming<ReportStatusRequest>,
        first: u64,
        greeting: Greeting,
        answers: &Answers<ReportStatusResponse>,
    ) {
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let agent = greeting.agent.to_string();
        tracing::info!(agent, stream, "agent connected");
        let why = match self.talk(&mut messages, first, greeting, stream, answers).await {
            Ok(why) => why,
            Err(failure) => {
                let text = failure.to_string();
                // The last place of the queue is never taken by acknowledgements, so this does not wait long.
                let told = answers.send(Err(failure.into()));
                if tokio::time::timeout(self.silent_after, told).await.is_err() {
                    tracing::debug!(agent, stream, "the agent did not take the reason");
                }
                text
            }
        };
        tracing::info!(agent, stream, "agent's stream ended: {why}");
        // During shutdown the aggregator may be gone already.
        drop(self.commands.send(Command::Bye(stream)).await);
    }

    async fn talk(
        &self,
        messages: &mut Streaming<ReportStatusRequest>,
        mut last: u64,
        greeting: Greeting,
        stream: u64,
        answers: &Answers<ReportStatusResponse>,
    ) -> Result<String, Failure> {
        let (agent, boot) = (greeting.agent.clone(), greeting.boot.clone());
        let (sender, mut feedback) = feedback::channel();
        self.send(Command::Hello(stream, greeting, sender)).await?;
        let limits = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let welcome = Welcome {
            collector_id: self.id.clone(),
            heartbeat_interval: Some(convert::duration_to_wire(self.heartbeat_interval)),
            silent_after: Some(convert::duration_to_wire(self.silent_after)),
            max_message_bytes: limits(AGENT_MESSAGE_BYTES_MAX),
            max_instances: limits(AGENT_INSTANCES_MAX),
        };
        if answers.send(answer(Answer::Welcome(welcome))).await.is_err() {
            return Ok("closed by the agent".to_owned());
        }
        let (idle, ack_delay) = (self.silent_after * 2, ACK_DELAY.min(self.silent_after / 3));
        let (mut acked, mut ack_at, mut heard) = (last, None::<Instant>, Instant::now());
        let mut soon = ACK_SOON.0;
        let mut stopped = std::pin::pin!(self.supervisor.stop().cancelled());
        // Moved lazily: what was heard meanwhile is looked at when it fires.
        let mut timer = std::pin::pin!(tokio::time::sleep(idle));
        loop {
            tokio::select! {
                biased;
                () = &mut stopped => {
                    let drain = Drain {
                        reason: "the collector is shutting down".to_owned(),
                        reconnect_after: Some(convert::duration_to_wire(DRAIN_RECONNECT)),
                    };
                    // If the agent does not take it, the end of the stream tells it the same.
                    drop(answers.try_send(answer(Answer::Drain(drain))));
                    return Ok("drained".to_owned());
                }
                why = &mut feedback.end => return Err(match why {
                    Ok(End::Superseded) => Failure::Superseded,
                    Ok(End::Resend) => Failure::Resend,
                    Ok(End::Full(what)) => Failure::Full(what),
                    Err(_) => Failure::ShuttingDown,
                }),
                () = &mut timer => {
                    let now = Instant::now();
                    if ack_at.is_some_and(|at| now >= at) {
                        let applied = feedback.applied().0;
                        // One place is left to the reason of the end, so that nothing here waits for the agent.
                        if applied > acked && answers.capacity() > 1 {
                            acked = applied;
                            if answers.try_send(answer(Answer::Ack(Ack { sequence: acked }))).is_err() {
                                return Ok("closed by the agent".to_owned());
                            }
                        }
                        // The aggregator, or the agent, is busy with the rest.
                        ack_at = (last > acked).then(|| now + soon);
                        soon = if last > acked { (soon * 2).min(ACK_SOON.1) } else { ACK_SOON.0 };
                    }
                    if now >= heard + idle {
                        return Ok(format!("nothing heard for {idle:?}"));
                    }
                    let next = ack_at.unwrap_or(heard + idle);
                    timer.as_mut().reset(next.min(heard + idle));
                }
                message = messages.message() => match message {
                    Ok(None) => return Ok("closed by the agent".to_owned()),
                    Err(status) if status.code() == tonic::Code::OutOfRange => {
                        return Err(self.bad(status.message().to_owned()));
                    }
                    Err(status) => return Ok(format!("broken: {}", status.message())),
                    Ok(Some(message)) => {
                        heard = Instant::now();
                        let seq = message.sequence;
                        if seq <= last {
                            return Err(self.bad(format!("sequence {seq} after {last} on the same stream")));
                        }
                        last = seq;
                        let content = message.message.ok_or_else(|| self.bad(format!("message {seq} is empty")))?;
                        let content = convert::message_from_wire(content, &agent).map_err(|e| self.bad(e.to_string()))?;
                        self.send(Command::Message(stream, agent.clone(), boot.clone(), Seq(seq), content)).await?;
                        let wait = if last >= acked + ACK_EVERY { soon } else { ack_delay };
                        let at = ack_at.unwrap_or(heard + wait).min(heard + wait);
                        ack_at = Some(at);
                        if at < timer.deadline() {
                            timer.as_mut().reset(at);
                        }
                    }
                },
            }
        }
    }

    fn bad(&self, text: String) -> Failure {
        self.metrics
            .reports
            .get_or_create(&[("result", "bad_message")])
            .inc();
        Failure::BadMessage(text)
    }

    /// Waits while the aggregator is busy: the agent's own stream slows down, and no other.
    async fn send(&self, command: Command) -> Result<(), Failure> {
        self.commands
            .send(command)
            .await
            .map_err(|_| Failure::ShuttingDown)
    }
}
