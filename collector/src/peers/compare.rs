//! Compares which agents each collector hears, and finds ids that two agents claim.

use std::time::Duration;

use redkeeper_core::{
    fleet::unheard_agents::{Heard, Hearing},
    time::Mono,
};
use redkeeper_runtime::clock::Clock;

use super::{Peers, SharedId};
use crate::fleet::view::View;

/// Interval of the comparison.
const INTERVAL: Duration = Duration::from_secs(2);

/// Repeatedly compares what the collectors hear.
#[derive(Debug)]
pub(super) struct Comparison {
    hearing: Hearing,
    next: Mono,
}

impl Comparison {
    pub(super) fn new(now: Mono) -> Self {
        Self {
            hearing: Hearing::default(),
            next: now,
        }
    }

    /// Compares, if it is time, and records the result in `peers`.
    pub(super) fn compare(
        &mut self,
        clock: &Clock,
        view: &View,
        (own_id, leader): (&str, &str),
        peers: &mut Peers,
    ) {
        let now = clock.now();
        peers.held = view.held;
        if now < self.next {
            return;
        }
        self.next = now + INTERVAL;
        peers.shared_ids = shared_ids(view, now);
        let own = heard_by(view);
        let answering = peers.peers.iter().filter(|(_, peer)| peer.is_linked());
        let mut heard: Vec<(&str, &Heard)> = answering
            .map(|(id, peer)| (id.as_str(), &*peer.heard))
            .chain([(own_id, &own)])
            .collect();
        let place = heard.iter().position(|(id, _)| *id == leader);
        peers.unheard = match place.map(|place| heard.swap_remove(place)) {
            Some((_, by_leader)) => self.hearing.compare(by_leader, heard),
            None => {
                self.hearing.forget();
                Vec::new()
            }
        };
        let since = peers.unheard_since.unwrap_or_else(|| clock.wall());
        peers.unheard_since = (!peers.unheard.is_empty()).then_some(since);
    }
}

/// The agents that this collector hears.
pub(super) fn heard_by(view: &View) -> Heard {
    view.heard_agents().cloned().collect()
}

/// The ids of agents that others claim too.
fn shared_ids(view: &View, now: Mono) -> Vec<SharedId> {
    let shared = view.agents.values().filter_map(|agent| {
        let (holder, refused) = (agent.greeting.as_ref()?, agent.refused(now)?);
        Some(SharedId {
            agent: agent.name.clone(),
            holder: holder.place(),
            refused: refused.greeting.place(),
        })
    });
    shared.collect()
}
