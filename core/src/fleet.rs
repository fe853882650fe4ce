//! What a collector knows of all instances: the newest verdict of each, and whether it is still fresh.
//!
//! Silence is never DOWN: an agent that is not heard makes its instances UNKNOWN/AGENT_SILENT, an instance
//! whose probe does not progress becomes UNKNOWN/PROBE_STALLED. All deadlines are of this process's
//! monotonic clock, and time during which this process slept is held against nobody.
//!
//! For each instance the report with the highest sequence of the newest boot wins, so reports of one boot
//! may come in any order, any number of times and by any path.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    dedupe::{Arrival, Order},
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    limits::{AGENT_INSTANCES_MAX, AGENTS_MAX, EVIDENCE_BYTES_MAX, FLEET_INSTANCES_MAX},
    status::{Reason, Status, Verdict, cut},
    time::{Mono, WallMs},
};

pub use messages::{Effect, Greeting, Input, Message, Report};

mod messages;

/// A gap between two steps that means that this process slept. The shell promises a step every
/// [`STEP_INTERVAL_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest time between two steps that the shell allows.
pub const STEP_INTERVAL_MAX: Duration = Duration::from_millis(250);

/// Conflicts that are remembered: a mistake of configuration, so a few; beyond, the loser waits for its next
/// reconnection.
const CONTESTED_MAX: usize = 1_024;

const _: () = assert!(STEP_INTERVAL_MAX.as_millis() * 2 < PAUSE_MIN.as_millis());

/// An agent as the fleet sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentState {
    /// Order of its messages; `None` where it is known from ZooKeeper only.
    pub order: Option<Order>,
    /// Its version and host, for people.
    pub greeting: Option<Greeting>,
    /// When it was last heard, or adopted.
    pub heard: Mono,
    /// Nothing heard for `silent_after`.
    pub silent: bool,
    /// When its present stream began.
    pub connected: WallMs,
    /// A full snapshot of the present boot was heard: what it did not mention is gone.
    pub complete: bool,
    handles: BTreeMap<Handle, InstanceId>,
    instances: BTreeSet<InstanceId>,
    stream: u64,
    snapshot: Option<Snapshot>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Snapshot {
    first: Seq,
    mentioned: BTreeSet<InstanceId>,
}

impl AgentState {
    /// Its instances.
    pub fn instances(&self) -> &BTreeSet<InstanceId> {
        &self.instances
    }
}

/// An instance as the fleet holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceState {
    /// The status in force.
    pub status: Arc<Status>,
    reported: Verdict,
    seq: Seq,
    /// Last completed probe round.
    pub progress: Mono,
    freshness_limit: Duration,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Watched {
    Agent(AgentId),
    Instance(InstanceId),
}

/// All that is known. Owned by one task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fleet {
    silent_after: Duration,
    agents: BTreeMap<AgentId, AgentState>,
    instances: BTreeMap<InstanceId, InstanceState>,
    /// When to look again. An entry may be early (the deadline moved on since), never late.
    deadlines: BTreeSet<(Mono, Watched)>,
    /// Streams whose report of an instance lost against its owner.
    contested: BTreeMap<InstanceId, u64>,
    stepped: Mono,
}

impl Fleet {
    /// An empty fleet.
    pub fn new(now: Mono, silent_after: Duration) -> Self {
        Self {
            silent_after,
            agents: BTreeMap::new(),
            instances: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            contested: BTreeMap::new(),
            stepped: now,
        }
    }

