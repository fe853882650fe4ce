//! Agents that do not exist: they say over gRPC what a fleet would say.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use pbjson_types::Duration as WireDuration;
use redkeeper_core::limits::{REPORTS_PER_MESSAGE_MAX, REPORTS_PER_SNAPSHOT_PART_MAX};
use redkeeper_proto::v1::{
    self, Changes, Heartbeat, InstanceReport, ReportStatusRequest, ReportStatusResponse, Snapshot,
    agent_service_client::AgentServiceClient, report_status_request::Message,
};
use redkeeper_tests::{
    fake_agent::{hello, message},
    process::Process,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::rig::endpoint;

/// What an agent says of one instance: alive, or refused.
pub(crate) fn report(agent: &str, number: u32, up: bool) -> InstanceReport {
    let (reason, evidence) = if up {
        (v1::Reason::Ok, "PING answered \"PONG\"")
    } else {
        (
            v1::Reason::ConnectionRefused,
            "connection refused: nothing listens",
        )
    };
    InstanceReport {
        handle: number,
        id: format!("{agent}:{number}"),
        cluster: "bench".to_owned(),
        address: format!("127.0.0.1:{number}"),
        verdict: Some(v1::Verdict {
            reason: reason.into(),
            stage: v1::Stage::Reply.into(),
            role: v1::Role::Master.into(),
            run_id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            server_version: "7.0.15".to_owned(),
            evidence: evidence.to_owned(),
            ..Default::default()
        }),
        probe_age: Some(WireDuration::default()),
        freshness_limit: Some(WireDuration {
            seconds: 600,
            nanos: 0,
        }),
        ..Default::default()
    }
}

/// The same as a collector would tell it.
pub(crate) fn instance(report: &InstanceReport) -> v1::Instance {
    let mut verdict = report.verdict.clone().unwrap_or_default();
    verdict.state = v1::InstanceState::Up.into();
    verdict.reads = v1::Ability::Yes.into();
    verdict.writes = v1::Ability::Yes.into();
    v1::Instance {
        id: report.id.clone(),
        cluster: report.cluster.clone(),
        address: report.address.clone(),
        agent_id: "agent-0".to_owned(),
        verdict: Some(verdict),
        revision: 1,
        probe_age: Some(WireDuration::default()),
        ..Default::default()
    }
}

/// One agent with an open stream.
pub(crate) struct Speaker {
    name: String,
    instances: u32,
    /// Shared by the streams of one agent to several collectors.
    sequence: Arc<AtomicU64>,
    sender: mpsc::Sender<ReportStatusRequest>,
    answers: Option<Streaming<ReportStatusResponse>>,
}

impl Speaker {
    /// Connects, says hello and sends the snapshot, in which all are UP. The answers must be drained.
    pub(crate) async fn connect(collector: &str, name: String, instances: u32) -> Result<Self, String> {
        Self::connect_also(collector, name, instances, Arc::default()).await
    }

    /// The same for one more collector, with the sequence of the agent.
    pub(crate) async fn connect_also(
        collector: &str,
        name: String,
        instances: u32,
        sequence: Arc<AtomicU64>,
    ) -> Result<Self, String> {
        let channel = endpoint(collector)?
            .connect()
            .await
            .map_err(|e| format!("{collector}: {e}"))?;
        let (sender, receiver) = mpsc::channel(256);
        let mut speaker = Self {
            name,
            instances,
            sequence,
            sender,
            answers: None,
        };
        speaker.say(hello(&speaker.name, 1)).await?;
        let mut client = AgentServiceClient::new(channel);
        let call = client.report_status(ReceiverStream::new(receiver)).await;
        speaker.answers = Some(call.map_err(|e| e.to_string())?.into_inner());
        let all: Vec<_> = (1..=instances).collect();
        let mut chunks = all.chunks(REPORTS_PER_SNAPSHOT_PART_MAX).peekable();
        while let Some(chunk) = chunks.next() {
            let snapshot = Snapshot {
                instances: chunk.iter().map(|n| report(&speaker.name, *n, true)).collect(),
                last: chunks.peek().is_none(),
            };
            speaker.say(Message::Snapshot(snapshot)).await?;
        }
        Ok(speaker)
    }

    /// What the collector answers.
    pub(crate) fn answers(&mut self) -> Option<Streaming<ReportStatusResponse>> {
        self.answers.take()
    }

    /// Sends one message.
    pub(crate) async fn say(&mut self, what: Message) -> Result<(), String> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let sent = self.sender.send(message(sequence, what)).await;
        sent.map_err(|_| format!("the stream of {} ended", self.name))
    }

    /// Proves that the agent lives, and that the first `probed` instances were probed just now.
    pub(crate) async fn beat(&mut self, probed: u32) -> Result<(), String> {
        let handles: Vec<_> = (1..=probed.min(self.instances)).collect();
        let probe_ages_ms = vec![1; handles.len()];
        self.say(Message::Heartbeat(Heartbeat {
            handles,
            probe_ages_ms,
            agent_time: None,
        }))
        .await
    }

    /// The messages that say that all instances from `from` to `to` are up, or are down.
    pub(crate) fn changes(&self, from: u32, to: u32, up: bool) -> Vec<Message> {
        let numbers: Vec<_> = (from..=to).collect();
        let one = |chunk: &[u32]| {
            let instances = chunk.iter().map(|n| report(&self.name, *n, up)).collect();
            Message::Changes(Changes { instances })
        };
        numbers.chunks(REPORTS_PER_MESSAGE_MAX).map(one).collect()
    }

    /// Says it.
    pub(crate) async fn change(&mut self, from: u32, to: u32, up: bool) -> Result<(), String> {
        for message in self.changes(from, to, up) {
            self.say(message).await?;
        }
        Ok(())
    }
}

