//! Conversion of the view to messages of the wire, and of requests to checked filters.

use std::time::Duration;

use redkeeper_core::{
    ids::{AgentId, ClusterName, Revision},
    status::{Reason, State, Status as Known},
    time::{Mono, WallMs},
};
use redkeeper_proto::{convert, v1};
use redkeeper_runtime::clock::Clock;

use crate::{
    fleet::{
        change_log::Change,
        counts::{Counts, Kind},
        view::{AgentEntry, Entry, View},
    },
    grpc::errors::Failure,
};

const PAGE_DEFAULT: usize = 200;
const PAGE_MAX: usize = 1_000;
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

pub(super) fn page_size(wire: i32) -> Result<usize, Failure> {
    match usize::try_from(wire) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(Failure::InvalidArgument(format!("page_size: {wire} is negative"))),
    }
}

/// The time at which an answer is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Base for the ages of what was heard.
    pub(super) mono: Mono,
    /// Base for the ages of states, whose beginning is a wall-clock time.
    wall: WallMs,
}

impl Now {
    pub(super) fn of(clock: &Clock) -> Self {
        Self {
            mono: clock.now(),
            wall: clock.wall(),
        }
    }
}

/// How long ago that was, for display: the one place where a wall clock is subtracted from a time.
fn age(since: WallMs, now: WallMs) -> Option<Duration> {
    let known = since != WallMs::default();
    let millis = now.0.checked_sub(since.0).filter(|_| known)?;
    Some(Duration::from_millis(millis))
}

pub(super) fn instance(status: &Known, revision: Revision, progress: Option<Mono>, now: Now) -> v1::Instance {
    v1::Instance {
        id: status.identity.id.as_str().to_owned(),
        cluster: status
            .identity
            .cluster
            .as_ref()
            .map(|cluster| cluster.as_str().to_owned())
            .unwrap_or_default(),
        address: status.identity.address.to_string(),
        labels: (*status.identity.labels).clone(),
        agent_id: status.agent.as_str().to_owned(),
        verdict: Some(convert::verdict_to_wire(&status.verdict)),
        revision: revision.0,
        probe_age: progress.map(|at| convert::duration_to_wire(now.mono.since(at))),
        state_age: age(status.verdict.since, now.wall).map(convert::long_duration_to_wire),
    }
}

pub(super) fn entry(view: &View, entry: &Entry, now: Now) -> v1::Instance {
    instance(&entry.status, entry.revision, view.progress(&entry.status), now)
}

pub(super) fn transition(view: &View, change: &Change, now: Now) -> v1::Transition {
    let previous = change.previous.as_ref().map(|status| status.verdict.reason);
    v1::Transition {
        revision: change.revision.0,
        instance: Some(instance(
            &change.status,
            change.revision,
            view.progress(&change.status),
            now,
        )),
        previous_state: previous.map_or(0, |reason| convert::state_to_wire(reason.state()).into()),
        previous_reason: previous.map_or(0, convert::reason_to_wire),
        removed: change.removed,
        left_filter: false,
        update: !change.is_transition(),
        time: convert::time_to_wire(change.time),
    }
}

pub(super) fn agent(id: &AgentId, entry: &AgentEntry, now: Now) -> v1::Agent {
    let greeting = entry.greeting.as_ref();
    v1::Agent {
        id: id.to_string(),
        boot_id: greeting.map(|g| g.boot.as_str().to_owned()).unwrap_or_default(),
        version: greeting.map(|g| g.version.clone()).unwrap_or_default(),
        host: greeting.map(|g| g.host.clone()).unwrap_or_default(),
        silent: entry.silent,
        heard_age: greeting.map(|_| convert::duration_to_wire(now.mono.since(entry.live.heard()))),
        sequence: entry.live.sequence(),
        instances: count(entry.ids.len()),
        connected_time: convert::time_to_wire(entry.connected),
        connected_age: age(entry.connected, now.wall).map(convert::long_duration_to_wire),
        clock_ahead: (entry.clock_ahead_ms != 0)
            .then(|| convert::signed_millis_to_wire(entry.clock_ahead_ms)),
        address: greeting.map(|g| g.address.clone()).unwrap_or_default(),
        refused: entry.refused(now.mono).map(|rival| v1::RefusedAgent {
            boot_id: rival.greeting.boot.as_str().to_owned(),
            host: rival.greeting.host.clone(),
            address: rival.greeting.address.clone(),
            times: i64::try_from(rival.times).unwrap_or(i64::MAX),
            last_age: Some(convert::duration_to_wire(now.mono.since(rival.last))),
        }),
    }
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
