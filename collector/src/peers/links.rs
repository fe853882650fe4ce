//! The task that keeps a link to each other collector, passes on which of their processes have ended, and logs what is
//! wrong with the cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_proto::dial::Dial;
use redkeeper_runtime::clock::Clock;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Sender, compare::Comparison, link::Link, warnings::WarningLog};
use crate::{
    fleet::view::ViewHandle,
    leader::{leadership, proofs},
    store::records::CollectorJson,
};

/// Time between two comparisons with what is known of leadership and the fleet.
const ROUND: Duration = Duration::from_secs(1);
/// Maximum collectors to which a link is kept; three are usual.
const PEERS_MAX: usize = 16;

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
        let mut comparison = Comparison::new(self.clock.now());
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
                    let members = leadership.borrow_and_update().members.clone();
                    self.follow(&members, &mut open);
                }
                Some(()) = open.running.next() => (),
                _ = rounds.tick() => {
                    let mut peers = self.peers.borrow().clone();
                    let leader = self.leadership.borrow().leader(self.clock.now()).to_owned();
                    comparison.compare(&self.clock, &self.view.get(), (&self.id, &leader), &mut peers);
                    told.log(&self.leadership.borrow(), &peers, self.clock.now());
                    self.peers.send_if_modified(|now| {
                        let changed = *now != peers;
                        *now = peers;
                        changed
                    });
                }
            }
        }
    }

    /// Opens links to new members, and ends those to former ones.
    fn follow(&self, members: &[CollectorJson], open: &mut Open) {
        let others = members.iter().filter(|member| member.id != self.id);
        let others: Vec<_> = others.take(PEERS_MAX).collect();
        open.links.retain(|id, (address, stop)| {
            let stays = others.iter().any(|m| m.id == *id && m.grpc == *address);
            if !stays {
                stop.cancel();
            }
            stays
        });
        let gone = |id: &String| !others.iter().any(|member| member.id == *id);
        self.peers.send_if_modified(|peers| {
            let before = peers.peers.len();
            peers.peers.retain(|id, _| !gone(id));
            peers.peers.len() != before
        });
        for member in others {
            if open.links.contains_key(&member.id) {
                continue;
            }
            let stop = CancellationToken::new();
            let link = Link {
                own: self.id.clone(),
                id: member.id.clone(),
                address: member.grpc.clone(),
                dial: Arc::clone(&self.dial),
                peers: self.peers.clone(),
                clock: self.clock,
            };
            open.links
                .insert(member.id.clone(), (member.grpc.clone(), stop.clone()));
            open.running.push(Box::pin(async move {
                tokio::select! { biased; () = stop.cancelled() => (), () = link.run() => () }
            }));
        }
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
