//! Filters of queries and watch streams: which instances the caller asked for.

use redkeeper_core::{
    ids::ClusterName,
    status::{Reason, State, Status as Known},
};
use redkeeper_proto::{convert, v1};

use crate::{
    fleet::{
        change_log::Change,
        counts::{Counts, Kind},
    },
    grpc::errors::Failure,
};

/// A checked [`v1::InstanceFilter`].
#[derive(Default)]
pub(super) struct Filter {
    states: Vec<State>,
    /// Numbers of the wire: a newer tool may ask for one that this version does not know.
    reasons: Vec<i32>,
    /// Sorted and without duplicates; `None` stands for instances that are in no cluster.
    clusters: Vec<Option<ClusterName>>,
    agents: Vec<String>,
}

impl Filter {
    pub(super) fn new(wire: Option<v1::InstanceFilter>) -> Result<Self, Failure> {
        let wire = wire.unwrap_or_default();
        let bad = |what: &str, n: &i32| Failure::InvalidArgument(format!("filter.{what}: {n} is not known"));
        let name = |text: &String| match text.as_str() {
            "" => Ok(None),
            text => ClusterName::new(text)
                .map(Some)
                .map_err(|e| Failure::InvalidArgument(format!("filter.clusters: {text:?} {e}"))),
        };
        let mut clusters = wire.clusters.iter().map(name).collect::<Result<Vec<_>, _>>()?;
        clusters.sort_unstable();
        clusters.dedup();
        Ok(Self {
            states: wire
                .states
                .iter()
                .map(|n| convert::state_from_wire(*n).ok_or_else(|| bad("states", n)))
                .collect::<Result<_, _>>()?,
            reasons: wire
                .reasons
                .iter()
                .map(|n| if *n > 0 { Ok(*n) } else { Err(bad("reasons", n)) })
                .collect::<Result<_, _>>()?,
            clusters,
            agents: wire.agent_ids,
        })
    }

    /// What a change means to a reader with this filter; `None` if it means nothing.
    pub(super) fn concerns(&self, change: &Change) -> Option<Seen> {
        let before = change
            .previous
            .as_ref()
            .is_some_and(|status| self.matches(status));
        let after = !change.removed && self.matches(&change.status);
        match (before, after) {
            (_, true) => Some(Seen::Matches),
            (true, false) => Some(Seen::Left),
            (false, false) => None,
        }
    }

    /// How many instances match.
    pub(super) fn count(&self, counts: &Counts) -> usize {
        if self.clusters.is_empty() && self.agents.is_empty() {
            let wanted = counts.reasons().filter(|(reason, _)| self.wants(*reason));
            return wanted.map(|(_, n)| n).sum();
        }
        self.kinds(counts).map(|(_, n)| n).sum()
    }

    /// The kinds of instances that match, in order, and how many there are of each.
    pub(super) fn kinds<'a>(
        &'a self,
        counts: &'a Counts,
    ) -> Box<dyn Iterator<Item = (&'a Kind, usize)> + 'a> {
        let kinds: Box<dyn Iterator<Item = _>> = if self.clusters.is_empty() {
            Box::new(counts.kinds())
        } else {
            Box::new(self.clusters.iter().flat_map(|name| counts.kinds_of(name)))
        };
        Box::new(kinds.filter(|(kind, _)| self.wants(kind.reason) && self.wants_agent(kind.agent())))
    }

    fn wants(&self, reason: Reason) -> bool {
        (self.states.is_empty() || self.states.contains(&reason.state()))
            && (self.reasons.is_empty() || self.reasons.contains(&convert::reason_to_wire(reason)))
    }

    fn wants_agent(&self, agent: &str) -> bool {
        self.agents.is_empty() || self.agents.iter().any(|name| name == agent)
    }

    pub(super) fn matches(&self, status: &Known) -> bool {
        self.wants(status.verdict.reason)
            && (self.clusters.is_empty() || self.clusters.contains(&status.identity.cluster))
            && self.wants_agent(status.agent.as_str())
    }
}

/// How an instance relates to a filter after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    /// It matches.
    Matches,
    /// It matched before, and no longer does, or is no longer known.
    Left,
}
