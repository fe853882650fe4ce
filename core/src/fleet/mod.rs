//! The fleet: what a collector knows of all instances, the newest verdict of each and whether it is still fresh.
//!
//! Silence is never DOWN: an agent that is not heard makes its instances UNKNOWN/AGENT_SILENT, and an instance whose
//! probe does not progress becomes UNKNOWN/PROBE_STALLED. All deadlines use this process's monotonic clock, and time
//! during which this process did not run counts against no agent.
//!
//! For each instance the report with the highest sequence of the newest boot wins, so reports of one boot
//! may come in any order, any number of times and by any path.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    fleet::message_order::{BootOrdinal, MessageOrder, Origin},
    id_map::IdMap,
    ids::{AgentId, InstanceId},
    status::{Reason, Status, Verdict},
    time::{Mono, WallMs},
};

pub use agent_slab::{Agents, SlotKey};
pub use brake::{BrakeSettings, Held};
pub use clocks::{ClockOffset, OFFSET_MIN};
pub use instances_of_agent::{FreshnessLimit, Member, Members};
pub use leader_takeover::{Adoption, is_news};
pub use liveness::silent_at;
pub use messages::{AgentInfo, Effect, Input, Message, Report, Rival};
pub use relaying::AgentSnapshot;

mod agent_slab;
mod brake;
mod clocks;
mod instances_of_agent;
mod leader_takeover;
mod liveness;
pub mod message_order;
mod messages;
mod relaying;
mod reports;
mod streams;
pub mod unheard_agents;

/// Longest time between two steps that the shell allows with the usual `silent_after` of 3 s; proportionally less where
/// that is shorter.
const STEP_INTERVAL_MAX: Duration = Duration::from_millis(250);
/// Smallest number of steps in `silent_after`.
const STEPS_IN_SILENCE: u32 = 12;
/// A gap of this many steps means that this process did not run. A shorter pause, which is not forgiven, is thus below
/// a third of `silent_after`, within which at least two heartbeats come.
const STEPS_IN_PAUSE: u32 = 4;

/// Conflicts that are remembered. They come from mistakes of configuration, so they are few; beyond this number the
/// loser waits for its next reconnection.
const CONFLICTS_MAX: usize = 1_024;

/// Agents with adopted instances that one step tells: to tell one costs as much as it has instances.
const AGENTS_TOLD_MAX: usize = 64;
/// They are told once nothing was adopted for so long, because each part of an adoption concerns most agents.
const TOLD_AFTER: Duration = Duration::from_millis(100);

/// An agent as the fleet sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentState {
    /// Its name.
    pub name: AgentId,
    /// Counts changes of the fields below, except `order`, `heard`, `heartbeat_at` and the progress of members, which
    /// change with each message, and the set of members, which has a counter of its own.
    pub version: u64,
    /// Order of its messages; `None` if it is known from ZooKeeper only.
    pub order: Option<MessageOrder>,
    /// Its version and host, for display.
    pub greeting: Option<AgentInfo>,
    /// When it was last heard, or adopted.
    pub heard: Mono,
    /// When its last heartbeat, or Hello, was heard. The progress of probes is judged against it.
    pub heartbeat_at: Mono,
    /// True if it has an entry in the deadlines.
    watched: bool,
    /// True if nothing was heard for `silent_after`, or no heartbeat for twice as long.
    pub silent: bool,
    /// When its present stream began.
    pub connected: WallMs,
    /// How far its wall clock is off.
    pub clock: ClockOffset,
    /// True if a full snapshot of the present boot was heard: what it did not mention is gone.
    pub complete: bool,
    /// Its instances.
    pub members: Members,
    /// The stream that began last, if one is open.
    stream: Option<u64>,
    /// Number of open streams.
    streams_open: u32,
    /// The adoption that granted it a grace period last.
    granted: u64,
    snapshot: Option<Snapshot>,
    /// The last agent that was refused because this one has its id.
    pub rival: Option<Box<Rival>>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Snapshot {
    first: Origin,
    mentioned: BTreeSet<InstanceId>,
}

/// An open stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct OpenStream {
    agent: SlotKey,
    boot: BootOrdinal,
}

/// An instance as the fleet holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceState {
    /// The status in force.
    pub status: Arc<Status>,
    /// The agent's verdict, where it differs from the one in force.
    overruled: Option<Box<Verdict>>,
    /// The message that brought the newest report.
    pub origin: Origin,
}

/// Everything that is known. Owned by one task.
#[derive(Clone, PartialEq, Debug)]
pub struct Fleet {
    silent_after: Duration,
    agents: Agents,
    /// The agent and the boot of each open stream.
    streams: BTreeMap<u64, OpenStream>,
    /// The collectors that relay streams, by the streams' numbers.
    relayed: BTreeMap<u64, Box<str>>,
    instances: IdMap<InstanceState>,
    /// When to check each agent again. An entry may be early, because the deadline has moved since, but is never late.
    deadlines: BTreeSet<(Mono, AgentId)>,
    /// Streams whose report of an instance lost against the owner of the instance.
    conflicts: BTreeMap<InstanceId, u64>,
    brake: brake::Brake,
    /// Agents whose adopted instances are to be told. An agent is told once for many of them.
    untold: BTreeSet<SlotKey>,
    /// When they are to be told: once no more is adopted for a moment.
    tell_at: Mono,
    stepped: Mono,
}