/// Reads and drops the answers, so that the stream flows.
#[allow(clippy::disallowed_methods)] // It ends with its stream.
pub(crate) fn drain(speaker: &mut Speaker) {
    if let Some(mut answers) = speaker.answers() {
        tokio::spawn(async move { while let Ok(Some(_)) = answers.message().await {} });
    }
}

/// A process that is `agents` agents with `instances` each; each sends a heartbeat `every` so many milliseconds, or
/// as fast as it is taken for 0, to each of the collectors, which are separated by commas. A stream that breaks is given
/// up as long as another one is left. Prints again and again how many messages it sent.
#[allow(clippy::disallowed_methods)] // They end with the process.
pub(crate) async fn report_for_ever(
    collectors: &str,
    agents: &str,
    instances: &str,
    every: &str,
) -> Result<(), String> {
    let read = |text: &str| text.parse::<u32>().map_err(|e| format!("{text:?}: {e}"));
    let (agents, instances, every) = (read(agents)?, read(instances)?, u64::from(read(every)?));
    let sent = Arc::new(AtomicU64::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..agents {
        let (mut speakers, sequence) = (Vec::new(), Arc::<AtomicU64>::default());
        for collector in collectors.split(',') {
            let (name, sequence) = (format!("agent-{n}"), Arc::clone(&sequence));
            let mut speaker = Speaker::connect_also(collector, name, instances, sequence).await?;
            drain(&mut speaker);
            speakers.push(speaker);
        }
        let phase = Duration::from_micros(every * 1_000 * u64::from(n) / u64::from(agents));
        let sent = Arc::clone(&sent);
        tasks.spawn(async move {
            tokio::time::sleep(phase).await;
            let mut ticks = tokio::time::interval(Duration::from_millis(every.max(1)));
            loop {
                if every > 0 {
                    ticks.tick().await;
                }
                let mut left = Vec::with_capacity(speakers.len());
                let mut broken = None;
                for mut speaker in speakers {
                    match speaker.beat(instances).await {
                        Ok(()) => left.push(speaker),
                        Err(e) => broken = Some(e),
                    }
                }
                speakers = left;
                if speakers.is_empty() {
                    return Err(broken.unwrap_or_default());
                }
                sent.fetch_add(speakers.len() as u64, Ordering::Relaxed);
            }
        });
    }
    println!("ready");
    // Often: who reads it measures short windows.
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    loop {
        tokio::select! {
            ended = tasks.join_next() => return match ended {
                Some(Ok(Err::<(), _>(e))) => Err(e),
                Some(Err(e)) => Err(e.to_string()),
                _ => Ok(()),
            },
            _ = ticks.tick() => println!("sent {}", sent.load(Ordering::Relaxed)),
        }
    }
}

/// How many messages such a process has sent, as it prints; `None` before it is ready.
pub(crate) fn sent(process: &Process) -> Option<f64> {
    let log = process.log();
    // The last line may be half of one.
    let whole = &log[..log.rfind('\n')?];
    whole.lines().last()?.strip_prefix("sent ")?.parse().ok()
}
