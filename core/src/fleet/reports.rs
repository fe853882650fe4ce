//! Applies the reports of an agent: a single one, a whole snapshot, and the removal of an instance.

use std::{collections::BTreeSet, sync::Arc};

use super::{CONFLICTS_MAX, Effect, Fleet, FreshnessLimit, InstanceState, Member, Report, Snapshot};
use crate::{
    fleet::message_order::Origin,
    ids::{AgentId, InstanceId},
    limits::{AGENT_INSTANCES_MAX, FLEET_INSTANCES_MAX},
    status::{Reason, Status, Verdict},
    time::{Mono, WallMs},
};

impl Fleet {
    pub(super) fn snapshot(
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
        agent.version += u64::from(!agent.complete);
        agent.complete = true;
        agent.members.shrink();
        let ids = agent.members.iter().map(|member| &member.id);
        let missing: Vec<_> = ids
            .filter(|id| !snapshot.mentioned.contains(*id))
            .cloned()
            .collect();
        for id in missing {
            self.remove(name, &id, snapshot.first, out);
        }
    }

    pub(super) fn report(
        &mut self,
        now: Mono,
        wall: WallMs,
        (stream, name, origin): (u64, &AgentId, Origin),
        mut report: Report,
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
                && !self.brake.holds(owner)
            {
                if self.conflicts.len() < CONFLICTS_MAX {
                    self.conflicts.insert(id.clone(), stream);
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
        let found = agent.members.find(report.handle, &id);
        if found.is_none() {
            if agent.members.len() >= AGENT_INSTANCES_MAX {
                out.push(Effect::Full(stream, "too many instances for one agent"));
                return;
            }
            if self.instances.len() >= FLEET_INSTANCES_MAX {
                out.push(Effect::Full(stream, "too many instances"));
                return;
            }
        }
        let known = self.instances.get(&id);
        if let Some(known) = known {
            count_restarts(&mut report.verdict, known.reported());
        }
        agent
            .clock
            .settle(&mut report.verdict, known.map(InstanceState::reported));
        // A new boot starts with "not probed": what is known stays until the agent has probed.
        let keep = report.verdict.reason == Reason::NotProbed;
        let (mut owner, mut told) = (None, true);
        let reason = match self.instances.get_mut(&id) {
            None => {
                let status = Arc::new(Status {
                    identity: report.identity,
                    agent: name.clone(),
                    verdict: report.verdict,
                });
                let reason = status.verdict.reason;
                let state = InstanceState {
                    status,
                    overruled: None,
                    origin,
                };
                self.instances.insert(id.clone(), state);
                reason
            }
            Some(known) => {
                let status = &known.status;
                owner = Some(status.agent.clone()).filter(|owner| owner != name);
                told = owner.is_some() || status.identity != report.identity;
                if told {
                    known.status = Arc::new(Status {
                        identity: report.identity,
                        agent: name.clone(),
                        verdict: status.verdict.clone(),
                    });
                }
                if !keep {
                    known.overruled = Some(Box::new(report.verdict));
                }
                known.origin = origin;
                known.status.verdict.reason
            }
        };
        let mut moved = false;
        let taken = owner.and_then(|owner| self.taken_from(&owner, &id, out));
        if let Some(agent) = self.agents.get_mut(name) {
            let known = found.and_then(|(place, _)| agent.members.at_mut(place));
            let before = taken.as_ref().or(known.as_deref()).map(|member| member.progress);
            let progress = match (report.probe_age, before) {
                (Some(age), Some(before)) => before.max(now.before(age)),
                (Some(age), None) => now.before(age),
                // Without a completed round the progress stays as it was.
                (None, Some(before)) => before,
                (None, None) => now,
            };
            let freshness_limit = FreshnessLimit::of(report.freshness_limit);
            match known {
                Some(member) => {
                    moved = member.freshness_limit != freshness_limit;
                    (member.progress, member.freshness_limit, member.reason) =
                        (progress, freshness_limit, reason);
                }
                None => agent.members.put(Member {
                    id: id.clone(),
                    progress,
                    freshness_limit,
                    reason,
                }),
            }
            agent.version += u64::from(moved);
            if !found.is_some_and(|(_, named)| named) {
                agent.members.bind_handle(report.handle, &id);
            }
        }
        if told {
            out.push(Effect::Changed(id.clone()));
        }
        self.settle(wall, &id, false, out);
    }

    /// Removes an instance from its former owner; a silent agent without instances is then forgotten.
    fn taken_from(&mut self, owner: &AgentId, id: &InstanceId, out: &mut Vec<Effect>) -> Option<Member> {
        let place = self.agents.key(owner)?;
        let agent = self.agents.at_mut(place)?;
        let member = agent.members.remove(id);
        if agent.silent && agent.members.is_empty() {
            self.agents.remove(owner);
            out.push(Effect::Forgotten(place));
        } else {
            out.push(Effect::Agent(place));
        }
        member
    }

    /// Applies a report whose verdict is not news, perhaps because it came from ZooKeeper first. It still says which
    /// handle the instance has, and how fresh its probe is.
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
            agent.members.bind_handle(report.handle, id);
            if let (Some(age), Some(member)) = (report.probe_age, agent.members.get_mut(id)) {
                member.progress = member.progress.max(now.before(age));
                let limit = FreshnessLimit::of(report.freshness_limit);
                let before = std::mem::replace(&mut member.freshness_limit, limit);
                agent.version += u64::from(before != limit);
            }
        }
        self.settle(wall, id, false, out);
    }

    pub(super) fn remove(&mut self, name: &AgentId, id: &InstanceId, origin: Origin, out: &mut Vec<Effect>) {
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

/// Continues the remembered count of restarts, because an agent counts from its own start. Its own count is exact in
/// its first boot; later, each other run_id is one more restart.
fn count_restarts(verdict: &mut Verdict, former: &Verdict) {
    let known = !verdict.run_id.is_empty() && !former.run_id.is_empty();
    let seen = u32::from(known && verdict.run_id != former.run_id);
    verdict.restarts = verdict.restarts.max(former.restarts.saturating_add(seen));
}
