//! The task of one agent's stream: checks messages, passes them to the aggregator, and acknowledges what was applied.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::Poll,
    time::Duration,
};

use futures_util::Stream;
use redkeeper_core::{
    fleet::Message,
    ids::Seq,
    limits::{AGENT_INSTANCES_MAX, AGENT_MESSAGE_BYTES_MAX, UNACKED_MESSAGES_MAX},
    time::Mono,
};
use redkeeper_proto::{
    convert,
    v1::{
        Ack, Drain, ReportStatusRequest, ReportStatusResponse, Welcome,
        report_status_request::Message as Wire, report_status_response::Message as Answer,
    },
};
use tonic::{Status, Streaming};

use super::{
    Ingest, Newcomer,
    control::{ControlEvents, Event},
    in_range,
};
use crate::{
    fleet::{
        command::Command,
        heartbeats::QueuedHeartbeat,
        open_streams::OpenStream,
        stream_status::{self, End, StreamStatus},
    },
    grpc::{errors::Failure, responses::ResponseSender},
};

/// Delay after which the agents of a stopping collector reconnect.
const DRAIN_RECONNECT: Duration = Duration::from_millis(500);
/// Maximum delay of an acknowledgement, unless four thirds of `silent_after` are shorter. It waits for further
/// messages, because it costs more than the message that it answers. An agent calls a collector mute after twice
/// `silent_after`.
const ACK_DELAY: Duration = Duration::from_secs(4);
/// Once this many messages are unacknowledged, they are acknowledged as soon as they are applied: half of what an agent
/// may have unacknowledged.
const ACK_EVERY: u64 = UNACKED_MESSAGES_MAX as u64 / 2;
/// Maximum messages taken in a row before other events are polled.
const STREAK_MAX: u32 = 64;
/// Delay before a stream checks whether `ACK_EVERY` messages are applied; it doubles each time, up to the second value.
const ACK_SOON: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(64));

/// What a stream's task handles next.
enum Next {
    /// `None` at the end of the stream.
    Message(Option<Result<ReportStatusRequest, Status>>),
    ControlEvents(Event),
}

fn answer(message: Answer) -> Result<Box<ReportStatusResponse>, Status> {
    Ok(Box::new(ReportStatusResponse {
        message: Some(message),
    }))
}

/// The failure that is sent to an agent when the aggregator ends its stream; `None`: the aggregator itself has ended.
fn failure(why: Option<End>, agent: &str) -> Failure {
    match why {
        Some(End::Superseded) => Failure::Superseded,
        Some(End::InUse(place)) => Failure::IdInUse(agent.to_owned(), place),
        Some(End::Resend) => Failure::Resend,
        Some(End::Full(what)) => Failure::Full(what),
        None => Failure::ShuttingDown,
    }
}

impl Ingest {
    pub(super) async fn stream(
        self: Arc<Self>,
        mut messages: Box<Streaming<ReportStatusRequest>>,
        newcomer: Box<Newcomer>,
        answers: ResponseSender<ReportStatusResponse>,
    ) {
        let stream = self.next_stream.fetch_add(1, Ordering::Relaxed);
        let Newcomer {
            greeting,
            peer,
            first,
        } = &*newcomer;
        let agent = greeting.agent.to_string();
        let who = format!("agent {agent} on {}", greeting.place());
        let name = (greeting.agent.clone(), greeting.boot.clone());
        let now = (self.clock.now(), self.clock.wall());
        let entry = self
            .open_streams
            .add(OpenStream::new(stream, name, *peer, *first, now));
        // Boxed, because a task keeps room for it as long as it lives.
        let taps = entry.tap_state();
        let hello = taps.is_tapped().then(|| {
            Box::new(ReportStatusRequest {
                sequence: *first,
                message: Some(Wire::Hello(convert::greeting_to_wire(greeting))),
            })
        });
        let mut opened = false;
        let talk = async {
            let status = self.open(&entry, newcomer).await?;
            opened = true;
            if let Some(hello) = hello {
                entry.pass_on(&hello, self.clock.now());
            }
            tracing::info!(agent, stream, "agent connected");
            self.talk(&mut messages, &entry, status, &answers).await
        };
        let ended = talk.await;
        // Before the reason is sent to the agent, so that its id is free when it reconnects. During shutdown the
        // aggregator may be gone.
        drop(self.commands.send(Command::Bye(stream)).await);
        let why = match &ended {
            Ok(why) => why.clone(),
            Err(failure) => failure.to_string(),
        };
        if opened {
            tracing::info!(agent, stream, "agent's stream ended: {why}");
        }
        if let Err(failure) = ended {
            self.refused(&who, &failure);
            // Acknowledgements never take the last slot of the queue, so this does not wait long.
            let told = answers.send(Err(failure.into()));
            if tokio::time::timeout(self.silent_after, told).await.is_err() {
                tracing::debug!(agent, stream, "the agent did not take the reason");
            }
        }
    }

    /// Asks the aggregator whether the agent may report.
    async fn open(&self, entry: &OpenStream, newcomer: Box<Newcomer>) -> Result<StreamStatus, Failure> {
        let (sender, mut status) = stream_status::channel(entry.applied.clone());
        self.send(Command::Hello(entry.number, newcomer.greeting, sender))
            .await?;
        // The aggregator certainly accepts or ends the stream; an agent that does not want to wait so long closes it.
        if (&mut status.accepted).await.is_err() {
            let why = (&mut status.end).await.ok();
            return Err(failure(why, entry.agent.as_str()));
        }
        Ok(status)
    }