    /// One instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&InstanceState> {
        self.instances.get(id)
    }

    /// All agents.
    pub fn agents(&self) -> &BTreeMap<AgentId, AgentState> {
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

    /// When [`step`](Self::step) must be called with [`Input::Tick`] at the latest.
    pub fn next_deadline(&self) -> Mono {
        let regular = self.stepped + STEP_INTERVAL_MAX;
        self.deadlines.first().map_or(regular, |(at, _)| regular.min(*at))
    }

    /// Takes an input at `now`; `wall` is only copied into statuses.
    pub fn step(&mut self, now: Mono, wall: WallMs, input: Input, out: &mut Vec<Effect>) {
        self.forgive_own_pause(now, out);
        match input {
            Input::Hello(stream, greeting) => self.hello(now, wall, stream, greeting, out),
            Input::Message(stream, agent, boot, seq, message) => {
                self.message(now, wall, (stream, &agent, &boot, seq), message, out);
            }
            Input::Adopt(statuses) => self.adopt(now, wall, statuses, out),
            Input::Tick => {}
        }
        self.check_deadlines(now, wall, out);
        self.stepped = now;
    }

    fn forgive_own_pause(&mut self, now: Mono, out: &mut Vec<Effect>) {
        let late = now.since(self.stepped);
        if late < PAUSE_MIN {
            return;
        }
        for agent in self.agents.values_mut() {
            agent.heard = (agent.heard + late).min(now);
        }
        for instance in self.instances.values_mut() {
            instance.progress = (instance.progress + late).min(now);
        }
        out.push(Effect::Paused(late));
    }

    fn hello(&mut self, now: Mono, wall: WallMs, stream: u64, greeting: Greeting, out: &mut Vec<Effect>) {
        if !self.agents.contains_key(&greeting.agent) && self.agents.len() >= AGENTS_MAX {
            out.push(Effect::Full(stream, "too many agents"));
            return;
        }
        let name = greeting.agent.clone();
        let agent = self
            .agents
            .entry(name.clone())
            .or_insert_with(|| AgentState::adopted(now));
        let order = agent
            .order
            .get_or_insert_with(|| Order::new(greeting.boot.clone()));
        if !order.hello(&greeting.boot) {
            out.push(Effect::Superseded(stream));
            return;
        }
        let fresh_boot = order.highest() == Seq(0);
        if fresh_boot {
            agent.complete = false;
            agent.handles.clear();
            for id in &agent.instances {
                if let Some(instance) = self.instances.get_mut(id) {
                    instance.seq = Seq(0);
                }
            }
        }
        agent.greeting = Some(greeting);
        agent.stream = stream;
        agent.connected = wall;
        agent.snapshot = None;
        self.heard(now, &name);
        out.push(Effect::Agent(name));
    }

    fn heard(&mut self, now: Mono, name: &AgentId) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.heard = agent.heard.max(now);
            agent.silent = false;
            self.deadlines
                .insert((agent.heard + self.silent_after, Watched::Agent(name.clone())));
        }
    }

    fn message(
        &mut self,
        now: Mono,
        wall: WallMs,
        (stream, name, boot, seq): (u64, &AgentId, &BootId, Seq),
        message: Message,
        out: &mut Vec<Effect>,
    ) {
        let Some(order) = self.agents.get_mut(name).and_then(|agent| agent.order.as_mut()) else {
            out.push(Effect::Superseded(stream));
            return;
        };
        let arrival = order.arrive(boot, seq);
        out.push(Effect::Arrived(arrival));
        match arrival {
            Arrival::Retired => {
                out.push(Effect::Superseded(stream));
                return;
            }
            Arrival::News => self.heard(now, name),
            Arrival::Late => {}
        }
        match message {
            Message::Snapshot(reports, last) => {
                self.snapshot(now, wall, (stream, name, seq), reports, last, out)
            }
            Message::Changes(reports) => {
                for report in reports {
                    self.report(now, wall, (stream, name, seq), report, out);
                }
            }
            Message::Heartbeat(ages) if arrival == Arrival::News => self.heartbeat(now, name, &ages, out),
            Message::Heartbeat(_) => {}
            Message::Gone(handles) => {
                for handle in handles {
                    let id = self
                        .agents
                        .get_mut(name)
                        .and_then(|agent| agent.handles.remove(&handle));
                    if let Some(id) = id {
                        self.remove(name, &id, seq, out);
                    }
                }
            }
        }
        out.push(Effect::Agent(name.clone()));
    }

    fn snapshot(
        &mut self,
        now: Mono,
        wall: WallMs,
        (stream, name, seq): (u64, &AgentId, Seq),
        reports: Vec<Report>,
        last: bool,
        out: &mut Vec<Effect>,
    ) {
        let ids: Vec<_> = reports.iter().map(|report| report.identity.id.clone()).collect();
        for report in reports {
            self.report(now, wall, (stream, name, seq), report, out);
        }
        let Some(agent) = self.agents.get_mut(name).filter(|agent| agent.stream == stream) else {
            return;
        };
        let snapshot = agent.snapshot.get_or_insert_with(|| Snapshot {
            first: seq,
            mentioned: BTreeSet::new(),
        });
        snapshot.mentioned.extend(ids);
        if !last {
            return;
        }
        let Some(snapshot) = agent.snapshot.take() else {
            return;
        };
        agent.complete = true;
        agent.complete = true;
        let missing: Vec<_> = agent.instances.difference(&snapshot.mentioned).cloned().collect();
        for id in missing {
            self.remove(name, &id, snapshot.first, out);
        }
    }

    fn report(
        &mut self,
        now: Mono,
        wall: WallMs,
        (stream, name, seq): (u64, &AgentId, Seq),
        report: Report,
        out: &mut Vec<Effect>,
    ) {
        let id = report.identity.id.clone();
        if let Some(present) = self.instances.get(&id) {
            let owner = &present.status.agent;
            if owner != name
                && self
                    .agents
                    .get(owner)
                    .is_some_and(|a| !a.silent && a.order.is_some())
            {
                if self.contested.len() < CONTESTED_MAX {
                    self.contested.insert(id.clone(), stream);
                }
                out.push(Effect::Conflict(id, name.clone()));
                return;
            }
            if owner == name && present.seq >= seq {
                return;
            }
        }
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        if !agent.instances.contains(&id) {
            if agent.instances.len() >= AGENT_INSTANCES_MAX {
                out.push(Effect::Full(stream, "too many instances for one agent"));
                return;
            }
            if self.instances.len() >= FLEET_INSTANCES_MAX {
                out.push(Effect::Full(stream, "too many instances"));
                return;
            }
            agent.instances.insert(id.clone());
        }
        agent.handles.insert(report.handle, id.clone());
        let former = self.instances.get(&id);
        if let Some(former) = former.filter(|former| former.status.agent != *name) {
            let owner = former.status.agent.clone();
            if let Some(agent) = self.agents.get_mut(&owner) {
                agent.instances.remove(&id);
                agent.handles.retain(|_, other| *other != id);
            }
        }
        // A new boot starts with "not probed": what is known stays until it has seen something.
        let keep = report.verdict.reason == Reason::NotProbed && former.is_some();
        let reported = match former {
            Some(former) if keep => former.reported.clone(),
            _ => report.verdict,
        };
        let status = former.map_or_else(
            || {
                Arc::new(Status {
                    identity: report.identity.clone(),
                    agent: name.clone(),
                    verdict: reported.clone(),
                })
            },
            |former| former.status.clone(),
        );
        let is_new = former.is_none();
        let identity_changed = status.identity != report.identity || status.agent != *name;
        let progress = match (report.probe_age, former) {
            (Some(age), Some(former)) => former.progress.max(now.before(age)),
            (Some(age), None) => now.before(age),
            // Without a completed round nothing became fresher.
            (None, Some(former)) => former.progress,
            (None, None) => now,
        };
        let state = InstanceState {
            status,
            reported,
            seq,
            progress,
            freshness_limit: report.freshness_limit,
        };
        self.deadlines
            .insert((progress + report.freshness_limit, Watched::Instance(id.clone())));
        self.instances.insert(id.clone(), state);
        if is_new || identity_changed {
            if let Some(instance) = self.instances.get_mut(&id) {
                let verdict = instance.status.verdict.clone();
                instance.status = Arc::new(Status {
                    identity: report.identity,
                    agent: name.clone(),
                    verdict,
                });
            }
            out.push(Effect::Changed(id.clone()));
        }
        self.settle(now, wall, &id, out);
    }

    fn heartbeat(&mut self, now: Mono, name: &AgentId, ages: &[(Handle, Duration)], out: &mut Vec<Effect>) {
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        let mut revived = Vec::new();
        for (handle, age) in ages {
            let Some(id) = agent.handles.get(handle) else {
                continue;
            };
            let Some(instance) = self.instances.get_mut(id) else {
                continue;
            };
            instance.progress = instance.progress.max(now.before(*age));
            if is_collectors_own(instance.status.verdict.reason) {
                revived.push(id.clone());
            }
        }
        for id in revived {
            self.settle(now, WallMs::default(), &id, out);
        }
    }

    fn remove(&mut self, name: &AgentId, id: &InstanceId, seq: Seq, out: &mut Vec<Effect>) {
        let gone = self
            .instances
            .get(id)
            .is_some_and(|i| i.status.agent == *name && i.seq < seq);
        if let Some(agent) = self.agents.get_mut(name).filter(|_| gone) {
            agent.instances.remove(id);
            agent.handles.retain(|_, other| other != id);
            self.instances.remove(id);
            out.push(Effect::Removed(id.clone()));
            self.uncontest(id, out);
        }
    }

    fn adopt(&mut self, now: Mono, wall: WallMs, statuses: Vec<Status>, out: &mut Vec<Effect>) {
        for status in statuses {
            let id = status.identity.id.clone();
            if self.instances.contains_key(&id) {
                self.adopt_known(now, wall, &id, status, out);
                continue;
            }
            // The agent has said since its start what it has, and this is not among it.
            if self.agents.get(&status.agent).is_some_and(|agent| agent.complete) {
                continue;
            }
            if self.instances.len() >= FLEET_INSTANCES_MAX {
                continue;
            }
            let name = status.agent.clone();
            let agent = self
                .agents
                .entry(name.clone())
                .or_insert_with(|| AgentState::adopted(now));
            agent.instances.insert(id.clone());
            self.deadlines
                .insert((agent.heard + self.silent_after, Watched::Agent(name)));
            let state = InstanceState {
                reported: status.verdict.clone(),
                status: Arc::new(status),
                seq: Seq(0),
                progress: now,
                freshness_limit: self.silent_after,
            };
            self.deadlines
                .insert((now + self.silent_after, Watched::Instance(id.clone())));
            self.instances.insert(id.clone(), state);
            out.push(Effect::Changed(id));
        }
    }

    /// A published verdict of an instance that is known already. It is news where this collector does not hear
    /// the agent (the former leader may have), which then gets a full grace period, and where nothing was
    /// probed yet. The collectors' own UNKNOWN is never news.
    fn adopt_known(
        &mut self,
        now: Mono,
        wall: WallMs,
        id: &InstanceId,
        status: Status,
        out: &mut Vec<Effect>,
    ) {
        let Some(known) = self.instances.get_mut(id) else {
            return;
        };
        if is_collectors_own(status.verdict.reason) || status.verdict.reason == Reason::NotProbed {
            return;
        }
        let name = known.status.agent.clone();
        let unheard = self
            .agents
            .get_mut(&name)
            .filter(|agent| agent.silent || agent.order.is_none());
        if let Some(agent) = unheard {
            (agent.heard, agent.silent) = (now, false);
            known.progress = now;
            known.freshness_limit = known.freshness_limit.max(self.silent_after);
            self.deadlines
                .insert((now + self.silent_after, Watched::Agent(name)));
            self.deadlines
                .insert((now + known.freshness_limit, Watched::Instance(id.clone())));
        } else if known.reported.reason != Reason::NotProbed {
            return;
        }
        known.reported = status.verdict;
        self.settle(now, wall, id, out);
    }

    fn check_deadlines(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        while let Some((at, _)) = self.deadlines.first() {
            if *at > now {
                break;
            }
            let Some((_, watched)) = self.deadlines.pop_first() else {
                break;
            };
            match watched {
                Watched::Agent(name) => self.check_agent(now, wall, &name, out),
                Watched::Instance(id) => self.check_instance(now, wall, &id, out),
            }
        }
    }

    fn check_agent(&mut self, now: Mono, wall: WallMs, name: &AgentId, out: &mut Vec<Effect>) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        let due = agent.heard + self.silent_after;
        if due > now {
            self.deadlines.insert((due, Watched::Agent(name.clone())));
            return;
        }
        if agent.silent {
            return;
        }
        agent.silent = true;
        let ids: Vec<_> = agent.instances.iter().cloned().collect();
        if ids.is_empty() {
            self.agents.remove(name);
        }
        out.push(Effect::Agent(name.clone()));
        for id in ids {
            self.settle(now, wall, &id, out);
            self.uncontest(&id, out);
        }
    }

    fn uncontest(&mut self, id: &InstanceId, out: &mut Vec<Effect>) {
        if let Some(stream) = self.contested.remove(id) {
            out.push(Effect::Resend(stream));
        }
    }

    fn check_instance(&mut self, now: Mono, wall: WallMs, id: &InstanceId, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get(id) else {
            return;
        };
        let due = instance.progress + instance.freshness_limit;
        if due > now {
            self.deadlines.insert((due, Watched::Instance(id.clone())));
        } else {
            self.settle(now, wall, id, out);
        }
    }

    /// Brings the status in force in line with the newest report, the agent's silence and the progress.
    fn settle(&mut self, now: Mono, wall: WallMs, id: &InstanceId, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let present = &instance.status.verdict;
        let silent = self
            .agents
            .get(&instance.status.agent)
            .is_none_or(|agent| agent.silent);
        let fresh = instance.progress + instance.freshness_limit > now;
        let reason = if silent {
            Some(Reason::AgentSilent)
        } else if fresh {
            None
        } else if present.reason == Reason::AgentSilent {
            // The agent is back, but not yet with progress of this instance.
            return;
        } else {
            Some(Reason::ProbeStalled)
        };
        let verdict = match reason {
            Some(reason) if present.reason == reason => return,
            Some(reason) => {
                let agent = &instance.status.agent;
                let text = if reason == Reason::AgentSilent {
                    format!("agent {agent} has not been heard for {:?}", self.silent_after)
                } else {
                    format!(
                        "agent {agent} completed no probe for {:?}",
                        instance.freshness_limit
                    )
                };
                let mut verdict = instance.reported.clone();
                verdict.reason = reason;
                verdict.since = wall;
                verdict.evidence = cut(&text, EVIDENCE_BYTES_MAX).into();
                verdict
            }
            None => instance.reported.clone(),
        };
        if !fresh || reason.is_some() {
            // Nothing more to wait for until progress comes, which settles again.
        } else {
            self.deadlines.insert((
                instance.progress + instance.freshness_limit,
                Watched::Instance(id.clone()),
            ));
        }
        if verdict != *present {
            let status = &instance.status;
            instance.status = Arc::new(Status {
                identity: status.identity.clone(),
                agent: status.agent.clone(),
                verdict,
            });
            if !matches!(out.last(), Some(Effect::Changed(last)) if last == id) {
                out.push(Effect::Changed(id.clone()));
            }
        }
    }
}

impl AgentState {
    fn adopted(now: Mono) -> Self {
        Self {
            order: None,
            greeting: None,
            heard: now,
            silent: false,
            connected: WallMs::default(),
            complete: false,
            handles: BTreeMap::new(),
            instances: BTreeSet::new(),
            stream: 0,
            snapshot: None,
        }
    }
}

fn is_collectors_own(reason: Reason) -> bool {
    matches!(reason, Reason::AgentSilent | Reason::ProbeStalled)
}

#[cfg(test)]
mod tests;
