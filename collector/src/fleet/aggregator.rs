//! The task that owns `core::fleet`. Streams and the coordinator send it commands through one bounded channel. It
//! publishes a new [`View`] after each batch of commands, and also within a batch that changes much.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prometheus_client::metrics::counter::Counter;
use redkeeper_core::{
    fleet::{AgentInfo, Effect, Fleet, Input, message_order::Arrival},
    ids::Revision,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::Clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{
        command::Command,
        heartbeats::HeartbeatQueue,
        stream_status::{End, StreamHandle},
        transition_log::TransitionLog,
        view::{AgentEntry, View, ViewPublisher},
    },
    metrics::Metrics,
};

/// Maximum commands applied before the view is published: bounds how stale it may be under load.
const BATCH_MAX: usize = 256;
/// Maximum changes applied before the view is published: when thousands come at once, the publisher writes the first
/// while the others are applied. Each new view costs copies of what changes next in it.
const UNPUBLISHED_CHANGES_MAX: u64 = 1_024;

/// Reports and statuses that are taken before others have their turn on the thread: some 10 ms of work.
const WORK_MAX: usize = 512;

/// Version of an agent, and version of its set of instances.
type Version = (u64, u64);

/// The aggregator.
pub struct Aggregator {
    pub(super) fleet: Fleet,
    pub(super) view: View,
    /// True if the view differs from the published one.
    pub(super) dirty: bool,
    /// Revision of the newest published change.
    published_revision: Revision,
    view_publisher: ViewPublisher,
    commands: mpsc::Receiver<Command>,
    heartbeats: Arc<HeartbeatQueue>,
    streams: BTreeMap<u64, StreamHandle>,
    /// The view's entry of each agent, with its version; indexed by the agent's place in the fleet.
    pub(super) agents: Vec<Option<(Version, Arc<AgentEntry>)>>,
    pub(super) transition_log: TransitionLog,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    /// The counter that most messages increment.
    accepted: Counter,
    stop: CancellationToken,
}

