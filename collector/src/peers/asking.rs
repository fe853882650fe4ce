//! Decides, several times a second, which agents are asked of which other collector (`core::relay_plan`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError},
    time::Duration,
};

use redkeeper_core::{
    fleet::unheard_agents::Heard,
    ids::AgentId,
    relay_plan::{LastHeard, RelayPlan, overdue_after},
    time::Mono,
};
use tokio::sync::watch;

use super::{Peers, relay::Intake};
use crate::fleet::{
    open_streams::OpenStreams,
    view::{AgentEntry, View, ViewHandle},
};

/// The agents that one collector is asked for.
pub(super) type Wanted = watch::Receiver<Arc<BTreeSet<AgentId>>>;

/// Decisions within the time between the first overdue heartbeat and `silent_after`.
const LOOKS: u32 = 8;
/// Bounds of the time between two decisions.
const LOOK_RANGE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// Intervals that are set for all agents.
#[derive(Clone, Copy, Debug)]
pub struct Intervals {
    /// Interval of heartbeats.
    pub heartbeat: Duration,
    /// Silence after which an agent's instances are UNKNOWN.
    pub silent_after: Duration,
}

impl Intervals {
    /// Time between two decisions.
    pub(super) fn look(self) -> Duration {
        let overdue = overdue_after(self.heartbeat, self.silent_after);
        let left = self.silent_after.saturating_sub(overdue);
        (left / LOOKS).clamp(LOOK_RANGE.0, LOOK_RANGE.1)
    }
}

/// Who is asked for what.
pub(super) struct Asking {
    plan: RelayPlan,
    overdue_after: Duration,
    look: Duration,
    last: Mono,
    /// Agents that only others know, and what they were found from: the views' agents and what the others hear.
    unknown: BTreeSet<AgentId>,
    found_from: (Arc<View>, Vec<Arc<Heard>>),
    wanted: BTreeMap<String, watch::Sender<Arc<BTreeSet<AgentId>>>>,
}

impl Asking {
    pub(super) fn new(intervals: Intervals, now: Mono) -> Self {
        let overdue_after = overdue_after(intervals.heartbeat, intervals.silent_after);
        Self {
            plan: RelayPlan::new(overdue_after),
            overdue_after,
            look: intervals.look(),
            last: now,
            unknown: BTreeSet::new(),
            found_from: Default::default(),
            wanted: BTreeMap::new(),
        }
    }

    /// What a collector is asked for.
    pub(super) fn of(&mut self, peer: &str) -> Wanted {
        let sender = self.wanted.entry(peer.to_owned()).or_default();
        sender.subscribe()
    }

    /// Forgets a collector to which no link is kept any more.
    pub(super) fn forget(&mut self, peer: &str) {
        self.wanted.remove(peer);
    }

    /// Decides, and tells the links.
    pub(super) fn decide(
        &mut self,
        now: Mono,
        view: &ViewHandle,
        streams: &OpenStreams,
        peers: &Peers,
        intake: &Intake,
    ) {
        let late = now.since(std::mem::replace(&mut self.last, now));
        if late > self.look * 3 {
            // This process did not run: nobody could be heard, and what was sent meanwhile is not read yet.
            return;
        }
        let refused = std::mem::take(&mut *intake.refused.lock().unwrap_or_else(PoisonError::into_inner));
        refused.iter().for_each(|agent| self.plan.refused(now, agent));
        let linked: Vec<_> = peers.peers.iter().filter(|(_, peer)| peer.is_linked()).collect();
        let view = view.get();
        self.find_unknown(&view, linked.iter().map(|(_, peer)| &peer.heard));
        // In the usual case, this is all: one look at each agent.
        let is_doubtful = |entry: &&Arc<AgentEntry>| {
            let is_direct = entry
                .greeting
                .as_ref()
                .is_some_and(|greeting| greeting.via.is_empty());
            let is_fresh = now.since(entry.live.heard()) < self.overdue_after;
            !is_direct || !is_fresh || self.plan.asks_for(&entry.name)
        };
        let doubtful: Vec<_> = view.agents.values().filter(is_doubtful).collect();
        if doubtful.is_empty() && self.unknown.is_empty() && self.plan.is_empty() {
            return;
        }
        let last = |entry: &Arc<AgentEntry>| LastHeard {
            direct: streams.heard(&entry.name),
            any: entry.live.heard(),
        };
        let own = doubtful.into_iter().map(|entry| (&entry.name, last(entry)));
        let heard: Vec<_> = linked
            .iter()
            .map(|(id, peer)| (id.as_str(), &*peer.heard))
            .collect();
        self.plan.step(now, own, self.unknown.iter(), &heard);
        for (peer, sender) in &self.wanted {
            let wanted = self.plan.of(peer);
            sender.send_if_modified(|now| {
                let changed = **now != wanted;
                if changed {
                    *now = Arc::new(wanted);
                }
                changed
            });
        }
    }

    /// Looks for agents that only others know, if anything has changed.
    fn find_unknown<'a>(&mut self, view: &Arc<View>, heard: impl Iterator<Item = &'a Arc<Heard>>) {
        let heard: Vec<_> = heard.cloned().collect();
        let (before, heard_before) = &self.found_from;
        let same = before.agents.ptr_eq(&view.agents)
            && heard.len() == heard_before.len()
            && heard.iter().zip(heard_before).all(|(a, b)| Arc::ptr_eq(a, b));
        if same {
            return;
        }
        let all = heard.iter().flat_map(|heard| heard.iter());
        self.unknown = all
            .filter(|agent| !view.agents.contains_key(*agent))
            .cloned()
            .collect();
        self.found_from = (Arc::clone(view), heard);
    }
}
