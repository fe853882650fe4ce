//! Handles the passage of time: silent agents, stalled probes, and the status in force.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{AgentState, Effect, Fleet};
use crate::{
    ids::{AgentId, InstanceId},
    limits::EVIDENCE_BYTES_MAX,
    status::{Reason, Status, cut},
    time::{Mono, WallMs},
};

/// Instances that one step makes silent, of one agent more at most: a step takes some milliseconds, and the next one
/// follows at once.
const SETTLED_MAX: usize = 2_000;

/// When an agent that was last heard, and whose last heartbeat was heard, at these times becomes silent if nothing more
/// is heard. Messages without heartbeats prove no progress of probes.
pub fn silent_at(heard: Mono, heartbeat_at: Mono, silent_after: Duration) -> Mono {
    (heard + silent_after).min(heartbeat_at + silent_after * 2)
}

impl AgentState {
    fn due(&self, silent_after: Duration) -> Mono {
        silent_at(self.heard, self.heartbeat_at, silent_after)
    }

    /// Whether it is to be called silent now.
    pub(super) fn is_due(&self, now: Mono, silent_after: Duration) -> bool {
        !self.silent && self.due(silent_after) <= now
    }

    /// Schedules a check of the agent, if none is scheduled.
    pub(super) fn watch(&mut self, silent_after: Duration, deadlines: &mut BTreeSet<(Mono, AgentId)>) {
        if !std::mem::replace(&mut self.watched, true) {
            deadlines.insert((self.due(silent_after), self.name.clone()));
        }
    }
}

impl Fleet {
    pub(super) fn check_deadlines(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        let mut settled = 0;
        while settled < SETTLED_MAX && self.deadlines.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, name)) = self.deadlines.pop_first() {
                settled += self.check_agent(now, wall, &name, out);
            }
        }
    }

    /// Returns the number of instances that became silent.
    fn check_agent(&mut self, now: Mono, wall: WallMs, name: &AgentId, out: &mut Vec<Effect>) -> usize {
        let silent_after = self.silent_after;
        let Some(agent) = self.agents.get_mut(name) else {
            return 0;
        };
        agent.watched = false;
        if agent.due(silent_after) > now {
            agent.watch(silent_after, &mut self.deadlines);
            return 0;
        }
        let instances = agent.members.len();
        if agent.silent || self.holds(now, name) {
            return 0;
        }
        self.silence(wall, name, out);
        instances
    }

    /// Nothing was heard of the agent for too long.
    pub(super) fn silence(&mut self, wall: WallMs, name: &AgentId, out: &mut Vec<Effect>) {
        let Some(agent) = self.agents.get_mut(name) else {
            return;
        };
        agent.silent = true;
        agent.version += 1;
        let ids: Vec<_> = agent.members.iter().map(|member| member.id.clone()).collect();
        let place = self.agents.key(name);
        if ids.is_empty() {
            self.agents.remove(name);
            out.extend(place.map(Effect::Forgotten));
        } else {
            out.extend(place.map(Effect::Agent));
        }
        for id in ids {
            self.settle(wall, &id, false, out);
            self.uncontest(&id, out);
        }
    }

    pub(super) fn uncontest(&mut self, id: &InstanceId, out: &mut Vec<Effect>) {
        if let Some(stream) = self.conflicts.remove(id) {
            out.push(Effect::Resend(stream));
        }
    }

    /// Brings the status in force in line with the newest report, the agent's silence and the progress. `beating` is
    /// true for a heartbeat.
    pub(super) fn settle(&mut self, wall: WallMs, id: &InstanceId, beating: bool, out: &mut Vec<Effect>) {
        let Some(instance) = self.instances.get_mut(id) else {
            return;
        };
        let present = &instance.status.verdict;
        let mut agent = self.agents.get_mut(&instance.status.agent);
        let silent = agent.as_ref().is_none_or(|agent| agent.silent);
        let beat = agent.as_ref().map(|agent| agent.heartbeat_at);
        let mut member = agent.as_mut().and_then(|agent| agent.members.get_mut(id));
        let limit = member.as_ref().map(|member| member.freshness_limit.get());
        let fresh = member
            .as_ref()
            .zip(beat)
            .is_some_and(|(member, beat)| member.is_fresh(beat));
        let reason = if silent {
            Some(Reason::AgentSilent)
        } else if fresh {
            None
        } else if present.reason == Reason::AgentSilent && !beating {
            // The agent is back, but its progress on this instance is not known until its first heartbeat.
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
                        limit.unwrap_or_default()
                    )
                };
                let mut verdict = instance.reported().clone();
                verdict.reason = reason;
                verdict.since = wall;
                verdict.evidence = cut(&text, EVIDENCE_BYTES_MAX).into();
                verdict
            }
            None => match &instance.overruled {
                Some(reported) => (**reported).clone(),
                None => return,
            },
        };
        if verdict != *present {
            let status = &instance.status;
            let reported = instance.reported().clone();
            instance.status = Arc::new(Status {
                identity: status.identity.clone(),
                agent: status.agent.clone(),
                verdict,
            });
            instance.overruled = reason.map(|_| Box::new(reported));
            if let Some(member) = &mut member {
                member.reason = instance.status.verdict.reason;
            }
            if !matches!(out.last(), Some(Effect::Changed(last)) if last == id) {
                out.push(Effect::Changed(id.clone()));
            }
        } else if reason.is_none() {
            // The reported verdict equals the one in force.
            instance.overruled = None;
        }
    }
}
