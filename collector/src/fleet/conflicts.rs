//! Remembers which agents reported an instance that another live agent has. The aggregator records them, debug pages read
//! them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use redkeeper_core::{
    ids::{AgentId, InstanceId},
    time::Mono,
};

/// Maximum instances with a lost claim, as many as `core::fleet` remembers. They come from mistakes of configuration, so
/// they are few; further ones are not recorded.
const CLAIMED_MAX: usize = 1_024;

/// A claim of an instance that another agent has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Claim {
    /// The agent whose report was ignored last.
    pub agent: AgentId,
    /// When it was ignored last.
    pub last: Mono,
    /// Number of ignored reports of this agent.
    pub times: u64,
}

/// The newest lost claim of each instance.
#[derive(Debug, Default)]
pub struct Conflicts(Mutex<BTreeMap<InstanceId, Claim>>);

impl Conflicts {
    fn claims(&self) -> MutexGuard<'_, BTreeMap<InstanceId, Claim>> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a report of this agent was ignored.
    pub(super) fn lost(&self, id: InstanceId, agent: AgentId, now: Mono) {
        let mut claims = self.claims();
        if claims.len() >= CLAIMED_MAX && !claims.contains_key(&id) {
            return;
        }
        let before = claims.get(&id).filter(|claim| claim.agent == agent);
        let times = before.map_or(0, |claim| claim.times).saturating_add(1);
        claims.insert(
            id,
            Claim {
                agent,
                last: now,
                times,
            },
        );
    }

    /// Forgets an instance that is no longer known.
    pub(super) fn forget(&self, id: &InstanceId) {
        self.claims().remove(id);
    }

    /// The newest claim of an instance that was ignored because `owner` has it. The claim of an agent that has become
    /// the owner since is settled.
    pub fn of(&self, id: &InstanceId, owner: &AgentId) -> Option<Claim> {
        self.claims()
            .get(id)
            .filter(|claim| claim.agent != *owner)
            .cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_counted_settled_and_bounded() {
        let conflicts = Conflicts::default();
        let [x, y] = ["x", "y"].map(|name| AgentId::new(name).unwrap());
        let id = |n: usize| InstanceId::new(&format!("h:{n}")).unwrap();
        conflicts.lost(id(0), y.clone(), Mono(1));
        conflicts.lost(id(0), y.clone(), Mono(2));
        let claim = conflicts.of(&id(0), &x).unwrap();
        assert_eq!((&claim.agent, claim.last, claim.times), (&y, Mono(2), 2));
        assert_eq!(conflicts.of(&id(0), &y), None, "it has the instance now");
        for n in 1..=CLAIMED_MAX {
            conflicts.lost(id(n), y.clone(), Mono(3));
        }
        assert_eq!(conflicts.of(&id(CLAIMED_MAX), &x), None, "no room");
        conflicts.forget(&id(0));
        conflicts.lost(id(CLAIMED_MAX), y.clone(), Mono(4));
        assert!(conflicts.of(&id(CLAIMED_MAX), &x).is_some());
    }
}