impl Aggregator {
    /// Creates an aggregator of an empty fleet.
    pub fn new(
        fleet: Fleet,
        view_publisher: ViewPublisher,
        commands: mpsc::Receiver<Command>,
        heartbeats: Arc<HeartbeatQueue>,
        clock: Clock,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> Self {
        let accepted = metrics.reports.get_or_create_owned(&[("result", "accepted")]);
        Self {
            accepted,
            transition_log: TransitionLog::new(),
            agents: Vec::new(),
            fleet,
            view: View::default(),
            dirty: false,
            published_revision: Revision(0),
            view_publisher,
            commands,
            heartbeats,
            streams: BTreeMap::new(),
            clock,
            metrics,
            stop,
        }
    }

    /// Runs until asked to stop.
    pub async fn run(mut self) {
        let (mut batch, mut effects) = (Vec::with_capacity(BATCH_MAX), Vec::new());
        let (mut waiting, mut work) = (VecDeque::with_capacity(BATCH_MAX), 0);
        let (mut acks, mut adopted) = (Vec::with_capacity(BATCH_MAX), Vec::new());
        let (heartbeats, mut queued, mut stepped) =
            (Arc::clone(&self.heartbeats), Vec::new(), Mono::default());
        let mut many = std::pin::pin!(heartbeats.batch_ready());
        let stop = self.stop.clone();
        let mut stopped = std::pin::pin!(stop.cancelled());
        let mut timer = std::pin::pin!(tokio::time::sleep(std::time::Duration::ZERO));
        loop {
            // Reset only if the timer would fire too late: most deadlines move on before they are reached.
            let deadline = self.clock.instant(self.fleet.next_deadline());
            if timer.is_elapsed() || deadline < timer.deadline() {
                timer.as_mut().reset(deadline);
            }
            if work >= WORK_MAX {
                // There may always be more, which the runtime would let this task take in one go.
                work = 0;
                tokio::task::yield_now().await;
            }
            tokio::select! {
                biased;
                () = &mut stopped => return,
                () = std::future::ready(()), if !waiting.is_empty() => (),
                received = self.commands.recv_many(&mut batch, BATCH_MAX) => if received == 0 { return },
                () = &mut many => many.set(heartbeats.batch_ready()),
                () = &mut timer => (),
            }
            let (woken, wall) = (self.clock.now(), self.clock.wall());
            if woken.since(stepped) >= self.fleet.pause_min() {
                // The process slept, or this task was busy, for that long. The fleet must know before anything is
                // judged.
                stepped = woken;
                self.step((woken, wall), Input::Tick, &mut effects);
            }
            // Heartbeats first: all of them arrived before now.
            heartbeats.take(&mut queued);
            for beat in queued.drain(..) {
                acks.push((beat.stream, beat.seq));
                stepped = beat.received.max(stepped);
                let message = Input::Message(beat.stream, beat.seq, beat.message);
                self.step((stepped, wall), message, &mut effects);
            }
            // The clock is read once for the whole batch, so that a message costs no reading. The tick comes first: a
            // pause of this process must be known before anything is judged.
            stepped = self.clock.now().max(stepped);
            let now = (stepped, wall);
            self.step(now, Input::Tick, &mut effects);
            waiting.extend(batch.drain(..));
            while work < WORK_MAX
                && let Some(command) = waiting.pop_front()
            {
                work += command.work();
                match command {
                    Command::Hello(stream, greeting, handle) => {
                        self.begin(
                            now,
                            (stream, handle),
                            Input::Hello(stream, greeting),
                            &mut effects,
                        );
                    }
                    Command::Message(stream, seq, message) => {
                        acks.push((stream, seq));
                        self.step(now, Input::Message(stream, seq, message), &mut effects);
                    }
                    Command::RelayBegins(stream, greeting, handle, ages) => {
                        let [heard, heartbeat] = *ages;
                        let begins = Input::RelayBegins(stream, greeting, heard, heartbeat);
                        self.begin(now, (stream, handle), begins, &mut effects);
                    }
                    Command::Relayed(stream, seq, message, age) => {
                        self.step(now, Input::Relayed(stream, seq, message, age), &mut effects);
                    }
                    Command::Snapshot(agent, answer) => {
                        // A link that has ended needs no answer.
                        answer.send(self.fleet.agent_snapshot(stepped, &agent)).ok();
                    }
                    Command::Bye(stream) => {
                        self.streams.remove(&stream);
                        self.step(now, Input::Bye(stream), &mut effects);
                    }
                    Command::Adopt(adoption, done) => {
                        self.step(now, Input::Adopt(adoption), &mut effects);
                        adopted.push(done);
                    }
                }
                if self.view.revision.0 - self.published_revision.0 >= UNPUBLISHED_CHANGES_MAX {
                    self.publish_view();
                }
            }
            if !waiting.is_empty() {
                // The rest of the batch comes next, and one view tells all of it.
                continue;
            }
            self.transition_log.flush_summary();
            self.publish_view();
            for (stream, seq) in acks.drain(..) {
                if let Some(handle) = self.streams.get(&stream) {
                    handle.applied(seq);
                }
            }
            for done in adopted.drain(..) {
                // The requester may have gone away; the statuses are adopted anyway.
                done.send(()).ok();
            }
        }
    }

    fn begin(
        &mut self,
        now: (Mono, WallMs),
        (stream, handle): (u64, StreamHandle),
        begins: Input,
        effects: &mut Vec<Effect>,
    ) {
        self.streams.insert(stream, handle);
        self.step(now, begins, effects);
        if let Some(handle) = self.streams.get_mut(&stream) {
            handle.accept();
        }
    }

    fn step(&mut self, (now, wall): (Mono, WallMs), input: Input, effects: &mut Vec<Effect>) {
        self.fleet.step(now, wall, input, effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Changed(id) => self.changed(&id),
                Effect::Removed(id) => self.removed(&id),
                Effect::Agent(place) => self.agent(place),
                Effect::Forgotten(place) => {
                    if let Some((_, entry)) = self.agents.get_mut(place.index()).and_then(Option::take) {
                        self.view.agents.remove(&entry.name);
                        self.dirty = true;
                    }
                }
                Effect::Arrived(Arrival::New) => {
                    self.accepted.inc();
                }
                Effect::Arrived(arrival) => {
                    let result = match arrival {
                        Arrival::New => "accepted",
                        Arrival::Stale => "late",
                        Arrival::Superseded => "retired",
                    };
                    self.metrics.reports.get_or_create(&[("result", result)]).inc();
                }
                Effect::Superseded(stream) => self.end(stream, End::Superseded),
                Effect::InUse(stream, place) => {
                    let holder = self
                        .fleet
                        .agents()
                        .at(place)
                        .and_then(|agent| agent.greeting.as_ref());
                    let place = holder.map_or_else(String::new, AgentInfo::place);
                    self.end(stream, End::InUse(place.into()));
                }
                Effect::Resend(stream) => self.end(stream, End::Resend),
                Effect::Full(stream, what) => self.end(stream, End::Full(what)),
                Effect::Conflict(id, agent) => {
                    self.metrics
                        .reports
                        .get_or_create(&[("result", "conflict")])
                        .inc();
                    self.transition_log.conflict(&id, &agent);
                    self.view.conflicts.lost(id, agent, now);
                }
                Effect::Held => {
                    self.view.held = self.fleet.held();
                    self.dirty = true;
                }
                Effect::Paused(late) => {
                    self.metrics.pauses.inc();
                    tracing::warn!(?late, "the collector was asleep; deadlines extended");
                }
            }
        }
    }

    /// Publishes the view if it has changed.
    fn publish_view(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.published_revision = self.view.revision;
            self.view_publisher.replace(self.view.clone());
        }
    }

    fn end(&mut self, stream: u64, why: End) {
        if let Some(handle) = self.streams.get_mut(&stream) {
            handle.end(why);
        }
    }
}