    async fn talk(
        &self,
        messages: &mut Streaming<ReportStatusRequest>,
        entry: &OpenStream,
        status: StreamStatus,
        answers: &ResponseSender<ReportStatusResponse>,
    ) -> Result<String, Failure> {
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
        let mut last = entry.sequences().received;
        entry.acknowledged(last);
        let (idle, ack_delay) = (self.silent_after * 2, ACK_DELAY.min(self.silent_after * 4 / 3));
        let (mut acked, mut ack_at, mut heard) = (last, None::<Mono>, self.clock.now());
        let (mut soon, mut streak) = (ACK_SOON.0, 0);
        // Sequence of the last message that went to the aggregator as a command; the Hello is applied before any of
        // them.
        let mut commanded = last + 1;
        let applied = status.applied;
        // The timer is moved lazily: what was heard meanwhile is considered when it fires.
        let mut timer_at = heard + idle;
        let stop = self.supervisor.stop().clone();
        let mut control = ControlEvents::new(stop, status.end, self.clock.instant(timer_at));
        loop {
            // Messages come first, mostly: while they arrive, nothing else needs to be polled.
            let next = std::future::poll_fn(|context| {
                if streak >= STREAK_MAX {
                    streak = 0;
                    if let Poll::Ready(event) = control.poll(context) {
                        return Poll::Ready(Next::ControlEvents(event));
                    }
                }
                match Pin::new(&mut *messages).poll_next(context) {
                    Poll::Ready(message) => Poll::Ready(Next::Message(message)),
                    Poll::Pending => control.poll(context).map(Next::ControlEvents),
                }
            });
            match next.await {
                Next::ControlEvents(Event::Stop) => {
                    let drain = Drain {
                        reason: "the collector is shutting down".to_owned(),
                        reconnect_after: Some(convert::duration_to_wire(DRAIN_RECONNECT)),
                    };
                    // If the agent does not take it, the end of the stream says the same.
                    drop(answers.try_send(answer(Answer::Drain(drain))));
                    return Ok("drained".to_owned());
                }
                Next::ControlEvents(Event::End(why)) => {
                    return Err(failure(why, entry.agent.as_str()));
                }
                Next::ControlEvents(Event::Timer) => {
                    streak = 0;
                    let now = self.clock.now();
                    if ack_at.is_some_and(|at| now >= at) {
                        let applied = applied.get().0;
                        // One slot is reserved for the reason of the end, so that nothing here waits for the agent.
                        if applied > acked && answers.capacity() > 1 {
                            acked = applied;
                            entry.acknowledged(acked);
                            if answers
                                .try_send(answer(Answer::Ack(Ack { sequence: acked })))
                                .is_err()
                            {
                                return Ok("closed by the agent".to_owned());
                            }
                        }
                        // The aggregator, or the agent, is busy with the rest: checked again later.
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
                    timer_at = ack_at.unwrap_or(heard + idle).min(heard + idle);
                    control.reset(self.clock.instant(timer_at));
                }
                Next::Message(None) => return Ok("closed by the agent".to_owned()),
                Next::Message(Some(Err(status))) if status.code() == tonic::Code::OutOfRange => {
                    return Err(self.bad(status.message().to_owned()));
                }
                Next::Message(Some(Err(status))) => return Ok(format!("broken: {}", status.message())),
                Next::Message(Some(Ok(message))) => {
                    streak += 1;
                    heard = self.clock.now();
                    let seq = message.sequence;
                    if seq <= last {
                        return Err(self.bad(format!("sequence {seq} after {last} on the same stream")));
                    }
                    in_range(seq).map_err(|text| self.bad(text))?;
                    last = seq;
                    entry.received(seq, heard);
                    let taps = entry.tap_state();
                    if taps.is_tapped() {
                        entry.pass_on(&message, heard);
                    }
                    let content = message
                        .message
                        .ok_or_else(|| self.bad(format!("message {seq} is empty")))?;
                    let content = convert::message_from_wire(content, &entry.agent)
                        .map_err(|e| self.bad(e.to_string()))?;
                    let message = QueuedHeartbeat {
                        stream: entry.number,
                        seq: Seq(seq),
                        message: content,
                        received: heard,
                    };
                    // A heartbeat must not overtake commands that are still queued.
                    let heartbeats =
                        matches!(message.message, Message::Heartbeat(..)) && applied.get().0 >= commanded;
                    if !heartbeats {
                        commanded = seq;
                    }
                    self.hand_on(message, heartbeats).await?;
                    let now = entry.tap_state();
                    if now != taps && now.is_tapped() {
                        // Whoever tapped meanwhile may have been told what was known before this message.
                        let again = ReportStatusRequest {
                            sequence: seq,
                            message: None,
                        };
                        entry.pass_on(&again, heard);
                    }
                    let wait = if last >= acked + ACK_EVERY {
                        soon
                    } else {
                        ack_delay
                    };
                    let at = ack_at.unwrap_or(heard + wait).min(heard + wait);
                    ack_at = Some(at);
                    if at < timer_at {
                        timer_at = at;
                        control.reset(self.clock.instant(at));
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

    /// Queues a heartbeat for batching (`heartbeats`); everything else goes to the aggregator at once.
    async fn hand_on(&self, message: QueuedHeartbeat, heartbeats: bool) -> Result<(), Failure> {
        let message = if heartbeats {
            match self.heartbeats.push(message) {
                Ok(()) => return Ok(()),
                Err(refused) => *refused,
            }
        } else {
            message
        };
        let QueuedHeartbeat {
            stream, seq, message, ..
        } = message;
        self.send(Command::Message(stream, seq, message)).await
    }

    /// Sends a command. While the aggregator is busy this waits: the agent's own stream slows down, and no other.
    async fn send(&self, command: Command) -> Result<(), Failure> {
        self.commands
            .send(command)
            .await
            .map_err(|_| Failure::ShuttingDown)
    }
}
