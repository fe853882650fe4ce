//! The task that owns `core::fleet`. Streams and the coordinator send it commands through one bounded
//! channel; it publishes a new [`View`] after each batch of commands, and within one that changes much.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
};

use prometheus_client::metrics::counter::Counter;
use redkeeper_core::{
    fleet::{Effect, Fleet, Greeting, Input, Place, message_order::Arrival},
    ids::{InstanceId, Revision},
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::Clock;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{
        change_log::Change,
        command::Command,
        heartbeats::Beats,
        progress::{End, Feedback},
        transition_log::{TransitionLog, log_clock_offset},
        view::{AgentEntry, Live, Put, Replacer, View},
    },
    metrics::Metrics,
};

/// Commands applied before the view is published: bounds how stale it may be under load.
const BATCH_MAX: usize = 256;
/// Changes applied before the view is published: when thousands come at once, the publisher writes the first while the
/// others are applied. Each new view costs copies of what changes next in it.
const UNSEEN_MAX: u64 = 1_024;

/// Of an agent, and of which instances it has.
type Version = (u64, u64);

/// The aggregator.
pub struct Aggregator {
    fleet: Fleet,
    view: View,
    /// The view differs from what was published.
    touched: bool,
    /// The newest change that was published.
    shown: Revision,
    replacer: Replacer,
    commands: mpsc::Receiver<Command>,
    beats: Arc<Beats>,
    streams: BTreeMap<u64, Feedback>,
    /// What the view says of each agent, by its place in the fleet, and which version of it.
    agents: Vec<Option<(Version, Arc<AgentEntry>)>>,
    transition_log: TransitionLog,
    clock: Clock,
    metrics: Metrics,
    /// The counter that most messages move.
    accepted: Counter,
    stop: CancellationToken,
}

