//! The task that talks to ZooKeeper, on a thread of its own so that a busy main runtime never delays the session. It
//! carries out what `core::election` decides and, while leading, runs the [`publisher`](crate::publish). Any doubt that
//! cannot be settled ends in a fresh session.

mod announce;
mod campaign;
pub mod hand_over;
pub mod leadership;
mod membership;
pub mod proofs;
mod session;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use redkeeper_core::{
    backoff::Backoff,
    election::{Effect, Election, Input, lease::Lease},
    ids::{CollectorId, Epoch},
    time::Mono,
};
use redkeeper_proto::v1::PublishedWrites;
use redkeeper_runtime::{clock::Clock, errors::chain};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{command::Command, view::ViewHandle},
    leader::membership::MembershipSnapshot,
    metrics::Metrics,
    publish::{LeaderTerm, Setup, follow::Follower, replicate},
    store::{Connection, Session, Store, StoreError, diagnostics::Diagnostics, layout::Layout},
};

/// How often members, epoch and leader are read for `GetClusterStatus`.
const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(1);
/// A session that lived this long counts as good: the next delay is short again.
const SESSION_GOOD: Duration = Duration::from_secs(5);
/// Delay before a new session.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// The coordinator.
pub struct Coordinator<S: Store> {
    /// Opens sessions.
    pub store: S,
    /// Paths in ZooKeeper.
    pub layout: Layout,
    /// Id of this collector.
    pub id: CollectorId,
    /// Own gRPC address, for others.
    pub address: String,
    /// The fleet's view.
    pub view: ViewHandle,
    /// Command channel of the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Write half of the watched standing.
    pub leadership: leadership::Sender,
    /// Clock.
    pub clock: Clock,
    /// Candidates whose processes have ended, as the links to them prove.
    pub ended: proofs::Reader,
    /// Requests to hand leadership over.
    pub requests: mpsc::Receiver<hand_over::Request>,
    /// What the links to the other collectors tell of the leader's writes.
    pub told: mpsc::Receiver<PublishedWrites>,
    /// Tells the links of other collectors of the own writes, while leading.
    pub links: replicate::Sender,
    /// Largest share of the statuses that may be deleted as orphans, in percent.
    pub orphans_max_percent: u8,
    /// Time between the read-backs of two buckets.
    pub audit_interval: Duration,
    /// Time between two freshness marks.
    pub freshness_interval: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Record for debug pages.
    pub diagnostics: Arc<Diagnostics>,
    /// Request to stop.
    pub stop: CancellationToken,
}

/// A request of the election. Resolves to its input, and the instant before the request was sent.
type Operation = Pin<Box<dyn Future<Output = (Input, Mono)> + Send>>;

/// What lasts longer than a session.
struct Lasting {
    setup: Setup,
    follower: Follower,
    election: Election,
    /// The last term that this process led.
    led: Option<Epoch>,
    /// Number of candidates that no session owns, as last logged.
    leftovers: usize,
    /// Requests to hand over.
    requests: mpsc::Receiver<hand_over::Request>,
}

/// How a session ended.
enum SessionEnd {
    Dropped,
    Stopped,
}

