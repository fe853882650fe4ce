//! Takes the messages that one other collector relays, and hands them to the aggregator as streams of their agents.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redkeeper_core::{
    fleet::AgentInfo,
    ids::{AgentId, BootId, Seq},
};
use redkeeper_proto::{
    convert::{self, Invalid},
    v1::{RelayedMessage, RelayedMessages, report_status_request::Message},
};
use tokio::sync::mpsc;

use crate::{
    fleet::{
        command::{Command, Stopped},
        stream_status::{self, Applied, End, StreamStatus},
    },
    metrics::Metrics,
};

/// What all links need to hand on what is relayed.
#[derive(Clone)]
pub struct Intake {
    /// Command channel of the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Number of the next stream, shared with the agents' own streams.
    pub next_stream: Arc<AtomicU64>,
    /// Counters.
    pub metrics: Metrics,
    /// Agents whose relayed streams were refused here, or began without a Hello, since this was looked at last.
    pub refused: Arc<Mutex<BTreeSet<AgentId>>>,
}

/// The relayed streams of one link. They must be ended by [`close`](Self::close).
pub(super) struct Relayed<'a> {
    intake: &'a Intake,
    /// The collector that relays.
    via: &'a str,
    streams: BTreeMap<AgentId, Stream>,
}

struct Stream {
    number: u64,
    boot: BootId,
    status: StreamStatus,
}

impl<'a> Relayed<'a> {
    pub(super) fn new(intake: &'a Intake, via: &'a str) -> Self {
        Self {
            intake,
            via,
            streams: BTreeMap::new(),
        }
    }

    /// Hands messages on. One that breaks a rule is left out; its agent is asked for again.
    pub(super) async fn take(&mut self, messages: RelayedMessages) -> Result<(), Stopped> {
        let received = self
            .intake
            .metrics
            .relayed
            .get_or_create_owned(&[("direction", "received")]);
        received.inc_by(messages.messages.len() as u64);
        for message in messages.messages {
            let Ok(agent) = AgentId::new(&message.agent_id) else {
                continue;
            };
            if let Err(error) = self.take_one(&agent, message).await? {
                tracing::warn!(collector = self.via, %agent, "a relayed message is refused: {error}");
                self.refuse(agent).await?;
            }
        }
        Ok(())
    }

    async fn take_one(
        &mut self,
        agent: &AgentId,
        message: RelayedMessage,
    ) -> Result<Result<(), Invalid>, Stopped> {
        let parts = Parts::of(message);
        let Parts {
            boot,
            age,
            sequence,
            content,
            heartbeat_age,
        } = match parts {
            Ok(parts) => parts,
            Err(error) => return Ok(Err(error)),
        };
        if let Message::Hello(hello) = content {
            return match convert::greeting_from_wire(&hello) {
                Ok(greeting) if greeting.agent == *agent && greeting.boot == boot => {
                    self.begin(greeting, [age, heartbeat_age]).await.map(Ok)
                }
                Ok(_) => Ok(Err(Invalid::new("hello", "names another agent"))),
                Err(error) => Ok(Err(error)),
            };
        }
        let Some(stream) = self.streams.get_mut(agent) else {
            // What was on its way when the relay ended. What is asked for begins with a Hello.
            return Ok(Ok(()));
        };
        if stream.boot != boot {
            // The Hello of another boot was missed.
            return self.refuse(agent.clone()).await.map(Ok);
        }
        match stream.status.end.try_recv() {
            Ok(End::Superseded | End::InUse(_) | End::Resend | End::Full(_)) => {
                return self.refuse(agent.clone()).await.map(Ok);
            }
            Err(_) => {}
        }
        match convert::message_from_wire(content, agent) {
            Ok(content) => {
                let command = Command::Relayed(stream.number, Seq(sequence), content, age);
                self.send(command).await.map(Ok)
            }
            Err(error) => Ok(Err(error)),
        }
    }

    async fn begin(&mut self, mut greeting: AgentInfo, ages: [Duration; 2]) -> Result<(), Stopped> {
        let (agent, boot) = (greeting.agent.clone(), greeting.boot.clone());
        self.end(&agent).await?;
        self.via.clone_into(&mut greeting.via);
        let number = self.intake.next_stream.fetch_add(1, Ordering::Relaxed);
        let (handle, status) = stream_status::channel(Applied::default());
        let begins = Command::RelayBegins(number, Box::new(greeting), handle, Box::new(ages));
        self.send(begins).await?;
        let stream = Stream { number, boot, status };
        self.streams.insert(agent, stream);
        Ok(())
    }

    /// Ends the streams of all agents but these.
    pub(super) async fn keep(&mut self, wanted: &BTreeSet<AgentId>) -> Result<(), Stopped> {
        let over: Vec<_> = self
            .streams
            .keys()
            .filter(|agent| !wanted.contains(*agent))
            .cloned()
            .collect();
        for agent in over {
            self.end(&agent).await?;
        }
        Ok(())
    }

    /// Ends all streams.
    pub(super) async fn close(mut self) -> Result<(), Stopped> {
        self.keep(&BTreeSet::new()).await
    }

    async fn refuse(&mut self, agent: AgentId) -> Result<(), Stopped> {
        self.end(&agent).await?;
        // Nothing panics while the lock is held.
        self.intake
            .refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(agent);
        Ok(())
    }

    async fn end(&mut self, agent: &AgentId) -> Result<(), Stopped> {
        match self.streams.remove(agent) {
            Some(stream) => self.send(Command::Bye(stream.number)).await,
            None => Ok(()),
        }
    }

    async fn send(&self, command: Command) -> Result<(), Stopped> {
        self.intake.commands.send(command).await.map_err(|_| Stopped)
    }
}

/// Largest sequence that is accepted, as of the agents themselves.
const SEQUENCE_MAX: u64 = 1 << 63;

/// The fields of a relayed message.
struct Parts {
    boot: BootId,
    age: Duration,
    sequence: u64,
    content: Message,
    heartbeat_age: Duration,
}

impl Parts {
    fn of(message: RelayedMessage) -> Result<Self, Invalid> {
        let boot = BootId::new(&message.boot_id);
        let age = message.age.unwrap_or_default();
        let age = convert::duration_from_wire("age", &age)?;
        let heartbeat_age = message.heartbeat_age.map_or(Ok(age), |heartbeat| {
            convert::duration_from_wire("heartbeat_age", &heartbeat)
        })?;
        let request = message.request.unwrap_or_default();
        let content = request.message;
        if request.sequence > SEQUENCE_MAX {
            return Err(Invalid::new("sequence", format!("is beyond {SEQUENCE_MAX}")));
        }
        Ok(Self {
            boot: boot.map_err(|e| Invalid::new("boot_id", e))?,
            age,
            sequence: request.sequence,
            content: content.ok_or_else(|| Invalid::new("request", "is empty"))?,
            heartbeat_age,
        })
    }
}
