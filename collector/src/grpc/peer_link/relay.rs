//! Relays agents over one link: of each agent that is asked for, first what is known of it, then each message as it comes.

use std::collections::{BTreeSet, VecDeque};

use redkeeper_core::{
    fleet::AgentSnapshot,
    ids::{AgentId, Seq},
    limits::{AGENTS_MAX, REPORTS_PER_MESSAGE_MAX},
    time::Mono,
};
use redkeeper_proto::{
    convert,
    v1::{RelayedMessage, RelayedMessages, ReportStatusRequest, Snapshot, report_status_request::Message},
};
use tokio::sync::oneshot;

use super::Links;
use crate::{
    fleet::{
        command::Command,
        relay_tap::{self, TapReceiver, TapSender, Tapped},
    },
    grpc::errors::Failure,
};

/// Relayed messages in one answer. A heartbeat of 5,000 instances has 40 KB: 64 x 40 KB = 2.6 MB, below the 4 MiB that a
/// client takes.
const MESSAGES_MAX: usize = 64;
/// Reports and messages after which an answer takes no more: 576 x 3,500 bytes = 2 MB with the last message.
const WEIGHT_MAX: usize = 512;
/// Agents of which the aggregator is asked at a time.
const ASKED_MAX: usize = 32;

/// What is relayed over one link.
pub(super) struct Relay<'a> {
    links: &'a Links,
    /// Number of the link.
    link: u64,
    /// The agents that are relayed.
    agents: BTreeSet<AgentId>,
    /// Those of which what is known must be told first.
    begin: VecDeque<AgentId>,
    /// The answers of the aggregator that are awaited, in their order.
    asked: VecDeque<(AgentId, oneshot::Receiver<Option<AgentSnapshot>>)>,
    /// What is known of an agent and not told yet: at most its 5,000 instances.
    known: VecDeque<RelayedMessage>,
    sender: TapSender,
    receiver: TapReceiver,
}

impl<'a> Relay<'a> {
    pub(super) fn new(links: &'a Links) -> Self {
        let (sender, receiver) = relay_tap::channel();
        Self {
            links,
            link: fastrand::u64(..),
            agents: BTreeSet::new(),
            begin: VecDeque::new(),
            asked: VecDeque::new(),
            known: VecDeque::new(),
            sender,
            receiver,
        }
    }

    /// Sets which agents are relayed.
    ///
    /// # Errors
    /// When there are too many.
    pub(super) fn ask(&mut self, ids: &[String]) -> Result<(), Failure> {
        if ids.len() > AGENTS_MAX {
            return Err(Failure::BadMessage(format!("{} agents are asked for", ids.len())));
        }
        let wanted: BTreeSet<_> = ids.iter().flat_map(|id| AgentId::new(id)).collect();
        for agent in self.agents.difference(&wanted) {
            self.links.open_streams.untap(self.link, agent);
        }
        self.begin.retain(|agent| wanted.contains(agent));
        self.begin.extend(wanted.difference(&self.agents).cloned());
        self.agents = wanted;
        Ok(())
    }

    /// The next messages to relay. May be cancelled at any await.
    ///
    /// # Errors
    /// When the other side takes them too slowly, or this collector stops.
    pub(super) async fn next(&mut self) -> Result<RelayedMessages, Failure> {
        loop {
            if !self.known.is_empty() {
                return Ok(self.batch());
            }
            if self.asked.len() < ASKED_MAX && !self.begin.is_empty() {
                let place = self.links.commands.reserve().await;
                let place = place.map_err(|_| Failure::ShuttingDown)?;
                if let Some(agent) = self.begin.pop_front() {
                    // What comes from now on waits until what is known has been told, so that nothing is missed.
                    self.links.open_streams.tap(self.link, &agent, &self.sender);
                    let (answer, receiver) = oneshot::channel();
                    place.send(Command::Snapshot(agent.clone(), answer));
                    self.asked.push_back((agent, receiver));
                }
            } else if let Some((agent, answer)) = self.asked.front_mut() {
                let known = answer.await.map_err(|_| Failure::ShuttingDown)?;
                let known = known.filter(|_| self.agents.contains(agent));
                self.asked.pop_front();
                self.known.extend(known.iter().flat_map(beginning));
            } else {
                let first = self.receiver.next().await.ok_or(Failure::RelayTooSlow)?;
                let message = self.relayed(first);
                self.known.extend(message);
            }
        }
    }