impl<S: Store> Coordinator<S> {
    /// Holds a session, takes part in the election, and leads when elected, until asked to stop.
    pub async fn run(mut self) {
        let (_, unused) = mpsc::channel(1);
        let mut lasting = Lasting {
            setup: self.setup(),
            follower: Follower::new(std::mem::replace(&mut self.told, unused)),
            election: Election::default(),
            led: None,
            leftovers: 0,
            requests: std::mem::replace(&mut self.requests, mpsc::channel(1).1),
        };
        let servers = self.store.servers();
        self.tell(|d| {
            d.servers = servers;
            d.note_connection(None, self.clock.wall());
        });
        let (mut attempt, mut logged) = (0u32, String::new());
        while !self.stop.is_cancelled() {
            let session = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                session = self.open() => session,
            };
            match session {
                Ok(session) => {
                    self.metrics.sessions.inc();
                    logged.clear();
                    let opened = tokio::time::Instant::now();
                    let mut publishing = None;
                    let end = self.serve(&session, &mut lasting, &mut publishing).await;
                    if let Some(term) = publishing {
                        lasting.follower.put_mirror(term.into_mirror());
                    }
                    if opened.elapsed() >= SESSION_GOOD {
                        attempt = 0;
                    }
                    // Report this collector as offline before closing: a successor may lead within milliseconds.
                    self.offline(None);
                    S::Session::close(session).await;
                    lasting.election.step(Input::Lost, &mut Vec::new());
                    if matches!(end, SessionEnd::Stopped) {
                        return;
                    }
                }
                Err(e) => {
                    let text = match &e {
                        StoreError::Unreachable(tried) => tried.clone(),
                        e => chain(e).to_string(),
                    };
                    // A new cause gets a new line.
                    if logged != text {
                        logged.clone_from(&text);
                        tracing::warn!(
                            "no usable ZooKeeper session: {text}; statuses stay true over gRPC and will be written on return"
                        );
                    }
                    self.offline(Some(text));
                }
            }
            let delay = BACKOFF.delay(attempt, fastrand::f64());
            attempt = attempt.saturating_add(1);
            tokio::select! { biased; () = tokio::time::sleep(delay) => (), () = self.stop.cancelled() => () }
        }
    }

    async fn serve(
        &self,
        session: &Arc<S::Session>,
        lasting: &mut Lasting,
        publishing: &mut Option<LeaderTerm<S>>,
    ) -> SessionEnd {
        let mut accepted = None;
        let mut effects = Vec::new();
        let mut connection = session.connection();
        lasting.election.step(Input::Connected, &mut effects);
        let newest = tokio::select! {
            biased;
            newest = lasting.follower.catch_up(session, &lasting.setup) => newest,
            () = self.stop.cancelled() => Ok(Epoch(0)),
        };
        match newest {
            Ok(newest) => lasting.election.step(Input::Seen(newest), &mut effects),
            Err(e) => tracing::warn!("published statuses could not be read: {}", chain(&e)),
        }
        let mut ended = self.ended.clone();
        ended.mark_changed();
        let mut lease = Lease::new(session.timeout());
        let mut operation: Option<Operation> = None;
        let mut leadership = tokio::time::interval(MEMBERSHIP_INTERVAL);
        leadership.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending_read: Option<PendingRead> = None;
        let mut verify = tokio::time::interval(session.timeout() / 6);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Lead(term) => match publishing {
                        Some(publishing) => publishing.resume(),
                        None => {
                            tracing::info!(epoch = term.epoch.0, "leading");
                            // A collector that also led the term before knows all that it published.
                            let grace = lasting.led.is_none_or(|led| led.0 + 1 != term.epoch.0);
                            lasting.led = Some(term.epoch);
                            self.metrics.buckets_behind.set(0);
                            let (setup, mirror) = (lasting.setup.clone(), lasting.follower.take_mirror());
                            *publishing = Some(LeaderTerm::new(setup, session, term, mirror, grace));
                        }
                    },
                    Effect::Hold => {
                        lease.ended();
                        if let Some(publishing) = publishing
                            && publishing.pause()
                        {
                            tracing::info!("publishing is on hold until leadership is proved");
                        }
                    }
                    Effect::Drop => return SessionEnd::Dropped,
                    Effect::StepDown(term) => {
                        self.step_down(session, lasting, publishing, term).await;
                        return SessionEnd::Stopped;
                    }
                    Effect::HandOver(term) => {
                        let what = (term, accepted.take());
                        self.hand_over(session, lasting, publishing, what, &mut effects)
                            .await;
                    }
                    effect => operation = Some(self.operation(session, &lasting.election, effect)),
                }
            }
            if !effects.is_empty() {
                continue;
            }
            self.note_phase(&lasting.election, publishing.as_ref(), connection, lease);
            let input = tokio::select! {
                biased;
                changed = session.changed(connection) => {
                    connection = changed;
                    match changed {
                        Connection::Connected => Input::Connected,
                        Connection::Suspended => Input::Suspended,
                        Connection::Lost => return SessionEnd::Dropped,
                    }
                }
                () = self.stop.cancelled() => Input::Resign,
                (input, sent) = pending(&mut operation) => {
                    operation = None;
                    self.diagnostics.election(None);
                    if matches!(input, Input::Claimed(_) | Input::Settled(Some(_)) | Input::Verified(true)) {
                        lease.renewed(sent);
                    }
                    input
                }
                Some(request) = lasting.requests.recv() => {
                    accepted = self.accept(session, &lasting.election, request).await;
                    if accepted.is_none() { continue }
                    Input::StepAside
                }
                candidates = proofs::next(&mut ended) => Input::Ended(candidates),
                input = run(publishing) => input,
                never = lasting.follower.run(session, &lasting.setup), if publishing.is_none() => match never {},
                _ = verify.tick(), if lasting.election.term().is_some() && operation.is_none() && connection == Connection::Connected => {
                    operation = Some(self.operation(session, &lasting.election, Effect::Verify));
                    continue;
                }
                _ = leadership.tick(), if connection == Connection::Connected && pending_read.is_none() => {
                    pending_read = Some(self.read_membership(session));
                    continue;
                }
                seen = pending(&mut pending_read) => {
                    pending_read = None;
                    match seen {
                        Ok(seen) => {
                            for epoch in [seen.epoch.epoch, seen.publisher.epoch] {
                                lasting.election.step(Input::Seen(Epoch(epoch)), &mut effects);
                            }
                            let oldest = publishing.as_ref().and_then(LeaderTerm::oldest_pending);
                            let refused = publishing.as_ref().and_then(LeaderTerm::refused);
                            self.note_membership(seen, &lasting.election, session.timeout(), (oldest, refused));
                        }
                        Err(StoreError::TimedOut | StoreError::Lost(_)) if connection == Connection::Connected => {
                            return SessionEnd::Dropped;
                        }
                        Err(e) => tracing::debug!("members could not be read: {}", chain(&e)),
                    }
                    continue;
                }
            };
            if input == Input::Lost {
                return SessionEnd::Dropped;
            }
            if let Input::Listed(candidates) = &input {
                self.tell_leftovers(candidates, &mut lasting.leftovers);
            }
            lasting.election.step(input, &mut effects);
        }
    }
}

type PendingRead = Pin<Box<dyn Future<Output = Result<MembershipSnapshot, StoreError>> + Send>>;

async fn pending<F: Future + Unpin>(operation: &mut Option<F>) -> F::Output {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_campaign;
#[cfg(test)]
mod tests_coordinator;
#[cfg(test)]
mod tests_faults;
#[cfg(test)]
mod tests_proofs;

async fn run<S: Store>(publishing: &mut Option<LeaderTerm<S>>) -> Input {
    match publishing {
        Some(publishing) => publishing.run().await,
        None => std::future::pending().await,
    }
}