impl Aggregator {
    /// An aggregator of an empty fleet.
    pub fn new(
        fleet: Fleet,
        replacer: Replacer,
        commands: mpsc::Receiver<Command>,
        beats: Arc<Beats>,
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
            touched: false,
            shown: Revision(0),
            replacer,
            commands,
            beats,
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
        let (beats, mut beaten, mut stepped) = (Arc::clone(&self.beats), Vec::new(), Mono::default());
        let mut many = std::pin::pin!(beats.many());
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
                () = &mut many => many.set(beats.many()),
                () = &mut timer => (),
            }
            let (woken, wall) = (self.clock.now(), self.clock.wall());
            if woken.since(stepped) >= self.fleet.pause_min() {
                // This process slept, or this task was busy for so long. That must be known before anything is judged.
                stepped = woken;
                self.step((woken, wall), Input::Tick, &mut effects);
            }
            // Heartbeats first: each came before now.
            beats.take(&mut beaten);
            for beat in beaten.drain(..) {
                acks.push((beat.stream, beat.seq));
                stepped = beat.received.max(stepped);
                let message = Input::Message(beat.stream, beat.seq, beat.message);
                self.step((stepped, wall), message, &mut effects);
            }
            // One reading for the whole batch, so that a message costs none. Time first: a pause of this process must
            // be known before anything is judged.
            stepped = self.clock.now().max(stepped);
            let now = (stepped, wall);
            self.step(now, Input::Tick, &mut effects);
            for command in batch.drain(..) {
                match command {
                    Command::Hello(stream, greeting, state) => {
                        self.streams.insert(stream, state);
                        self.step(now, Input::Hello(stream, greeting), &mut effects);
                        if let Some(feedback) = self.streams.get_mut(&stream) {
                            feedback.accept();
                        }
                    }
                    Command::Message(stream, seq, message) => {
                        acks.push((stream, seq));
                        self.step(now, Input::Message(stream, seq, message), &mut effects);
                    }
                    Command::Bye(stream) => {
                        self.streams.remove(&stream);
                        self.step(now, Input::Bye(stream), &mut effects);
                    }
                    Command::Adopt(statuses, grace, done) => {
                        self.step(now, Input::Adopt(statuses, grace), &mut effects);
                        adopted.push(done);
                    }
                }
                if self.view.revision.0 - self.shown.0 >= UNSEEN_MAX {
                    self.show();
                }
            }
            self.transition_log.flush_summary();
            self.show();
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
                        self.touched = true;
                    }
                }
                Effect::Arrived(Arrival::News) => {
                    self.accepted.inc();
                }
                Effect::Arrived(arrival) => {
                    let result = match arrival {
                        Arrival::News => "accepted",
                        Arrival::Late => "late",
                        Arrival::Retired => "retired",
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
                    let place = holder.map_or_else(String::new, Greeting::place);
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
                }
                Effect::Paused(late) => {
                    self.metrics.pauses.inc();
                    tracing::warn!(?late, "the collector was asleep; deadlines extended");
                }
            }
        }
    }

    /// Puts the view in place, where it differs.
    fn show(&mut self) {
        if std::mem::take(&mut self.touched) {
            self.shown = self.view.revision;
            self.replacer.replace(self.view.clone());
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
        let previous = match self.view.put(&status, origin) {
            Put::Same => return,
            Put::New => None,
            Put::Instead(former) => Some(former),
        };
        self.touched = true;
        let revision = self.view.revision;
        let reason = previous.as_ref().map(|former| former.verdict.reason);
        if previous
            .as_ref()
            .is_none_or(|former| status.is_transition_from(former))
        {
            self.transition_log.transition(&status, reason);
            self.metrics
                .transitions
                .get_or_create(&[("reason", status.verdict.reason.as_str())])
                .inc();
        }
        self.view.log.push(Change {
            revision,
            status,
            origin,
            previous,
            removed: false,
            time: self.clock.wall(),
        });
    }

    fn removed(&mut self, id: &InstanceId) {
        let Some(former) = self.view.remove(id) else {
            return;
        };
        self.transition_log.removed(id);
        self.touched = true;
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.view.log.push(Change {
            revision: self.view.revision,
            previous: Some(Arc::clone(&former.status)),
            status: former.status,
            origin: former.origin,
            removed: true,
            time: self.clock.wall(),
        });
    }

    /// What an agent says of itself; most messages move its live numbers only.
    fn agent(&mut self, place: Place) {
        let Some(agent) = self.fleet.agents().at(place) else {
            return;
        };
        let sequence = agent.order.as_ref().map_or(0, |order| order.highest().0);
        let progress = agent.members.iter().map(|member| member.progress);
        if sequence > 0 {
            self.view.heard.fetch_max(agent.heard.0, Ordering::Relaxed);
        }
        let version = (agent.version, agent.members.version());
        if self.agents.len() <= place.index() {
            self.agents.resize(place.index() + 1, None);
        }
        if let Some((told, entry)) = &self.agents[place.index()]
            && *told == version
            && entry.name == agent.name
        {
            entry.live.set(sequence, agent.heard, progress);
            return;
        }
        let before = self.agents[place.index()]
            .as_ref()
            .filter(|(_, entry)| entry.name == agent.name)
            .map_or(0, |(_, entry)| entry.clock_ahead_ms);
        let ahead = agent.clock.ahead_ms();
        if ahead != before {
            log_clock_offset(&agent.name, ahead);
        }
        let live = Live::new(agent.members.len());
        live.set(sequence, agent.heard, progress);
        let entry = Arc::new(AgentEntry {
            name: agent.name.clone(),
            greeting: agent.greeting.clone(),
            silent: agent.silent,
            clock_ahead_ms: agent.clock.ahead_ms(),
            complete: agent.complete,
            connected: agent.connected,
            rival: agent.rival.as_deref().cloned(),
            ids: agent.members.iter().map(|member| member.id.clone()).collect(),
            live: Arc::new(live),
        });
        self.view.agents.insert(agent.name.clone(), Arc::clone(&entry));
        self.agents[place.index()] = Some((version, entry));
        self.touched = true;
    }
}
