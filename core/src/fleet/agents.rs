//! What an agent's messages change.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    AgentState, CONTESTED_MAX, Effect, Fleet, Greeting, InstanceState, Message, Report, Snapshot,
    is_collectors_own,
};
use crate::{
    dedupe::{Arrival, Order, Origin},
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    limits::{AGENT_INSTANCES_MAX, AGENTS_MAX, FLEET_INSTANCES_MAX},
    status::{Reason, Status},
    time::{Mono, WallMs},
};

impl Fleet {
    pub(super) fn hello(
        &mut self,
        now: Mono,
        wall: WallMs,
        stream: u64,
        greeting: Greeting,
        out: &mut Vec<Effect>,
    ) {
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
        }
        agent.greeting = Some(greeting);
        agent.stream = Some(stream);
        agent.connected = wall;
        agent.snapshot = None;
        agent.beat = now;
        self.heard(now, &name);
        out.push(Effect::Agent(name));
    }

    pub(super) fn bye(&mut self, stream: u64) {
        let mut agents = self.agents.values_mut();
        if let Some(agent) = agents.find(|agent| agent.stream == Some(stream)) {
            agent.stream = None;
            agent.snapshot = None;
        }
    }

    fn heard(&mut self, now: Mono, name: &AgentId) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.heard = agent.heard.max(now);
            agent.silent = false;
            self.watch(name);
        }
    }

    pub(super) fn message(
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
        let origin = Origin {
            boot: boot.tag(),
            seq,
        };
        match message {
            Message::Snapshot(reports, last) => {
                self.snapshot(now, wall, (stream, name, origin), reports, last, out)
            }
            Message::Changes(reports) => {
                for report in reports {
                    self.report(now, wall, (stream, name, origin), report, out);
                }
            }
            Message::Heartbeat(ages) if arrival == Arrival::News => {
                self.heartbeat(now, wall, name, &ages, out)
            }
            Message::Heartbeat(_) => {}
            Message::Gone(handles) => {
                for handle in handles {
                    let id = self
                        .agents
                        .get_mut(name)
                        .and_then(|agent| agent.handles.remove(&handle));
                    if let Some(id) = id {
                        self.remove(name, &id, origin, out);
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
        (stream, name, origin): (u64, &AgentId, Origin),
        reports: Vec<Report>,
        last: bool,
        out: &mut Vec<Effect>,
    ) {
        let ids: Vec<_> = reports.iter().map(|report| report.identity.id.clone()).collect();
        for report in reports {
            self.report(now, wall, (stream, name, origin), report, out);
        }
        let Some(agent) = self
            .agents
            .get_mut(name)
            .filter(|agent| agent.stream == Some(stream))
        else {
            return;
        };
        let snapshot = agent.snapshot.get_or_insert_with(|| Snapshot {
            first: origin,
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
        let missing: Vec<_> = agent.instances.difference(&snapshot.mentioned).cloned().collect();
        for id in missing {
            self.remove(name, &id, snapshot.first, out);
        }
    }

    fn report(
        &mut self,
        now: Mono,
        wall: WallMs,
        (stream, name, origin): (u64, &AgentId, Origin),
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
            if owner == name && origin.is_superseded_by(present.origin) {
                self.superseded(now, wall, name, &report, out);
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
            origin,
            progress,
            freshness_limit: report.freshness_limit,
        };
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
        self.settle(wall, &id, false, out);
    }

    /// A report whose verdict is not news, perhaps because it came from ZooKeeper first, still tells under which
    /// handle the instance will be mentioned, and how fresh its probe is.
    fn superseded(
        &mut self,
        now: Mono,
        wall: WallMs,
        name: &AgentId,
        report: &Report,
        out: &mut Vec<Effect>,
    ) {
        let id = &report.identity.id;
        if let Some(agent) = self.agents.get_mut(name) {
            agent.handles.insert(report.handle, id.clone());
        }
        if let (Some(age), Some(instance)) = (report.probe_age, self.instances.get_mut(id)) {
            instance.progress = instance.progress.max(now.before(age));
            instance.freshness_limit = report.freshness_limit;
        }
        self.settle(wall, id, false, out);
    }

    fn heartbeat(
        &mut self,
        now: Mono,
        wall: WallMs,
        name: &AgentId,
        ages: &[(Handle, Duration)],
        out: &mut Vec<Effect>,
    ) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.beat = now;
        for (handle, age) in ages {
            let instance = agent
                .handles
                .get(handle)
                .and_then(|id| self.instances.get_mut(id));
            if let Some(instance) = instance {
                instance.progress = instance.progress.max(now.before(*age));
            }
        }
        let turned = |id: &&InstanceId| {
            self.instances.get(id).is_some_and(|instance| {
                let reason = instance.status.verdict.reason;
                if instance.is_fresh(now) {
                    is_collectors_own(reason)
                } else {
                    reason != Reason::ProbeStalled
                }
            })
        };
        let turned: Vec<_> = agent.instances.iter().filter(turned).cloned().collect();
        for id in turned {
            self.settle(wall, &id, true, out);
        }
    }

    fn remove(&mut self, name: &AgentId, id: &InstanceId, origin: Origin, out: &mut Vec<Effect>) {
        let gone = self
            .instances
            .get(id)
            .is_some_and(|i| i.status.agent == *name && !origin.is_superseded_by(i.origin));
        if let Some(agent) = self.agents.get_mut(name).filter(|_| gone) {
            agent.instances.remove(id);
            agent.handles.retain(|_, other| other != id);
            self.instances.remove(id);
            out.push(Effect::Removed(id.clone()));
            self.uncontest(id, out);
        }
    }
}
