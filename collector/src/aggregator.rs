//! The task that owns `core::fleet`. Streams and the coordinator send it commands through one bounded
//! channel; it publishes a new [`View`] after each batch of commands.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use redkeeper_core::{
    dedupe::{Arrival, Origin},
    fleet::{Effect, Fleet, Greeting, Input, Message},
    ids::{AgentId, BootId, InstanceId, Revision, Seq},
    status::Status,
};
use redkeeper_runtime::clock::Clock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    feedback::{End, Feedback},
    metrics::Metrics,
    view::{AgentEntry, Change, Entry, LOG_MAX, Live, Replacer, View},
};

/// Commands that may wait: one message of each of 2,000 agents, twice. Senders wait when it is full, which
/// slows their streams down, and no others.
pub const COMMANDS_MAX: usize = 4_096;
/// Commands applied before the view is published: bounds how stale it may be under load.
const BATCH_MAX: usize = 256;

/// What others ask of the aggregator.
pub enum Command {
    /// A stream began.
    Hello(u64, Greeting, Feedback),
    /// A message of a stream.
    Message(u64, AgentId, BootId, Seq, Message),
    /// A stream ended.
    Bye(u64),
    /// Statuses found in ZooKeeper, and whether another collector led until now. Answered when they are in the view.
    Adopt(Vec<(Arc<Status>, Origin)>, bool, oneshot::Sender<()>),
}

/// The aggregator.
pub struct Aggregator {
    fleet: Fleet,
    view: View,
    /// The view differs from what was published.
    touched: bool,
    replacer: Replacer,
    commands: mpsc::Receiver<Command>,
    streams: BTreeMap<u64, Feedback>,
    clock: Clock,
    metrics: Metrics,
    stop: CancellationToken,
}

impl Aggregator {
    /// An aggregator of an empty fleet.
    pub fn new(
        fleet: Fleet,
        replacer: Replacer,
        commands: mpsc::Receiver<Command>,
        clock: Clock,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        Self {
            fleet,
            view: View::default(),
            touched: false,
            replacer,
            commands,
            streams: BTreeMap::new(),
            clock,
            metrics,
            stop,
        }
    }

    /// Runs until asked to stop.
    pub async fn run(mut self) {
        let (mut batch, mut effects) = (Vec::with_capacity(BATCH_MAX), Vec::new());
        let (mut acks, mut adopted) = (Vec::with_capacity(BATCH_MAX), Vec::new());
        let stop = self.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut timer = std::pin::pin!(tokio::time::sleep(std::time::Duration::ZERO));
        loop {
            // Moved only where it would come too late, because most deadlines move on before they are there.
            let deadline = self.clock.instant(self.fleet.next_deadline());
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            tokio::select! {
                biased;
                () = &mut stopped => return,
                received = self.commands.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
                () = &mut timer => (),
            }
            // Time first: a pause of this process must be known before anything is judged.
            self.step(Input::Tick, &mut effects);
            for command in batch.drain(..) {
                match command {
                    Command::Hello(stream, greeting, state) => {
                        self.streams.insert(stream, state);
                        self.step(Input::Hello(stream, greeting), &mut effects);
                    }
                    Command::Message(stream, agent, boot, seq, message) => {
                        acks.push((stream, seq));
                        self.step(Input::Message(stream, agent, boot, seq, message), &mut effects);
                    }
                    Command::Bye(stream) => {
                        self.streams.remove(&stream);
                        self.step(Input::Bye(stream), &mut effects);
                    }
                    Command::Adopt(statuses, grace, done) => {
                        self.step(Input::Adopt(statuses, grace), &mut effects);
                        adopted.push(done);
                    }
                }
            }
            if std::mem::take(&mut self.touched) {
                self.replacer.replace(self.view.clone());
            }
            for (stream, seq) in acks.drain(..) {
                if let Some(feedback) = self.streams.get(&stream) {
                    feedback.applied(seq);
                }
            }
            for done in adopted.drain(..) {
                // Who asked may be gone by now; the statuses are adopted all the same.
                done.send(()).ok();
            }
        }
    }

