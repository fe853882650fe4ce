//! Relaying: what this collector tells another one that does not hear an agent, and how it takes what another one tells.
//!
//! A relayed message is the agent's own, so (boot, sequence) orders it with all others. Only its age differs: it was heard
//! by the other collector some time ago, and proves no more than that the agent lived then.

use std::{collections::BTreeMap, time::Duration};

use super::{AgentInfo, Effect, Fleet, Report};
use crate::{
    ids::{AgentId, Seq},
    time::{Mono, WallMs},
};

/// Everything that is known of an agent that is heard directly, for a collector that does not hear it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentSnapshot {
    /// What the agent says of itself.
    pub greeting: AgentInfo,
    /// Time since it was last heard.
    pub heard_age: Duration,
    /// Time since its last heartbeat.
    pub heartbeat_age: Duration,
    /// The newest report of each instance by the sequence of the message that brought it. As the agent does not send
    /// each change to all collectors at the same time, no sequence but its own may be given to a report.
    pub reports: BTreeMap<Seq, Vec<Report>>,
    /// Highest sequence heard, if these are all instances that the agent has.
    pub complete: Option<Seq>,
}

impl Fleet {
    /// What is known of an agent; `None` if it is not heard directly.
    pub fn agent_snapshot(&self, now: Mono, name: &AgentId) -> Option<AgentSnapshot> {
        let agent = self.agents.get(name)?;
        let order = agent.order.as_ref()?;
        let greeting = agent
            .greeting
            .clone()
            .filter(|greeting| greeting.via.is_empty() && !agent.silent)
            // While statuses are held, an agent is not silent and yet not heard.
            .filter(|_| now.since(agent.heard) < self.silent_after)?;
        let mut reports = BTreeMap::<Seq, Vec<Report>>::new();
        for (member, handle) in agent.members.iter().zip(agent.members.handles()) {
            let Some(instance) = self.instances.get(&member.id) else {
                continue;
            };
            // What is known from ZooKeeper only, or from a former boot, is not this agent's word.
            let (Some(handle), true) = (handle, instance.origin.boot == order.boot().tag()) else {
                continue;
            };
            reports.entry(instance.origin.seq).or_default().push(Report {
                handle,
                identity: instance.status.identity.clone(),
                verdict: instance.reported().clone(),
                // As of the last message, whose age comes with it.
                probe_age: Some(agent.heard.since(member.progress)),
                freshness_limit: member.freshness_limit.get(),
            });
        }
        Some(AgentSnapshot {
            greeting: AgentInfo {
                // It was right when the stream began.
                clock: WallMs(0),
                ..greeting
            },
            heard_age: now.since(agent.heard),
            heartbeat_age: now.since(agent.heartbeat_at),
            reports,
            // In the middle of a snapshot, its last part says what there is.
            complete: (agent.complete && agent.snapshot.is_none()).then(|| order.highest()),
        })
    }

    /// A relayed stream begins, of an agent that was last heard, and whose last heartbeat was heard, this long ago.
    pub(super) fn relay_begins(
        &mut self,
        now: Mono,
        wall: WallMs,
        (stream, greeting): (u64, AgentInfo),
        (heard_age, heartbeat_age): (Duration, Duration),
        out: &mut Vec<Effect>,
    ) {
        let at = (now.before(heard_age), now.before(heartbeat_age));
        self.hello((now, at), wall, stream, greeting, out);
    }
}