    /// One answer, of what is known and then of what waits.
    fn batch(&mut self) -> RelayedMessages {
        let (mut messages, mut weight) = (Vec::new(), 0);
        while messages.len() < MESSAGES_MAX && weight < WEIGHT_MAX {
            let message = match self.known.pop_front() {
                Some(message) => message,
                // While others are asked for, what waits comes after what is known of them.
                None if !self.asked.is_empty() || !self.begin.is_empty() => break,
                None => {
                    let Some(tapped) = self.receiver.try_next() else {
                        break;
                    };
                    let Some(message) = self.relayed(tapped) else {
                        continue;
                    };
                    message
                }
            };
            weight += message.request.as_ref().map_or(0, relay_tap::weight);
            messages.push(message);
        }
        let sent = self.links.metrics.relayed.get_or_create(&[("direction", "sent")]);
        sent.inc_by(messages.len() as u64);
        RelayedMessages { messages }
    }

    /// The message to send; `None` if the agent is no longer asked for, or must be told of anew.
    fn relayed(&mut self, tapped: Tapped) -> Option<RelayedMessage> {
        if !self.agents.contains(&tapped.agent) {
            return None;
        }
        if tapped.request.message.is_none() {
            if !self.begin.contains(&tapped.agent) {
                self.begin.push_back(tapped.agent);
            }
            return None;
        }
        Some(relayed(tapped, self.links.clock.now()))
    }
}

impl Drop for Relay<'_> {
    fn drop(&mut self) {
        for agent in &self.agents {
            self.links.open_streams.untap(self.link, agent);
        }
    }
}

fn relayed(tapped: Tapped, now: Mono) -> RelayedMessage {
    let age = convert::duration_to_wire(now.since(tapped.received));
    let is_hello = matches!(tapped.request.message, Some(Message::Hello(_)));
    RelayedMessage {
        agent_id: tapped.agent.to_string(),
        boot_id: tapped.boot.as_str().to_owned(),
        // A Hello counts as a heartbeat.
        heartbeat_age: is_hello.then_some(age),
        age: Some(age),
        request: Some(tapped.request),
    }
}

/// What is known of an agent, as messages of it.
fn beginning(known: &AgentSnapshot) -> Vec<RelayedMessage> {
    let age = convert::duration_to_wire(known.heard_age);
    let message = |Seq(sequence), message| RelayedMessage {
        agent_id: known.greeting.agent.to_string(),
        boot_id: known.greeting.boot.as_str().to_owned(),
        age: Some(age),
        request: Some(ReportStatusRequest {
            sequence,
            message: Some(message),
        }),
        heartbeat_age: None,
    };
    let hello = RelayedMessage {
        heartbeat_age: Some(convert::duration_to_wire(known.heartbeat_age)),
        ..message(Seq(0), Message::Hello(convert::greeting_to_wire(&known.greeting)))
    };
    let mut messages = vec![hello];
    for (seq, reports) in &known.reports {
        for part in reports.chunks(REPORTS_PER_MESSAGE_MAX) {
            let instances = part.iter().map(convert::report_to_wire).collect();
            let part = Snapshot {
                instances,
                last: false,
            };
            messages.push(message(*seq, Message::Snapshot(part)));
        }
    }
    messages.extend(known.complete.map(|seq| {
        let end = Snapshot {
            instances: Vec::new(),
            last: true,
        };
        message(seq, Message::Snapshot(end))
    }));
    messages
}
