//! Handles the streams of agents: how one begins and ends, which of its messages are new, and what a heartbeat changes.

use std::{collections::BTreeSet, time::Duration};

use super::{AgentInfo, AgentState, Effect, Fleet, Member, Message, OpenStream, Rival, is_collector_verdict};
use crate::{
    fleet::message_order::{Arrival, MessageOrder},
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    limits::AGENTS_MAX,
    status::Reason,
    time::{Mono, WallMs},
};

impl Fleet {
    /// A stream begins, whose agent was last heard, and whose last heartbeat was heard, at these times.
    pub(super) fn hello(
        &mut self,
        (now, (heard, heartbeat_at)): (Mono, (Mono, Mono)),
        wall: WallMs,
        stream: u64,
        greeting: AgentInfo,
        out: &mut Vec<Effect>,
    ) {
        let via: Option<Box<str>> = (!greeting.via.is_empty()).then(|| greeting.via.as_str().into());
        if self.agents.key(&greeting.agent).is_none() && self.agents.len() >= AGENTS_MAX {
            out.push(Effect::Full(stream, "too many agents"));
            return;
        }
        let (name, silent_after) = (greeting.agent.clone(), self.silent_after);
        let (place, agent) = self.agents.get_or_add(&name, || {
            AgentState::adopted(name.clone(), heard.min(heartbeat_at))
        });
        if agent.holds_its_id_against(&greeting.boot, now, silent_after) {
            let before = agent.rival.as_ref();
            let before = before.filter(|rival| rival.greeting.boot == greeting.boot);
            let times = before.map_or(0, |rival| rival.times);
            out.push(Effect::InUse(stream, place));
            if via.is_some() {
                // Perhaps a restart that was not noticed here yet; it is asked for again soon.
                return;
            }
            agent.rival = Some(Box::new(Rival {
                greeting,
                times: times.saturating_add(1),
                last: now,
            }));
            agent.version += 1;
            out.push(Effect::Agent(place));
            return;
        }
        let order = agent
            .order
            .get_or_insert_with(|| MessageOrder::new(greeting.boot.clone()));
        let Some(ordinal) = order.hello(&greeting.boot) else {
            out.push(Effect::Superseded(stream));
            return;
        };
        let fresh_boot = order.highest() == Seq(0);
        if fresh_boot {
            agent.complete = false;
            agent.members.forget_handles();
        }
        agent.rival = agent
            .rival
            .take()
            .filter(|rival| rival.greeting.boot != greeting.boot);
        agent.version += 1;
        agent.clock.observe(greeting.clock, wall);
        agent.greeting = Some(greeting);
        agent.stream = Some(stream);
        agent.streams_open += 1;
        agent.connected = wall;
        agent.snapshot = None;
        agent.heartbeat_at = agent.heartbeat_at.max(heartbeat_at);
        if now.since(heard) < silent_after {
            agent.heard(heard, silent_after, &mut self.deadlines);
            self.brake.heard(&name);
        } else {
            agent.watch(silent_after, &mut self.deadlines);
        }
        let open = OpenStream {
            agent: place,
            boot: ordinal,
        };
        self.streams.insert(stream, open);
        self.relayed.extend(via.map(|via| (stream, via)));
        out.push(Effect::Agent(place));
    }

    pub(super) fn bye(&mut self, stream: u64, out: &mut Vec<Effect>) {
        let Some(closed) = self.streams.remove(&stream) else {
            return;
        };
        self.relayed.remove(&stream);
        let Some(agent) = self.agents.at_mut(closed.agent) else {
            return;
        };
        agent.streams_open = agent.streams_open.saturating_sub(1);
        if agent.stream != Some(stream) {
            return;
        }
        agent.snapshot = None;
        // While one path was silent, another one may have taken its place.
        let same = |open: &OpenStream| open.agent == closed.agent && open.boot == closed.boot;
        let search = || self.streams.iter().rfind(|(_, open)| same(open));
        let other = if agent.streams_open > 0 { search() } else { None };
        agent.stream = other.map(|(number, _)| *number);
        let via = other.map(|(number, _)| self.relayed.get(number).map_or("", |via| via));
        if let (Some(via), Some(greeting)) = (via, &mut agent.greeting)
            && greeting.via != via
        {
            via.clone_into(&mut greeting.via);
            agent.version += 1;
            out.push(Effect::Agent(closed.agent));
        }
    }

