//! Brings the aggregator's view in line with the fleet: after a change of an instance, its removal, and a change of an
//! agent.

use std::sync::{Arc, atomic::Ordering};

use redkeeper_core::{
    fleet::SlotKey,
    ids::{InstanceId, Revision},
};

use super::{
    aggregator::Aggregator,
    change_log::Change,
    transition_log::log_clock_offset,
    view::{AgentEntry, LiveCounters, Put, Reporting},
};

impl Aggregator {
    pub(super) fn changed(&mut self, id: &InstanceId) {
        let Some(instance) = self.fleet.instance(id) else {
            return;
        };
        let (status, origin) = (Arc::clone(&instance.status), instance.origin);
        let previous = match self.view.put(&status, origin) {
            Put::Same => return,
            Put::New => None,
            Put::Instead(former) => Some(former),
        };
        self.dirty = true;
        let revision = self.view.revision;
        let reason = previous.as_ref().map(|former| former.verdict.reason);
        if previous
            .as_ref()
            .is_none_or(|former| status.is_transition_from(former))
        {
            self.transition_log.transition(&status, reason);
            self.metrics
                .transitions
                .get_or_create(&[("reason", status.verdict.reason.as_str())])
                .inc();
        }
        self.view.log.push(Change {
            revision,
            status,
            origin,
            previous,
            removed: false,
            time: self.clock.wall(),
        });
    }

    pub(super) fn removed(&mut self, id: &InstanceId) {
        let Some(former) = self.view.remove(id) else {
            return;
        };
        self.transition_log.removed(id);
        self.view.conflicts.forget(id);
        self.dirty = true;
        self.view.revision = Revision(self.view.revision.0 + 1);
        self.view.log.push(Change {
            revision: self.view.revision,
            previous: Some(Arc::clone(&former.status)),
            status: former.status,
            origin: former.origin,
            removed: true,
            time: self.clock.wall(),
        });
    }

    /// Updates the view's entry of an agent. Most messages move its live numbers only.
    pub(super) fn agent(&mut self, place: SlotKey) {
        let Some(agent) = self.fleet.agents().at(place) else {
            return;
        };
        let sequence = agent.order.as_ref().map_or(0, |order| order.highest().0);
        let heard = (agent.heard, agent.heartbeat_at);
        let progress = agent.members.iter().map(|member| member.progress);
        if sequence > 0 {
            self.view.heard.fetch_max(agent.heard.0, Ordering::Relaxed);
        }
        let version = (agent.version, agent.members.version());
        if self.agents.len() <= place.index() {
            self.agents.resize(place.index() + 1, None);
        }
        if let Some((told, entry)) = &self.agents[place.index()]
            && *told == version
            && entry.name == agent.name
        {
            entry.live.set(sequence, heard, progress);
            return;
        }
        let before = self.agents[place.index()]
            .as_ref()
            .filter(|(_, entry)| entry.name == agent.name)
            .map_or(0, |(_, entry)| entry.clock_ahead_ms);
        let ahead = agent.clock.ahead_ms();
        if ahead != before {
            log_clock_offset(&agent.name, ahead);
        }
        let live = LiveCounters::new(agent.members.len());
        live.set(sequence, heard, progress);
        let members = agent.members.iter().zip(agent.members.handles());
        let entry = Arc::new(AgentEntry {
            name: agent.name.clone(),
            greeting: agent.greeting.clone(),
            silent: agent.silent,
            clock_ahead_ms: agent.clock.ahead_ms(),
            complete: agent.complete,
            connected: agent.connected,
            rival: agent.rival.as_deref().cloned(),
            ids: agent.members.iter().map(|member| member.id.clone()).collect(),
            reporting: members
                .map(|(member, handle)| Reporting::new(member, handle))
                .collect(),
            live: Arc::new(live),
        });
        self.view.agents.insert(agent.name.clone(), Arc::clone(&entry));
        self.agents[place.index()] = Some((version, entry));
        self.dirty = true;
    }
}