impl Fleet {
    /// An empty fleet.
    pub fn new(now: Mono, silent_after: Duration) -> Self {
        Self {
            silent_after,
            agents: Agents::default(),
            streams: BTreeMap::new(),
            relayed: BTreeMap::new(),
            instances: IdMap::default(),
            deadlines: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            brake: brake::Brake::new(BrakeSettings::OFF),
            untold: BTreeSet::new(),
            tell_at: now,
            stepped: now,
        }
    }

    /// One instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&InstanceState> {
        self.instances.get(id)
    }

    /// All agents.
    pub fn agents(&self) -> &Agents {
        &self.agents
    }

    /// Number of instances.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// True where no instance is known.
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// Longest time between two steps that the shell allows.
    fn step_interval(&self) -> Duration {
        STEP_INTERVAL_MAX.min(self.silent_after / STEPS_IN_SILENCE)
    }

    /// Shortest gap between two steps that means that this process did not run.
    pub fn pause_min(&self) -> Duration {
        self.step_interval() * STEPS_IN_PAUSE
    }

    /// When [`step`](Self::step) must be called with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Mono {
        let mut regular = self.stepped + self.step_interval();
        if !self.untold.is_empty() {
            regular = regular.min(self.tell_at);
        }
        let next = self.deadlines.first().map_or(regular, |(at, _)| regular.min(*at));
        let brake = self.brake.next_deadline(self.stepped);
        brake.map_or(next, |at| next.min(at))
    }

    /// Applies an input at `now`; `wall` is only copied into statuses.
    pub fn step(&mut self, now: Mono, wall: WallMs, input: Input, out: &mut Vec<Effect>) {
        self.forgive_own_pause(now, out);
        match input {
            Input::Hello(stream, greeting) => self.hello((now, (now, now)), wall, stream, greeting, out),
            Input::Message(stream, seq, message) => {
                self.message((now, Duration::ZERO), wall, (stream, seq), message, out);
            }
            Input::RelayBegins(stream, greeting, heard_age, heartbeat_age) => {
                self.relay_begins(now, wall, (stream, *greeting), (heard_age, heartbeat_age), out);
            }
            Input::Relayed(stream, seq, message, age) => {
                self.message((now, age), wall, (stream, seq), message, out);
            }
            Input::Bye(stream) => self.bye(stream, out),
            Input::Adopt(adoption) => self.adopt(now, wall, adoption, out),
            Input::Tick => {}
        }
        self.check_deadlines(now, wall, out);
        self.release(now, wall, out);
        if now >= self.tell_at {
            let some = (0..AGENTS_TOLD_MAX).map_while(|_| self.untold.pop_first());
            out.extend(some.map(Effect::Agent));
        }
        self.stepped = now;
    }

    fn forgive_own_pause(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let late = now.since(self.stepped);
        if late < self.pause_min() {
            return;
        }
        for agent in self.agents.iter_mut() {
            agent.heard = (agent.heard + late).min(now);
            agent.heartbeat_at = (agent.heartbeat_at + late).min(now);
            for member in agent.members.iter_mut() {
                member.progress = (member.progress + late).min(now);
            }
        }
        self.brake.paused(late);
        out.push(Effect::Paused(late));
    }
}

impl AgentState {
    fn adopted(name: AgentId, now: Mono) -> Self {
        Self {
            name,
            version: 0,
            order: None,
            greeting: None,
            heard: now,
            heartbeat_at: now,
            watched: false,
            silent: false,
            connected: WallMs::default(),
            clock: ClockOffset::default(),
            complete: false,
            members: Members::default(),
            stream: None,
            streams_open: 0,
            granted: 0,
            snapshot: None,
            rival: None,
        }
    }
}

impl AgentState {
    /// True if it is known from ZooKeeper only, where all of its instances are silent: nobody heard it for long.
    fn is_long_silent(&self) -> bool {
        let is_silent = |member: &Member| member.reason == Reason::AgentSilent;
        self.order.is_none() && self.members.iter().all(is_silent)
    }
}

impl InstanceState {
    /// The newest verdict of the agent.
    fn reported(&self) -> &Verdict {
        self.overruled.as_deref().unwrap_or(&self.status.verdict)
    }
}

fn is_collector_verdict(reason: Reason) -> bool {
    matches!(reason, Reason::AgentSilent | Reason::ProbeStalled)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_brake;
#[cfg(test)]
mod tests_leader_takeover;
#[cfg(test)]
mod tests_relaying;
#[cfg(test)]
mod tests_shared_id;
#[cfg(test)]
mod tests_times;
