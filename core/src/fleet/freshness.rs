//! What time does: silent agents, stalled probes, and the status in force.

use std::sync::Arc;

use super::{Effect, Fleet, Watched};
use crate::{
    ids::{AgentId, InstanceId},
    limits::EVIDENCE_BYTES_MAX,
    status::{Reason, Status, cut},
    time::{Mono, WallMs},
};

impl Fleet {
    pub(super) fn check_deadlines(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
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

    pub(super) fn uncontest(&mut self, id: &InstanceId, out: &mut Vec<Effect>) {
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
    pub(super) fn settle(&mut self, now: Mono, wall: WallMs, id: &InstanceId, out: &mut Vec<Effect>) {
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