    fn step(&mut self, input: Input, effects: &mut Vec<Effect>) {
        self.fleet
            .step(self.clock.now(), self.clock.wall(), input, effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Changed(id) => self.changed(&id),
                Effect::Removed(id) => self.removed(&id),
                Effect::Agent(name) => self.agent(&name),
                Effect::Arrived(arrival) => {
                    let result = match arrival {
                        Arrival::News => "accepted",
                        Arrival::Late => "late",
                        Arrival::Retired => "retired",
                    };
                    self.metrics.reports.get_or_create(&[("result", result)]).inc();
                }
                Effect::Superseded(stream) => self.end(stream, End::Superseded),
                Effect::Resend(stream) => self.end(stream, End::Resend),
                Effect::Full(stream, what) => self.end(stream, End::Full(what)),
                Effect::Conflict(id, agent) => {
                    self.metrics
                        .reports
                        .get_or_create(&[("result", "conflict")])
                        .inc();
                    tracing::warn!(instance = %id, %agent, "another live agent already reports this instance; ignored");
                }
                Effect::Paused(late) => {
                    self.metrics.pauses.inc();
                    tracing::warn!(?late, "the collector was asleep; deadlines extended");
                }
            }
        }
    }

    fn end(&mut self, stream: u64, why: End) {
        if let Some(feedback) = self.streams.get_mut(&stream) {
            feedback.end(why);
        }
    }

    fn changed(&mut self, id: &InstanceId) {
        let Some(instance) = self.fleet.instance(id) else {
            return;
        };
        let (status, origin) = (Arc::clone(&instance.status), instance.origin);
        let former = self.view.instances.get(id);
        if former.is_some_and(|former| *former.status == *status) {
            return;
        }
        let previous = former.map(|former| former.status.verdict.reason);
        if previous != Some(status.verdict.reason) {
            let verdict = &status.verdict;
            tracing::info!(
                instance = %id, from = previous.map_or("-", redkeeper_core::status::Reason::as_str),
                state = %verdict.state(), reason = %verdict.reason, agent = %status.agent, "transition"
            );
            self.metrics
                .transitions
                .get_or_create(&[("reason", verdict.reason.as_str())])
                .inc();
        }
        self.touched = true;
        self.view.revision.0 += 1;
        let revision = self.view.revision;
        self.view.instances.insert(
            id.clone(),
            Entry {
                status: Arc::clone(&status),
                revision,
                origin,
            },
        );
        self.log(Change {
            revision,
            status,
            previous,
            removed: false,
            time: self.clock.wall(),
        });
    }

    fn removed(&mut self, id: &InstanceId) {
        let Some(former) = self.view.instances.remove(id) else {
            return;
        };
        tracing::info!(instance = %id, "removed: its agent no longer has it");
        self.touched = true;
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.log(Change {
            revision: self.view.revision,
            previous: Some(former.status.verdict.reason),
            status: former.status,
            removed: true,
            time: self.clock.wall(),
        });
    }

    fn log(&mut self, change: Change) {
        if self.view.log.len() >= LOG_MAX {
            self.view.log.pop_front();
        }
        self.view.log.push_back(change);
    }

    /// What an agent says of itself; most messages move its live numbers only.
    fn agent(&mut self, name: &AgentId) {
        let Some(agent) = self.fleet.agents().get(name) else {
            self.view.agents.remove(name);
            self.touched = true;
            return;
        };
        let sequence = agent.order.as_ref().map_or(0, |order| order.highest().0);
        let progress = agent.members.iter().map(|member| member.progress);
        if sequence > 0 {
            self.view.heard.fetch_max(agent.heard.0, Ordering::Relaxed);
        }
        let same = |entry: &&Arc<AgentEntry>| {
            (entry.silent, entry.complete, entry.connected) == (agent.silent, agent.complete, agent.connected)
                && entry.version == agent.members.version()
                && entry.greeting == agent.greeting
        };
        if let Some(entry) = self.view.agents.get(name).filter(same) {
            entry.live.set(sequence, agent.heard, progress);
            return;
        }
        let live = Live::new(agent.members.len());
        live.set(sequence, agent.heard, progress);
        let entry = AgentEntry {
            greeting: agent.greeting.clone(),
            silent: agent.silent,
            complete: agent.complete,
            connected: agent.connected,
            ids: agent.members.iter().map(|member| member.id.clone()).collect(),
            version: agent.members.version(),
            live: Arc::new(live),
        };
        self.view.agents.insert(name.clone(), Arc::new(entry));
        self.touched = true;
    }
}
