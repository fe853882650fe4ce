//! One task for each agent's stream: checks messages, hands them to the aggregator, acknowledges what was
//! applied, and ends the stream when it must.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    fleet::{Greeting, Message},
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
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Request, Response, Status, Streaming};

use super::{
    answer_stream::{self, AnswerStream, Answers},
    errors::Failure,
};
use crate::{
    aggregator::Command,
    beats::{Beat, Beats},
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
    /// Where heartbeats wait for it.
    pub beats: Arc<Beats>,
    /// Time.
    pub clock: Clock,
    /// Owner of the streams' tasks.
    pub supervisor: Supervisor,
    /// Counters.
    pub metrics: Metrics,
    /// Numbers streams.
    pub next_stream: Arc<AtomicU64>,
}

/// An acknowledgement waits for others, up to this time, or two thirds of `silent_after`: each costs as much as the
/// message that it answers. An agent calls a collector mute after the whole of `silent_after`.
const ACK_DELAY: Duration = Duration::from_secs(2);
/// So many messages wait no longer than until they are applied: half of what an agent may have unacknowledged.
const ACK_EVERY: u64 = UNACKED_MESSAGES_MAX as u64 / 2;
/// So many messages in a row are taken before anything else is looked at.
const STREAK_MAX: u32 = 64;
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

/// What a stream's task does next.
enum Next {
    Message(Result<Option<ReportStatusRequest>, Status>),
    Stop,
    End(Option<End>),
    Timer,
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
        let agent = greeting.agent.clone();
        let (sender, feedback) = feedback::channel();
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
        let (idle, ack_delay) = (self.silent_after * 2, ACK_DELAY.min(self.silent_after * 2 / 3));
        let (mut acked, mut ack_at, mut heard) = (last, None::<Instant>, Instant::now());
        let (mut soon, mut streak) = (ACK_SOON.0, 0);
        // The last message that went to the aggregator as a command; the Hello is applied before any of them.
        let mut commanded = last + 1;
        // What ends the stream. It is looked at when it happens, and not with each message.
        let mut ends = FuturesUnordered::<Pin<Box<dyn Future<Output = Next> + Send>>>::new();
        let (stop, end) = (self.supervisor.stop().clone(), feedback.end);
        ends.push(Box::pin(async move {
            stop.cancelled().await;
            Next::Stop
        }));
        ends.push(Box::pin(async move { Next::End(end.await.ok()) }));
        let applied = feedback.applied;
        // Moved lazily: what was heard meanwhile is looked at when it fires.
        let mut timer = std::pin::pin!(tokio::time::sleep(idle));
        loop {
            // Messages first: then a wake-up for one of them looks at everything else once, not twice.
            let next = if streak < STREAK_MAX {
                tokio::select! {
                    biased;
                    message = messages.message() => Next::Message(message),
                    Some(end) = ends.next() => end,
                    () = &mut timer => Next::Timer,
                }
            } else {
                tokio::select! {
                    biased;
                    Some(end) = ends.next() => end,
                    () = &mut timer => Next::Timer,
                    message = messages.message() => {
                        streak = 0;
                        Next::Message(message)
                    }
                }
            };
            match next {
                Next::Stop => {
                    let drain = Drain {
                        reason: "the collector is shutting down".to_owned(),
                        reconnect_after: Some(convert::duration_to_wire(DRAIN_RECONNECT)),
                    };
                    // If the agent does not take it, the end of the stream tells it the same.
                    drop(answers.try_send(answer(Answer::Drain(drain))));
                    return Ok("drained".to_owned());
                }
                Next::End(why) => {
                    return Err(match why {
                        Some(End::Superseded) => Failure::Superseded,
                        Some(End::Resend) => Failure::Resend,
                        Some(End::Full(what)) => Failure::Full(what),
                        None => Failure::ShuttingDown,
                    });
                }
                Next::Timer => {
                    streak = 0;
                    let now = Instant::now();
                    if ack_at.is_some_and(|at| now >= at) {
                        let applied = applied.get().0;
                        // One place is left to the reason of the end, so that nothing here waits for the agent.
                        if applied > acked && answers.capacity() > 1 {
                            acked = applied;
                            if answers
                                .try_send(answer(Answer::Ack(Ack { sequence: acked })))
                                .is_err()
                            {
                                return Ok("closed by the agent".to_owned());
                            }
                        }
                        // The aggregator, or the agent, is busy with the rest.
                        ack_at = (last > acked).then(|| now + soon);
                        soon = if last > acked {
                            (soon * 2).min(ACK_SOON.1)
                        } else {
                            ACK_SOON.0
                        };
                    }
                    if now >= heard + idle {
                        return Ok(format!("nothing heard for {idle:?}"));
                    }
                    let next = ack_at.unwrap_or(heard + idle);
                    timer.as_mut().reset(next.min(heard + idle));
                }
                Next::Message(Ok(None)) => return Ok("closed by the agent".to_owned()),
                Next::Message(Err(status)) if status.code() == tonic::Code::OutOfRange => {
                    return Err(self.bad(status.message().to_owned()));
                }
                Next::Message(Err(status)) => return Ok(format!("broken: {}", status.message())),
                Next::Message(Ok(Some(message))) => {
                    streak += 1;
                    heard = Instant::now();
                    let seq = message.sequence;
                    if seq <= last {
                        return Err(self.bad(format!("sequence {seq} after {last} on the same stream")));
                    }
                    last = seq;
                    let content = message
                        .message
                        .ok_or_else(|| self.bad(format!("message {seq} is empty")))?;
                    let content =
                        convert::message_from_wire(content, &agent).map_err(|e| self.bad(e.to_string()))?;
                    let message = Beat {
                        stream,
                        seq: Seq(seq),
                        message: content,
                        received: self.clock.now(),
                    };
                    // It must not overtake what is still on its way.
                    let beats =
                        matches!(message.message, Message::Heartbeat(_)) && applied.get().0 >= commanded;
                    if !beats {
                        commanded = seq;
                    }
                    self.hand_on(message, beats).await?;
                    let wait = if last >= acked + ACK_EVERY {
                        soon
                    } else {
                        ack_delay
                    };
                    let at = ack_at.unwrap_or(heard + wait).min(heard + wait);
                    ack_at = Some(at);
                    if at < timer.deadline() {
                        timer.as_mut().reset(at);
                    }
                }
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

    /// A heartbeat may wait for others (`beats`); everything else is taken in at once.
    async fn hand_on(&self, message: Beat, beats: bool) -> Result<(), Failure> {
        let message = if beats {
            match self.beats.push(message) {
                Ok(()) => return Ok(()),
                Err(refused) => *refused,
            }
        } else {
            message
        };
        let Beat {
            stream, seq, message, ..
        } = message;
        self.send(Command::Message(stream, seq, message)).await
    }

    /// Waits while the aggregator is busy: the agent's own stream slows down, and no other.
    async fn send(&self, command: Command) -> Result<(), Failure> {
        self.commands
            .send(command)
            .await
            .map_err(|_| Failure::ShuttingDown)
    }
}
