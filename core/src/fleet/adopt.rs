//! What a new leader takes over from ZooKeeper, so that a take-over changes no status.

use std::{collections::BTreeSet, sync::Arc};

use super::{AgentState, Effect, Fleet, InstanceState, is_collectors_own};
use crate::{
    dedupe::Origin,
    ids::{AgentId, InstanceId},
    limits::FLEET_INSTANCES_MAX,
    status::{Reason, Status},
    time::{Mono, WallMs},
};

impl Fleet {
    pub(super) fn adopt(
        &mut self,
        now: Mono,
        wall: WallMs,
        statuses: Vec<(Status, Origin)>,
        grace: bool,
        out: &mut Vec<Effect>,
    ) {
        // Of before: the grace for one instance of an agent must not hide that the others need it too.
        let unheard: BTreeSet<AgentId> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.silent || agent.stream.is_none())
            .map(|(name, _)| name.clone())
            .collect();
        for (status, origin) in statuses {
            let id = status.identity.id.clone();
            if self.instances.contains_key(&id) {
                let unheard = unheard.contains(&status.agent);
                self.adopt_known(now, wall, (&id, origin, unheard, grace), status, out);
                continue;
            }
            // The agent, which is heard, has said since its start what it has, and this is not among it.
            let agent = self.agents.get(&status.agent);
            if agent.is_some_and(|agent| agent.complete) && !unheard.contains(&status.agent) {
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
            if unheard.contains(&name) {
                // So that its silence is found again, with this instance.
                (agent.heard, agent.beat, agent.silent) = (now, now, false);
            }
            self.watch(&name);
            let state = InstanceState {
                reported: status.verdict.clone(),
                status: Arc::new(status),
                origin,
                progress: now,
                freshness_limit: self.silent_after,
            };
            self.instances.insert(id.clone(), state);
            out.push(Effect::Changed(id));
        }
    }

    /// A published verdict of an instance that is known already. The collectors' own UNKNOWN is never news. Within
    /// one boot of the agent the higher number is newer. Of two boots a retired one is older; otherwise it is news
    /// where this collector does not hear the agent now (the former leader may have), and where nothing was
    /// probed yet. With `grace`, after another collector led, every agent gets a full grace period.
    fn adopt_known(
        &mut self,
        now: Mono,
        wall: WallMs,
        (id, origin, unheard, grace): (&InstanceId, Origin, bool, bool),
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
        let agent = self.agents.get_mut(&name);
        let order = agent.as_ref().and_then(|agent| agent.order.as_ref());
        let news = if known.origin.boot == origin.boot && origin != Origin::default() {
            !origin.is_superseded_by(known.origin) && origin != known.origin
        } else {
            !order.is_some_and(|order| order.is_retired(origin.boot))
                && (unheard || known.reported.reason == Reason::NotProbed)
        };
        // The former leader may have heard it until now, whatever this one heard.
        if let Some(agent) = agent.filter(|_| grace) {
            (agent.heard, agent.beat, agent.silent) = (now, now, false);
        }
        if unheard && grace {
            known.progress = now;
            known.freshness_limit = known.freshness_limit.max(self.silent_after);
        }
        if news {
            known.reported = status.verdict;
            known.origin = origin;
        }
        self.watch(&name);
        self.settle(wall, id, false, out);
    }
}
