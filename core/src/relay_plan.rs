//! Which agents this collector asks which other one to relay: those that it does not hear itself, of one that does.
//!
//! An agent is asked for as soon as a heartbeat is overdue, so that the answer comes before `silent_after`; of one collector
//! only, and until its own stream has been good again for a while, so that a flapping path does not begin and end a relay
//! each time. With everybody hearing everybody, nothing is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{ids::AgentId, time::Mono};

/// The agents that one collector hears directly.
type Heard = BTreeSet<AgentId>;

/// Pause before an agent is asked for again whose relayed stream was refused here.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// When a heartbeat is overdue: a quarter of what remains of `silent_after` after one heartbeat interval. The rest of the
/// time is for the request, the answer, and the time between two looks.
pub fn overdue_after(heartbeat_interval: Duration, silent_after: Duration) -> Duration {
    heartbeat_interval + silent_after.saturating_sub(heartbeat_interval) / 4
}

/// What is asked for, and since when.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Asked {
    /// The collector that is asked.
    of: String,
    /// Since when the agent is heard directly again.
    good_since: Option<Mono>,
    /// When it was asked.
    at: Mono,
    /// Others that were asked since it was last heard by any path: what they had was old too.
    tried: Vec<String>,
}

/// When an agent was last heard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastHeard {
    /// On its own stream; `None` if it never was, or has none.
    pub direct: Option<Mono>,
    /// By any path.
    pub any: Mono,
}

/// The plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelayPlan {
    overdue_after: Duration,
    asked: BTreeMap<AgentId, Asked>,
    /// Agents that have no stream of their own, and since when that is known.
    noticed: BTreeMap<AgentId, Mono>,
    /// Agents whose relayed streams were refused, and until when they are not asked for.
    refused: BTreeMap<AgentId, Mono>,
}

