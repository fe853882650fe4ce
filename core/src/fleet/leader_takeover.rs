//! Takes over what a new leader finds in ZooKeeper, so that a change of the leader changes no status.

use std::sync::Arc;

use super::{
    AgentState, Effect, Fleet, FreshnessLimit, InstanceState, Member, TOLD_AFTER, clocks,
    is_collector_verdict,
};
use crate::{
    fleet::message_order::Origin,
    ids::{InstanceId, Seq},
    limits::FLEET_INSTANCES_MAX,
    status::{Reason, Status, Verdict},
    time::{Mono, WallMs},
};

impl AgentState {
    /// Whether the former leader, which published a message of this origin, had heard more of the agent than this
    /// collector has.
    fn is_beyond_us(&self, origin: Origin) -> bool {
        self.order.as_ref().is_none_or(|order| {
            if order.origin(Seq(0)).boot == origin.boot {
                origin.seq > order.highest()
            } else {
                !order.is_retired(origin.boot) && origin != Origin::default()
            }
        })
    }

    /// Grants a grace period, as if the agent had been heard now.
    fn grant(&mut self, now: Mono, adoption: u64) {
        if self.is_unheard(adoption) {
            self.granted = adoption;
        }
        self.version += u64::from(self.silent);
        (self.heard, self.heartbeat_at, self.silent) = (now, now, false);
    }

    /// Whether this collector does not hear the agent. Grace that was granted for one of its instances in this adoption
    /// changes nothing for the others.
    fn is_unheard(&self, adoption: u64) -> bool {
        self.silent || self.stream.is_none() || self.granted == adoption
    }
}

impl InstanceState {
    /// Remembers since when a state lasts, if what is published says so and this collector or its agent began later.
    fn remember(&mut self, published: &Verdict) {
        let reported = self.reported();
        if reported.reason != published.reason || published.since.0 >= reported.since.0 {
            return;
        }
        let mut verdict = reported.clone();
        let same = verdict.since_is_bound || clocks::is_near(published.since, verdict.since);
        clocks::keep_earlier(&mut verdict, published.since, same);
        if verdict != *reported {
            self.overruled = Some(Box::new(verdict));
        }
    }
}

/// Statuses that were found in ZooKeeper, or a part of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Adoption {
    /// The statuses, with the messages that reported them.
    pub statuses: Vec<(Arc<Status>, Origin)>,
    /// True after another collector led: an agent of which it had heard more gets a grace period.
    pub grace: bool,
    /// The same for all parts of one adoption, and of no other.
    pub number: u64,
}

/// False if adopting a published status changes nothing for a collector that knows this one of the same instance: it has
/// heard as much of the same boot, and knows no later begin of the state. Most statuses are like this when a follower
/// becomes the leader. `is_agent_known`: whether this collector has heard the agent; one that it knows from ZooKeeper only
/// may get a grace period.
pub fn is_news(
    (known, known_origin, is_agent_known): (&Status, Origin, bool),
    (published, origin): (&Status, Origin),
) -> bool {
    let is_older = known_origin == origin || origin.is_superseded_by(known_origin);
    let (ours, theirs) = (&known.verdict, &published.verdict);
    !is_older
        || !is_agent_known
        || origin == Origin::default()
        || known.agent != published.agent
        || (ours.reason == theirs.reason && theirs.since.0 < ours.since.0)
}

impl Fleet {
    pub(super) fn adopt(&mut self, now: Mono, wall: WallMs, adoption: Adoption, out: &mut Vec<Effect>) {
        let Adoption {
            statuses,
            grace,
            number,
        } = adoption;
        for (status, origin) in statuses {
            let id = status.identity.id.clone();
            if self.instances.contains_key(&id) {
                self.adopt_known(now, wall, (&id, origin, grace, number), &status, out);
                continue;
            }
            // The agent is heard and has reported all its instances since its start, and this is not one of them.
            let agent = self.agents.get(&status.agent);
            let is_unheard = agent.is_some_and(|agent| agent.is_unheard(number));
            if agent.is_some_and(|agent| agent.complete) && !is_unheard {
                continue;
            }
            if self.instances.len() >= FLEET_INSTANCES_MAX {
                continue;
            }
            let name = status.agent.clone();
            let (place, agent) = self
                .agents
                .get_or_add(&name, || AgentState::adopted(name.clone(), now));
            agent.members.put(Member {
                id: id.clone(),
                progress: now,
                freshness_limit: FreshnessLimit::of(self.silent_after),
                reason: status.verdict.reason,
            });
            if agent.is_beyond_us(origin) {
                // If the agent stays silent, that is detected again, with this instance.
                agent.grant(now, number);
            }
            if is_unheard {
                self.untold.insert(place);
                self.tell_at = now + TOLD_AFTER;
            }
            agent.watch(self.silent_after, &mut self.deadlines);
            let state = InstanceState {
                status,
                overruled: None,
                origin,
            };
            self.instances.insert(id.clone(), state);
            out.push(Effect::Changed(id.clone()));
            // An agent that was heard here and is silent now is silent for this instance too.
            self.settle(wall, &id, false, out);
        }
    }

    /// Adopts a published verdict of an instance that is known already. The collectors' own UNKNOWN is never news.
    /// Within one boot of the agent, the higher sequence is newer. Of two boots, a retired one is older; otherwise the
    /// verdict is news if this collector does not hear the agent now (the former leader may have), or if nothing was
    /// probed yet.
    ///
    /// With `grace`, after another collector led, an agent of which that one had heard more gets a full grace period.
    /// What was heard here counts unchanged: the death of the former leader does not revive a silent agent.
    fn adopt_known(
        &mut self,
        now: Mono,
        wall: WallMs,
        (id, origin, grace, number): (&InstanceId, Origin, bool, u64),
        status: &Status,
        out: &mut Vec<Effect>,
    ) {
        let Some(known) = self.instances.get_mut(id) else {
            return;
        };
        if is_collector_verdict(status.verdict.reason) || status.verdict.reason == Reason::NotProbed {
            return;
        }
        let name = known.status.agent.clone();
        let unheard = self
            .agents
            .get(&status.agent)
            .is_some_and(|agent| agent.is_unheard(number));
        let agent = self.agents.get_mut(&name);
        let order = agent.as_ref().and_then(|agent| agent.order.as_ref());
        let news = if known.origin.boot == origin.boot && origin != Origin::default() {
            !origin.is_superseded_by(known.origin) && origin != known.origin
        } else {
            !order.is_some_and(|order| order.is_retired(origin.boot))
                && (unheard || known.reported().reason == Reason::NotProbed)
        };
        if let Some(agent) = agent {
            let grace = grace && agent.is_beyond_us(origin);
            if grace {
                agent.grant(now, number);
            }
            if let Some(member) = agent.members.get_mut(id).filter(|_| unheard && grace) {
                member.progress = now;
                member.freshness_limit = member.freshness_limit.max(FreshnessLimit::of(self.silent_after));
                agent.version += 1;
            }
            agent.watch(self.silent_after, &mut self.deadlines);
        }
        if news {
            known.overruled = Some(Box::new(status.verdict.clone()));
            known.origin = origin;
        } else {
            known.remember(&status.verdict);
        }
        self.settle(wall, id, false, out);
    }
}