    /// A message, which came this long ago if another collector relays it.
    pub(super) fn message(
        &mut self,
        (now, age): (Mono, Duration),
        wall: WallMs,
        (stream, seq): (u64, Seq),
        message: Message,
        out: &mut Vec<Effect>,
    ) {
        let silent_after = self.silent_after;
        // Whatever the message proves, it proves of this time.
        let now = now.before(age);
        // The agent may have been forgotten meanwhile.
        let arrived = self.streams.get(&stream).and_then(|open| {
            let agent = self.agents.at_mut(open.agent)?;
            let arrival = agent.order.as_mut()?.accept(open.boot, seq);
            Some((open.agent, agent, arrival))
        });
        let Some((place, agent, arrival)) = arrived else {
            out.push(Effect::Superseded(stream));
            return;
        };
        out.push(Effect::Arrived(arrival));
        match arrival {
            Arrival::Superseded => {
                out.push(Effect::Superseded(stream));
                return;
            }
            // What is older than `silent_after` does not end a silence.
            Arrival::New if age < silent_after => {
                agent.heard(now, silent_after, &mut self.deadlines);
                self.brake.heard(&agent.name);
            }
            Arrival::New | Arrival::Stale => {}
        }
        if let Message::Heartbeat(ages, clock) = message {
            if arrival == Arrival::New {
                agent.version += u64::from(agent.clock.observe(clock, wall));
                for id in agent.heartbeat(now, &ages) {
                    self.settle(wall, &id, true, out);
                }
            }
            out.push(Effect::Agent(place));
            return;
        }
        let name = &agent.name.clone();
        let origin = agent
            .order
            .as_ref()
            .map(|order| order.origin(seq))
            .unwrap_or_default();
        match message {
            Message::Snapshot(reports, last) => {
                self.snapshot(now, wall, (stream, name, origin), reports, last, out)
            }
            Message::Changes(reports) => {
                for report in reports {
                    self.report(now, wall, (stream, name, origin), report, out);
                }
            }
            // Handled above.
            Message::Heartbeat(..) => {}
            Message::Gone(handles) => {
                for handle in handles {
                    let agent = self.agents.get_mut(name);
                    let id = agent.and_then(|agent| agent.members.unbind_handle(handle));
                    if let Some(id) = id {
                        self.remove(name, &id, origin, out);
                    }
                }
            }
        }
        out.push(Effect::Agent(place));
    }
}

impl AgentState {
    /// Whether this agent keeps its id although another process claims it. A process that has ended has closed its
    /// stream. One whose host is gone sends nothing more, and its successor's claim is granted before the instances
    /// would become silent.
    fn holds_its_id_against(&self, boot: &BootId, now: Mono, silent_after: Duration) -> bool {
        let other = self.order.as_ref();
        // A retired boot is refused as superseded: it needs a new boot, whichever agent is alive.
        let other = other.is_some_and(|order| order.boot() != boot && !order.is_retired(boot.tag()));
        let alive = !self.silent && now.since(self.heard) < silent_after * 2 / 3;
        other && self.stream.is_some() && alive
    }

    fn heard(&mut self, now: Mono, silent_after: Duration, deadlines: &mut BTreeSet<(Mono, AgentId)>) {
        self.heard = self.heard.max(now);
        self.version += u64::from(self.silent);
        self.silent = false;
        self.watch(silent_after, deadlines);
    }

    /// Applies the ages of a heartbeat; returns the instances whose status no longer agrees with their progress.
    fn heartbeat(&mut self, now: Mono, ages: &[(Handle, Duration)]) -> Vec<InstanceId> {
        self.heartbeat_at = self.heartbeat_at.max(now);
        for (handle, age) in ages {
            if let Some(member) = self.members.by_handle(*handle) {
                member.progress = member.progress.max(now.before(*age));
            }
        }
        let turned = |member: &&Member| {
            if member.is_fresh(now) {
                is_collector_verdict(member.reason)
            } else {
                member.reason != Reason::ProbeStalled
            }
        };
        let turned = self.members.iter().filter(turned);
        turned.map(|member| member.id.clone()).collect()
    }
}