impl RelayPlan {
    /// A plan that asks for nothing yet.
    pub fn new(overdue_after: Duration) -> Self {
        Self {
            overdue_after,
            asked: BTreeMap::new(),
            noticed: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Decides anew. `own` has the known agents, each with when it was last heard; those that are heard directly as they
    /// should be, and are not asked for, may be left out. `unknown` has those that only others know, `peers` what each
    /// linked collector hears directly.
    pub fn step<'a>(
        &mut self,
        now: Mono,
        own: impl Iterator<Item = (&'a AgentId, LastHeard)>,
        unknown: impl Iterator<Item = &'a AgentId>,
        peers: &[(&str, &Heard)],
    ) {
        self.refused.retain(|_, until| *until > now);
        // Nothing is known of how old what the others have is.
        let never = LastHeard {
            direct: None,
            any: now,
        };
        let (mut noticed, mut asked) = (BTreeMap::new(), BTreeMap::new());
        for (agent, LastHeard { direct, any }) in own.chain(unknown.map(|agent| (agent, never))) {
            // Its own stream has ended, perhaps long after the last message came on it.
            let since = direct.unwrap_or_else(|| any.min(*self.noticed.get(agent).unwrap_or(&now)));
            if direct.is_none() {
                noticed.insert(agent.clone(), since);
            }
            let is_good = direct.is_some() && now.since(since) < self.overdue_after;
            let before = self.asked.remove(agent);
            let wanted = match (&before, is_good) {
                (None, _) => now.since(since) >= self.overdue_after,
                (Some(_), false) => true,
                (Some(before), true) => now.since(before.good_since.unwrap_or(now)) < self.overdue_after * 2,
            };
            if !wanted || self.refused.contains_key(agent) {
                continue;
            }
            let mut ask = before.unwrap_or_default();
            ask.good_since = ask.good_since.or(Some(now)).filter(|_| is_good);
            let has_answered = now.since(ask.at) >= self.overdue_after / 3;
            ask.choose(
                now,
                agent,
                has_answered && now.since(any) >= self.overdue_after,
                peers,
            );
            if !ask.of.is_empty() {
                asked.insert(agent.clone(), ask);
            }
        }
        (self.noticed, self.asked) = (noticed, asked);
    }

    /// The relayed stream of this agent was refused here: it is asked for again after a pause.
    pub fn refused(&mut self, now: Mono, agent: &AgentId) {
        self.asked.remove(agent);
        self.refused.insert(agent.clone(), now + REFUSED_PAUSE);
    }

    /// The agents that are asked of a collector.
    pub fn of(&self, peer: &str) -> BTreeSet<AgentId> {
        let of = self.asked.iter().filter(|(_, asked)| asked.of == peer);
        of.map(|(agent, _)| agent.clone()).collect()
    }

    /// Whether this agent is asked for.
    pub fn asks_for(&self, agent: &AgentId) -> bool {
        self.asked.contains_key(agent)
    }

    /// Number of agents that are asked for.
    pub fn len(&self) -> usize {
        self.asked.len()
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.asked.is_empty()
    }
}

impl Asked {
    /// Chooses a collector that hears the agent: the present one, as long as what it relays is fresh; otherwise one of the
    /// others, so that they share the load.
    fn choose(&mut self, now: Mono, agent: &AgentId, is_stale: bool, peers: &[(&str, &Heard)]) {
        if !is_stale {
            self.tried.clear();
        }
        let able: Vec<_> = peers.iter().filter(|peer| peer.1.contains(agent)).collect();
        let stays = able.iter().any(|(peer, _)| *peer == self.of);
        if stays && is_stale {
            self.tried.push(self.of.clone());
        } else if stays {
            return;
        }
        let untried = |peer: &&&(&str, &Heard)| !self.tried.iter().any(|tried| tried == peer.0);
        let others: Vec<_> = able.iter().filter(untried).collect();
        let sum: usize = agent.as_str().bytes().map(usize::from).sum();
        let chosen = sum.checked_rem(others.len()).and_then(|place| others.get(place));
        match chosen {
            Some((peer, _)) => {
                (*peer).clone_into(&mut self.of);
                self.at = now;
            }
            // All were asked: there is nothing better than what the present one has.
            None if stays => drop(self.tried.pop()),
            None => self.of.clear(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OVERDUE: Duration = Duration::from_millis(1_500);

    fn agent(n: u32) -> AgentId {
        AgentId::new(&format!("db{n}")).unwrap()
    }

    fn heard(agents: &[u32]) -> Heard {
        agents.iter().map(|n| agent(*n)).collect()
    }

    /// Steps with these agents, each with the age of what was heard directly, in milliseconds.
    fn step(plan: &mut RelayPlan, now: u64, own: &[(u32, Option<u64>)], peers: &[(&str, &Heard)]) {
        let last = |age: Option<u64>| LastHeard {
            direct: age.map(|age| Mono::from_millis(now - age)),
            // Relayed as it should be.
            any: Mono::from_millis(now),
        };
        let own: Vec<_> = own.iter().map(|(n, age)| (agent(*n), last(*age))).collect();
        let unknown: Heard = peers
            .iter()
            .flat_map(|(_, heard)| heard.iter().cloned())
            .collect();
        let unknown = unknown
            .iter()
            .filter(|agent| !own.iter().any(|(own, _)| own == *agent));
        let own = own.iter().map(|(agent, last)| (agent, *last));
        plan.step(Mono::from_millis(now), own, unknown, peers);
    }

    #[test]
    fn an_agent_is_asked_for_once_a_heartbeat_is_overdue() {
        let (mut plan, b) = (RelayPlan::new(OVERDUE), heard(&[1, 2]));
        let peers = [("b", &b)];
        step(&mut plan, 10_000, &[(1, Some(1_499)), (2, Some(0))], &peers);
        assert!(plan.is_empty());
        step(&mut plan, 10_001, &[(1, Some(1_500)), (2, Some(1))], &peers);
        assert_eq!(plan.of("b"), heard(&[1]));
        // Nobody hears it: nothing to ask.
        step(
            &mut plan,
            10_002,
            &[(1, Some(1_501)), (2, Some(2))],
            &[("b", &heard(&[2]))],
        );
        assert!(plan.is_empty());
    }

    #[test]
    fn an_agent_whose_own_stream_ended_late_is_asked_for_at_once() {
        let (mut plan, b, name) = (RelayPlan::new(OVERDUE), heard(&[1]), agent(1));
        let last = LastHeard {
            direct: None,
            any: Mono::from_millis(8_500),
        };
        let own = [(&name, last)].into_iter();
        plan.step(Mono::from_millis(10_000), own, std::iter::empty(), &[("b", &b)]);
        assert_eq!(plan.of("b"), heard(&[1]));
    }

    #[test]
    fn an_agent_that_only_others_know_is_asked_for_after_a_while() {
        let (mut plan, b) = (RelayPlan::new(OVERDUE), heard(&[1]));
        for now in [10_000, 11_499] {
            step(&mut plan, now, &[], &[("b", &b)]);
            assert!(plan.is_empty(), "it may be about to connect");
        }
        step(&mut plan, 11_500, &[], &[("b", &b)]);
        assert_eq!(plan.of("b"), heard(&[1]));
        // It is known now, by the relay.
        step(&mut plan, 11_600, &[(1, None)], &[("b", &b)]);
        assert_eq!(plan.of("b"), heard(&[1]));
    }

    #[test]
    fn a_relay_ends_when_the_own_stream_has_been_good_for_a_while() {
        let (mut plan, b) = (RelayPlan::new(OVERDUE), heard(&[1]));
        let mut step = |now, age| {
            step(&mut plan, now, &[(1, Some(age))], &[("b", &b)]);
            plan.len()
        };
        assert_eq!(step(10_000, 1_600), 1);
        assert_eq!(step(10_100, 0), 1);
        assert_eq!(step(12_000, 500), 1);
        // Overdue once more: it begins anew.
        assert_eq!(step(13_000, 1_500), 1);
        assert_eq!(step(13_100, 0), 1);
        assert_eq!(step(16_000, 0), 1);
        assert_eq!(step(16_100, 0), 0);
    }

    #[test]
    fn one_collector_is_asked_and_another_one_when_it_hears_no_more() {
        let mut plan = RelayPlan::new(OVERDUE);
        let (both, none) = (heard(&[1, 2, 3, 4]), Heard::new());
        let own = [1, 2, 3, 4].map(|n| (n, Some(2_000)));
        step(&mut plan, 10_000, &own, &[("b", &both), ("c", &both)]);
        let (b, c) = (plan.of("b"), plan.of("c"));
        assert_eq!((b.len(), c.len()), (2, 2), "they share the load");
        step(&mut plan, 10_100, &own, &[("c", &both), ("b", &both)]);
        assert_eq!((plan.of("b"), plan.of("c")), (b, c), "nobody moves without need");
        step(&mut plan, 10_200, &own, &[("b", &none), ("c", &both)]);
        assert_eq!((plan.of("b"), plan.of("c")), (none, both));
    }

    #[test]
    fn another_collector_is_asked_once_where_what_the_first_one_relays_is_old() {
        let (mut plan, one) = (RelayPlan::new(OVERDUE), heard(&[1]));
        let mut ask = |now: u64, heard_age: u64| {
            let last = LastHeard {
                direct: None,
                any: Mono::from_millis(now - heard_age),
            };
            let name = agent(1);
            let own = [(&name, last)].into_iter();
            plan.step(
                Mono::from_millis(now),
                own,
                std::iter::empty(),
                &[("b", &one), ("c", &one)],
            );
            ["b", "c"].into_iter().find(|peer| !plan.of(peer).is_empty())
        };
        assert_eq!(ask(10_000, 0), None);
        let first = ask(11_500, 0);
        assert_eq!(ask(11_600, 1_500), first, "it has time to answer");
        let second = ask(12_000, 1_900);
        assert!(first.is_some() && second.is_some() && first != second);
        // Neither hears it any more: nobody is asked again and again.
        assert_eq!(ask(12_600, 2_500), second);
        assert_eq!(ask(13_200, 3_100), second);
        // It was heard by way of the second, and then no more: the first one may have it.
        assert_eq!(ask(13_300, 100), second);
        assert_eq!(ask(15_000, 1_800), first);
    }

    #[test]
    fn a_refused_agent_is_asked_for_again_after_a_pause() {
        let (mut plan, b) = (RelayPlan::new(OVERDUE), heard(&[1]));
        let own = [(1, Some(2_000))];
        step(&mut plan, 10_000, &own, &[("b", &b)]);
        plan.refused(Mono::from_millis(10_000), &agent(1));
        assert!(plan.is_empty());
        step(&mut plan, 10_499, &own, &[("b", &b)]);
        assert!(plan.is_empty());
        step(&mut plan, 10_500, &own, &[("b", &b)]);
        assert_eq!(plan.of("b"), heard(&[1]));
    }

    #[test]
    fn the_answer_has_time_to_come() {
        for (heartbeat, silent) in [(1_000, 3_000), (200, 1_000), (1_000, 2_000), (50, 100)] {
            let overdue = overdue_after(Duration::from_millis(heartbeat), Duration::from_millis(silent));
            let overdue = u64::try_from(overdue.as_millis()).unwrap();
            assert!(heartbeat < overdue && overdue < silent, "{overdue}");
        }
    }

    proptest! {
        /// At any time exactly those are asked for that are overdue and heard by somebody, each of one that hears it; and
        /// none where all are heard directly.
        #[test]
        fn asks_for_all_that_is_missing_and_nothing_else(
            ages in proptest::collection::vec(0..4_000u64, 6),
            b in proptest::collection::btree_set(0..6u32, 0..6),
            c in proptest::collection::btree_set(0..6u32, 0..6),
        ) {
            let mut plan = RelayPlan::new(OVERDUE);
            let own: Vec<_> = (0..6).zip(ages.iter().map(|age| Some(*age))).collect();
            let (b, c) = (b.into_iter().map(agent).collect(), c.into_iter().map(agent).collect());
            let peers: [(&str, &Heard); 2] = [("b", &b), ("c", &c)];
            for now in [100_000, 100_100] {
                step(&mut plan, now, &own, &peers);
            }
            let wanted: Heard = own
                .iter()
                .filter(|(_, age)| *age >= Some(1_500))
                .map(|(n, _)| agent(*n))
                .filter(|agent| b.contains(agent) || c.contains(agent))
                .collect();
            let asked: Heard = plan.of("b").union(&plan.of("c")).cloned().collect();
            prop_assert_eq!(asked, wanted);
            prop_assert!(plan.of("b").is_subset(&b) && plan.of("c").is_subset(&c));
            prop_assert!(plan.of("b").is_disjoint(&plan.of("c")));
            let own: Vec<_> = (0..6).map(|n| (n, Some(0))).collect();
            step(&mut plan, 200_000, &own, &peers);
            step(&mut plan, 203_000, &own, &peers);
            prop_assert!(plan.is_empty());
        }
    }
}
