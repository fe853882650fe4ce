//! The task that keeps a link to each other collector, passes on which of their processes have ended, and logs what is
//! wrong with the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::hand_over::{HandOver, Heir};
use redkeeper_proto::{dial::Dial, v1::PublishedWrites};
use redkeeper_runtime::clock::Clock;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{
    Peer, Sender,
    asking::{Asking, Intervals},
    compare::Comparison,
    link::Link,
    relay::Intake,
    warnings::WarningLog,
};
use crate::{
    fleet::{open_streams::OpenStreams, view::ViewHandle},
    leader::{hand_over, leadership, proofs},
};

/// Time between two comparisons with what is known of leadership and the fleet.
const ROUND: Duration = Duration::from_secs(1);
/// Maximum members to which a link is kept; three are usual.
const PEERS_MAX: usize = 16;
/// Maximum links, with those to former members.
const LINKS_MAX: usize = 2 * PEERS_MAX;

/// The task.
pub struct PeerLinks {
    /// Id of this collector.
    pub id: String,
    /// The registered collectors, and the leader.
    pub leadership: leadership::Reader,
    /// The agents that this collector hears.
    pub view: ViewHandle,
    /// Write half of what the links tell.
    pub peers: Sender,
    /// Write half of the candidates whose processes have ended.
    pub ended: proofs::Sender,
    /// The streams of agents, which tell when each was last heard directly.
    pub open_streams: Arc<OpenStreams>,
    /// Where what is relayed goes.
    pub intake: Intake,
    /// Where what the leader tells of its writes goes.
    pub published: mpsc::Sender<PublishedWrites>,
    /// Asks the coordinator to hand leadership over.
    pub hand_over: hand_over::Sender,
    /// Intervals of the agents.
    pub intervals: Intervals,
    /// Opens connections.
    pub dial: Arc<dyn Dial>,
    /// Clock.
    pub clock: Clock,
    /// Request to stop.
    pub stop: CancellationToken,
}

/// The links, by id of the collector.
#[derive(Default)]
struct Open {
    links: BTreeMap<String, (String, CancellationToken)>,
    running: FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl PeerLinks {
    /// Keeps the links until asked to stop.
    pub async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! { biased; () = stop.cancelled() => (), () = self.keep() => () }
    }

    async fn keep(self) {
        let (mut open, mut told) = (Open::default(), WarningLog::default());
        let mut better = HandOver::default();
        let mut comparison = Comparison::new(self.clock.now());
        let mut asking = Asking::new(self.intervals, self.clock.now());
        let mut looks = tokio::time::interval(self.intervals.look());
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut leadership, mut answers) = (self.leadership.clone(), self.peers.subscribe());
        leadership.mark_changed();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Ok(()) = answers.changed() => self.prove(&answers.borrow_and_update()),
                // The coordinator ends with the process only.
                Ok(()) = leadership.changed() => {
                    leadership.mark_unchanged();
                    self.follow(&mut open, &mut asking);
                }
                _ = looks.tick() => {
                    let (now, peers) = (self.clock.now(), self.peers.borrow());
                    asking.decide(now, &self.view, &self.open_streams, &peers, &self.intake);
                }
                _ = rounds.tick() => {
                    self.follow(&mut open, &mut asking);
                    let mut peers = self.peers.borrow().clone();
                    let leader = self.leadership.borrow().leader(self.clock.now()).to_owned();
                    comparison.compare(&self.clock, &self.view.get(), (&self.id, &leader), &mut peers);
                    self.look_for_better(&mut better, &leader, &peers);
                    told.log(&self.leadership.borrow(), &peers, self.clock.now());
                    self.peers.send_if_modified(|now| {
                        let changed = *now != peers;
                        *now = peers;
                        changed
                    });
                }
                // Last: while links have work, the clocks above still have their turn.
                Some(()) = open.running.next() => (),
            }
        }
    }

    /// Opens links to new members, and ends those to former ones that do not answer. One that answers and is no member has
    /// lost ZooKeeper only: it goes on relaying.
    fn follow(&self, open: &mut Open, asking: &mut Asking) {
        let members = self.leadership.borrow().members.clone();
        let others = members.iter().filter(|member| member.id != self.id);
        let others: Vec<_> = others.take(PEERS_MAX).collect();
        open.links.retain(|id, (address, stop)| {
            let member = others.iter().find(|member| member.id == *id);
            let answers = || self.peers.borrow().peers.get(id).is_some_and(Peer::is_linked);
            let stays = member.map_or_else(answers, |member| member.grpc == *address);
            if !stays {
                stop.cancel();
                asking.forget(id);
            }
            stays
        });
        // What another address told says nothing of the present one.
        self.peers.send_if_modified(|peers| {
            let before = peers.peers.len();
            peers.peers.retain(|id, _| open.links.contains_key(id));
            peers.peers.len() != before
        });
        for member in others {
            if open.links.contains_key(&member.id) || open.links.len() >= LINKS_MAX {
                continue;
            }
            let stop = CancellationToken::new();
            let link = Link {
                own: self.id.clone(),
                id: member.id.clone(),
                address: member.grpc.clone(),
                dial: Arc::clone(&self.dial),
                peers: self.peers.clone(),
                wanted: asking.of(&member.id),
                intake: self.intake.clone(),
                published: self.published.clone(),
                clock: self.clock,
                stop: stop.clone(),
            };
            open.links.insert(member.id.clone(), (member.grpc.clone(), stop));
            open.running.push(Box::pin(link.run()));
        }
    }

    /// Hands leadership over if another collector hears far more agents.
    fn look_for_better(&self, better: &mut HandOver, leader: &str, peers: &super::Peers) {
        // One that does not know that this one leads, or is no candidate, could not take over.
        let could_lead =
            |peer: &&Peer| peer.is_linked() && peer.leader == self.id && peer.link.candidate().is_some();
        let heir = |(id, peer): (&String, &Peer)| Heir {
            id: id.clone(),
            heard: peer.heard.len(),
        };
        let heirs = peers.peers.iter().filter(|(_, peer)| could_lead(peer));
        let heirs: Vec<_> = heirs.map(heir).collect();
        let own = self.view.get().heard_agents().count();
        let Some(id) = better.step(self.clock.now(), leader == self.id, own, &heirs) else {
            return;
        };
        let heard = peers.peers.get(&id).map_or(0, |peer| peer.heard.len());
        tracing::warn!(
            collector = id,
            heard,
            own,
            "another collector hears far more agents: it is to lead"
        );
        let request = hand_over::Request {
            to: peers
                .peers
                .get(&id)
                .and_then(|peer| peer.link.candidate())
                .map(str::to_owned),
            why: format!("{id} hears {heard} agents, this collector {own}"),
            answer: None,
        };
        // What does not fit is asked for again.
        drop(self.hand_over.try_send(request));
    }

    /// Passes on the candidates whose processes have ended.
    fn prove(&self, peers: &super::Peers) {
        let ended: BTreeSet<_> = peers
            .peers
            .values()
            .filter_map(|peer| peer.link.ended().map(str::to_owned))
            .collect();
        self.ended.send_if_modified(|known| {
            let new = *known != ended;
            *known = ended;
            new
        });
    }
}
