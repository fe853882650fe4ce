//! Finds agents that the leader does not hear although another collector does: their instances are published as
//! AGENT_SILENT. This finds agents that reach only one collector, because of a wrong list or a balanced address.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::AgentId;

/// The agents that one collector hears.
pub type Heard = BTreeSet<AgentId>;

/// An agent that others hear and the leader does not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unheard {
    /// The agent.
    pub agent: AgentId,
    /// The collectors that hear it.
    pub by: Vec<String>,
}

/// Repeatedly compares what the collectors hear.
#[derive(Clone, Default, Debug)]
pub struct Hearing {
    /// Agents that only others heard at the last comparison.
    doubted: BTreeSet<AgentId>,
}

impl Hearing {
    /// Compares what the leader hears with what others hear. An agent is reported only if the former comparison showed
    /// it too: the lists of several collectors are never of one instant, and a new agent reaches one before the other.
    pub fn compare<'a>(
        &mut self,
        leader: &Heard,
        others: impl IntoIterator<Item = (&'a str, &'a Heard)>,
    ) -> Vec<Unheard> {
        let mut missed = BTreeMap::<&AgentId, Vec<String>>::new();
        for (collector, heard) in others {
            for agent in heard.difference(leader) {
                missed.entry(agent).or_default().push(collector.to_owned());
            }
        }
        let before = std::mem::replace(&mut self.doubted, missed.keys().map(|a| (*a).clone()).collect());
        missed
            .into_iter()
            .filter(|(agent, _)| before.contains(*agent))
            .map(|(agent, by)| Unheard {
                agent: agent.clone(),
                by,
            })
            .collect()
    }

    /// Forgets the last comparison, where no leader is known, or what it hears is not known.
    pub fn forget(&mut self) {
        self.doubted.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(names: &[&str]) -> Heard {
        names.iter().flat_map(|name| AgentId::new(name)).collect()
    }

    #[test]
    fn who_reaches_followers_only_is_told_after_two_comparisons() {
        let mut hearing = Hearing::default();
        let (leader, b, c) = (heard(&["x"]), heard(&["x", "y", "z"]), heard(&["y"]));
        let mut compare = |leader: &Heard| hearing.compare(leader, [("b", &b), ("c", &c)]);
        assert_eq!(compare(&leader), []);
        let told = compare(&leader);
        let told: Vec<_> = told.iter().map(|u| (u.agent.as_str(), u.by.join(" "))).collect();
        assert_eq!(told, [("y", "b c".to_owned()), ("z", "b".to_owned())]);
        // The agent reaches the leader.
        let told = compare(&heard(&["x", "y"]));
        assert_eq!(told.iter().map(|u| u.agent.as_str()).collect::<Vec<_>>(), ["z"]);
    }

    #[test]
    fn what_was_forgotten_must_be_seen_twice_again() {
        let (leader, b) = (heard(&[]), heard(&["y"]));
        let mut hearing = Hearing::default();
        hearing.compare(&leader, [("b", &b)]);
        hearing.forget();
        assert_eq!(hearing.compare(&leader, [("b", &b)]), []);
        assert_eq!(hearing.compare(&leader, [("b", &b)]).len(), 1);
    }

    proptest! {
        /// An agent that the leader hears, or that nobody hears, is not reported; all others are, from the second
        /// comparison on.
        #[test]
        fn tells_exactly_the_difference(
            sets in proptest::collection::vec(proptest::collection::btree_set(0..6u8, 0..6), 3)
        ) {
            let sets: Vec<Heard> = sets
                .iter()
                .map(|set| set.iter().flat_map(|n| AgentId::new(&format!("a{n}"))).collect())
                .collect();
            let mut hearing = Hearing::default();
            let others = || [("b", &sets[1]), ("c", &sets[2])];
            prop_assert_eq!(hearing.compare(&sets[0], others()), []);
            let told: Heard = hearing.compare(&sets[0], others()).into_iter().map(|u| u.agent).collect();
            let wanted: Heard = sets[1].union(&sets[2]).filter(|a| !sets[0].contains(*a)).cloned().collect();
            prop_assert_eq!(told, wanted);
        }
    }
}
