//! What an agent's messages change.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    AgentState, CONTESTED_MAX, Effect, Fleet, Greeting, InstanceState, Member, Message, Report, Snapshot,
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
        let (name, silent_after) = (greeting.agent.clone(), self.silent_after);
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
            agent.members.forget_handles();
        }
        agent.greeting = Some(greeting);
        agent.stream = Some(stream);
        agent.connected = wall;
        agent.snapshot = None;
        agent.beat = now;
        agent.heard(now, silent_after, &name, &mut self.deadlines);
        out.push(Effect::Agent(name));
    }

    pub(super) fn bye(&mut self, stream: u64) {
        let mut agents = self.agents.values_mut();
        if let Some(agent) = agents.find(|agent| agent.stream == Some(stream)) {
            agent.stream = None;
            agent.snapshot = None;
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
        let silent_after = self.silent_after;
        let arrived = self.agents.get_mut(name).and_then(|agent| {
            let arrival = agent.order.as_mut()?.arrive(boot, seq);
            Some((agent, arrival))
        });
        let Some((agent, arrival)) = arrived else {
            out.push(Effect::Superseded(stream));
            return;
        };
        out.push(Effect::Arrived(arrival));
        match arrival {
            Arrival::Retired => {
                out.push(Effect::Superseded(stream));
                return;
            }
            Arrival::News => agent.heard(now, silent_after, name, &mut self.deadlines),
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
                for id in agent.heartbeat(now, &ages) {
                    self.settle(wall, &id, true, out);
                }
            }
            Message::Heartbeat(_) => {}
            Message::Gone(handles) => {
                for handle in handles {
                    let agent = self.agents.get_mut(name);
                    let id = agent.and_then(|agent| agent.members.take_handle(handle));
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
        let ids = agent.members.iter().map(|member| &member.id);
        let missing: Vec<_> = ids
            .filter(|id| !snapshot.mentioned.contains(*id))
            .cloned()
            .collect();
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
        let Some(agent) = self.agents.get(name) else {
            return;
        };
        if agent.members.get(&id).is_none() {
            if agent.members.len() >= AGENT_INSTANCES_MAX {
                out.push(Effect::Full(stream, "too many instances for one agent"));
                return;
            }
            if self.instances.len() >= FLEET_INSTANCES_MAX {
                out.push(Effect::Full(stream, "too many instances"));
                return;
            }
        }
        let former = self.instances.remove(&id);
        let owner = former.as_ref().map(|former| &former.status.agent);
        let member = owner.and_then(|owner| {
            let members = &mut self.agents.get_mut(owner)?.members;
            if owner == name {
                members.get(&id).cloned()
            } else {
                members.remove(&id)
            }
        });
        let progress = match (report.probe_age, &member) {
            (Some(age), Some(member)) => member.progress.max(now.before(age)),
            (Some(age), None) => now.before(age),
            // Without a completed round nothing became fresher.
            (None, Some(member)) => member.progress,
            (None, None) => now,
        };
        // A new boot starts with "not probed": what is known stays until it has seen something.
        let keep = report.verdict.reason == Reason::NotProbed;
        let changed = |status: &Status| status.identity != report.identity || status.agent != *name;
        let told = former.as_ref().is_none_or(|former| changed(&former.status));
        let state = match former {
            None => InstanceState {
                status: Arc::new(Status {
                    identity: report.identity,
                    agent: name.clone(),
                    verdict: report.verdict,
                }),
                overruled: None,
                origin,
            },
            Some(mut former) => {
                if !keep {
                    former.overruled = Some(Box::new(report.verdict));
                }
                if told {
                    former.status = Arc::new(Status {
                        identity: report.identity,
                        agent: name.clone(),
                        verdict: former.status.verdict.clone(),
                    });
                }
                former.origin = origin;
                former
            }
        };
        let member = Member {
            id: id.clone(),
            progress,
            freshness_limit: report.freshness_limit,
            reason: state.status.verdict.reason,
        };
        if let Some(agent) = self.agents.get_mut(name) {
            agent.members.put(member);
            agent.members.name(report.handle, &id);
        }
        self.instances.insert(id.clone(), state);
        if told {
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
            agent.members.name(report.handle, id);
            if let (Some(age), Some(member)) = (report.probe_age, agent.members.get_mut(id)) {
                member.progress = member.progress.max(now.before(age));
                member.freshness_limit = report.freshness_limit;
            }
        }
        self.settle(wall, id, false, out);
    }

    fn remove(&mut self, name: &AgentId, id: &InstanceId, origin: Origin, out: &mut Vec<Effect>) {
        let gone = self
            .instances
            .get(id)
            .is_some_and(|i| i.status.agent == *name && !origin.is_superseded_by(i.origin));
        if let Some(agent) = self.agents.get_mut(name).filter(|_| gone) {
            agent.members.remove(id);
            self.instances.remove(id);
            out.push(Effect::Removed(id.clone()));
            self.uncontest(id, out);
        }
    }
}

impl AgentState {
    fn heard(
        &mut self,
        now: Mono,
        silent_after: Duration,
        name: &AgentId,
        deadlines: &mut BTreeSet<(Mono, AgentId)>,
    ) {
        self.heard = self.heard.max(now);
        self.silent = false;
        self.watch(silent_after, name, deadlines);
    }

    /// Takes what was probed; tells whose status is no longer what progress says.
    fn heartbeat(&mut self, now: Mono, ages: &[(Handle, Duration)]) -> Vec<InstanceId> {
        self.beat = now;
        for (handle, age) in ages {
            if let Some(member) = self.members.by_handle(*handle) {
                member.progress = member.progress.max(now.before(*age));
            }
        }
        let turned = |member: &&Member| {
            if member.is_fresh(now) {
                is_collectors_own(member.reason)
            } else {
                member.reason != Reason::ProbeStalled
            }
        };
        let turned = self.members.iter().filter(turned);
        turned.map(|member| member.id.clone()).collect()
    }
}
