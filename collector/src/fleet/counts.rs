//! The number of instances of each kind. Counts are updated with each change, so an answer that needs a number adds up
//! kinds, not instances.

use imbl::OrdMap;
use redkeeper_core::{
    ids::{AgentId, ClusterName},
    status::{Reason, Status},
};

/// What instances of one kind have in common. Kinds are ordered by the fields in this order.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Kind {
    /// Named group of the instances; `None` if they have none.
    pub cluster: Option<ClusterName>,
    /// Agent that reports them. Always set; `None` is the lower end of a range.
    agent: Option<AgentId>,
    /// Reason of their state.
    pub reason: Reason,
}

impl Kind {
    fn of(status: &Status) -> Self {
        Self {
            cluster: status.identity.cluster.clone(),
            agent: Some(status.agent.clone()),
            reason: status.verdict.reason,
        }
    }

    /// Name of the agent.
    pub fn agent(&self) -> &str {
        self.agent.as_ref().map_or("", AgentId::as_str)
    }
}

/// Counts by kind and by reason. A clone shares what does not change afterwards.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// One entry for each kind that exists: about the number of agents, and at most the number of instances.
    kinds: OrdMap<Kind, usize>,
    /// At most one entry for each reason.
    reasons: OrdMap<Reason, usize>,
}

impl Counts {
    /// Moves one instance from its former status to the present one; `None` means that it did not, or does not, exist.
    pub fn moved(&mut self, former: Option<&Status>, now: Option<&Status>) {
        let (from, to) = (former.map(Kind::of), now.map(Kind::of));
        if from == to {
            return;
        }
        if let Some(kind) = from {
            less(&mut self.reasons, &kind.reason);
            less(&mut self.kinds, &kind);
        }
        if let Some(kind) = to {
            *self.reasons.entry(kind.reason).or_default() += 1;
            *self.kinds.entry(kind).or_default() += 1;
        }
    }

    /// Counts by reason.
    pub fn reasons(&self) -> impl Iterator<Item = (Reason, usize)> {
        self.reasons.iter().map(|(reason, n)| (*reason, *n))
    }

    /// All kinds in order, each with its number of instances.
    pub fn kinds(&self) -> impl Iterator<Item = (&Kind, usize)> {
        self.kinds.iter().map(|(kind, n)| (kind, *n))
    }

    /// The kinds of one cluster; `None` stands for the instances that are in none.
    pub fn kinds_of<'a>(
        &'a self,
        cluster: &'a Option<ClusterName>,
    ) -> impl Iterator<Item = (&'a Kind, usize)> {
        let first = Kind {
            cluster: cluster.clone(),
            agent: None,
            reason: Reason::Ok,
        };
        self.kinds
            .range(first..)
            .take_while(move |(kind, _)| kind.cluster == *cluster)
            .map(|(kind, n)| (kind, *n))
    }
}

fn less<K: Ord + Clone>(counts: &mut OrdMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(n) if *n > 1 => *n -= 1,
        _ => {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use proptest::prelude::*;
    use redkeeper_core::{
        ids::InstanceId,
        status::{Identity, Stage, Verdict},
        time::WallMs,
    };

    use super::*;

    fn status(cluster: u8, agent: u8, reason: usize) -> Status {
        Status {
            identity: Identity {
                id: InstanceId::new("a").unwrap(),
                cluster: (cluster > 0).then(|| ClusterName::new(&format!("c{cluster}")).unwrap()),
                address: "x:1".into(),
                labels: Arc::default(),
            },
            agent: AgentId::new(&format!("h{agent}")).unwrap(),
            verdict: Verdict::blank(Reason::ALL[reason], Stage::Reply, "", WallMs(0)),
        }
    }

    proptest! {
        /// Whatever happens to the instances, the counts equal those of a full recount.
        #[test]
        fn counts_are_what_counting_gives(
            changes in proptest::collection::vec((0u8..12, proptest::option::of((0u8..4, 0u8..3, 0usize..4))), 0..80)
        ) {
            let (mut counts, mut fleet) = (Counts::default(), BTreeMap::new());
            for (instance, change) in changes {
                let now = change.map(|(cluster, agent, reason)| status(cluster, agent, reason));
                let former = match &now {
                    Some(now) => fleet.insert(instance, now.clone()),
                    None => fleet.remove(&instance),
                };
                counts.moved(former.as_ref(), now.as_ref());
            }
            let mut anew = Counts::default();
            for status in fleet.values() {
                anew.moved(None, Some(status));
            }
            prop_assert_eq!(&counts, &anew);
            prop_assert_eq!(counts.kinds().map(|(_, n)| n).sum::<usize>(), fleet.len());
            prop_assert_eq!(counts.reasons().map(|(_, n)| n).sum::<usize>(), fleet.len());
            for cluster in [None, Some(ClusterName::new("c2").unwrap())] {
                let here = counts.kinds_of(&cluster).map(|(_, n)| n).sum::<usize>();
                prop_assert_eq!(here, fleet.values().filter(|s| s.identity.cluster == cluster).count());
            }
        }
    }
}
