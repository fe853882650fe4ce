//! The task that talks to ZooKeeper, on a thread of its own so that a busy main runtime never delays the session. It
//! carries out what `core::election` decides and, while leading, runs the [`publisher`](crate::publish). Any doubt that
//! cannot be settled ends in a fresh session.

mod announce;
mod campaign;
pub mod leadership;
mod membership;
pub mod proofs;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use redkeeper_core::{
    backoff::Backoff,
    election::{Effect, Election, Input, lease::Lease},
    ids::{CollectorId, Epoch},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, errors::chain};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{command::Command, view::ViewHandle},
    leader::membership::{Membership, MembershipSnapshot, read_membership, register},
    metrics::Metrics,
    publish::{LeaderTerm, Setup, load},
    store::{Connection, Session, Store, StoreError, diagnostics::Diagnostics, layout::Layout},
};

/// How often members, epoch and leader are read for `GetClusterStatus`.
const MEMBERSHIP_INTERVAL: Duration = Duration::from_secs(1);
/// A session that lived this long counts as good: the next delay is short again.
const SESSION_GOOD: Duration = Duration::from_secs(5);
/// How long batches in flight may take at shutdown, and then the hand-over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
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

/// How a session ended.
enum SessionEnd {
    Dropped,
    Stopped,
}

impl<S: Store> Coordinator<S> {
    /// Holds a session, takes part in the election, and leads when elected, until asked to stop.
    pub async fn run(self) {
        let mut election = Election::default();
        // The last term that this process led.
        let mut led: Option<Epoch> = None;
        // Number of candidates that no session owns, as last logged.
        let mut leftovers = 0;
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
                    let end = self
                        .serve(&session, &mut election, &mut led, &mut leftovers)
                        .await;
                    if opened.elapsed() >= SESSION_GOOD {
                        attempt = 0;
                    }
                    // Report this collector as offline before closing: a successor may lead within milliseconds.
                    self.offline(None);
                    S::Session::close(session).await;
                    election.step(Input::Lost, &mut Vec::new());
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

    /// Opens a session, with the layout in place and this collector registered.
    async fn open(&self) -> Result<Arc<S::Session>, StoreError> {
        let session = Arc::new(self.store.connect().await?);
        self.layout.ensure(&*session).await?;
        let membership = register(&*session, &self.layout, &self.membership()).await?;
        if membership == Membership::Foreign {
            // Another session: a former one that has not expired yet, or that of another collector with the same id.
            tracing::warn!(id = %self.id, "another session has registered this id; if another collector uses it, give each its own `id`");
        }
        Ok(session)
    }

    async fn serve(
        &self,
        session: &Arc<S::Session>,
        election: &mut Election,
        led: &mut Option<Epoch>,
        leftovers: &mut usize,
    ) -> SessionEnd {
        let mut effects = Vec::new();
        let mut connection = session.connection();
        election.step(Input::Connected, &mut effects);
        // Reads what is published, without writing, so that instances of agents that are gone are known too.
        let adopted = tokio::select! {
                biased;
                adopted = load::read_and_adopt(Arc::clone(session), self.layout.clone(), self.commands.clone(), false) => adopted.map(|published| published.newest_epoch()),
            () = self.stop.cancelled() => Ok(Epoch(0)),
        };
        match adopted {
            Ok(newest) => election.step(Input::Seen(newest), &mut effects),
            Err(e) => tracing::warn!("published statuses could not be read: {}", chain(&e)),
        }
        let mut ended = self.ended.clone();
        ended.mark_changed();
        let mut lease = Lease::new(session.timeout());
        let mut operation: Option<Operation> = None;
        let mut publishing: Option<LeaderTerm<S>> = None;
        let mut leadership = tokio::time::interval(MEMBERSHIP_INTERVAL);
        leadership.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending_read: Option<PendingRead> = None;
        let mut verify = tokio::time::interval(session.timeout() / 6);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Lead(term) => match &mut publishing {
                        Some(publishing) => publishing.resume(),
                        None => {
                            tracing::info!(epoch = term.epoch.0, "leading");
                            // A collector that also led the term before knows all that it published.
                            let grace = led.is_none_or(|led| led.0 + 1 != term.epoch.0);
                            *led = Some(term.epoch);
                            publishing = Some(LeaderTerm::new(self.setup(), session, term, grace));
                        }
                    },
                    Effect::Hold => {
                        lease.ended();
                        if let Some(publishing) = &mut publishing
                            && publishing.pause()
                        {
                            tracing::info!("publishing is on hold until leadership is proved");
                        }
                    }
                    Effect::Drop => return SessionEnd::Dropped,
                    Effect::StepDown(term) => {
                        if let Some(mut publishing) = publishing.take() {
                            // The next leader writes what is not acknowledged by then.
                            drop(tokio::time::timeout(HAND_OVER_TIMEOUT, publishing.finish()).await);
                        }
                        self.tell(|d| {
                            (d.lease, d.phase) = (None, "resigned");
                            d.leader_hint.clear();
                        });
                        let stepping = self.step_down(session, election, term);
                        if tokio::time::timeout(HAND_OVER_TIMEOUT, stepping).await.is_err() {
                            tracing::warn!(
                                "the hand-over was not confirmed in time; the session's end does it"
                            );
                        }
                        return SessionEnd::Stopped;
                    }
                    effect => operation = Some(self.operation(session, election, effect)),
                }
            }
            self.note_phase(election, publishing.as_ref(), connection, lease);
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
                candidates = proofs::next(&mut ended) => Input::Ended(candidates),
                input = run(&mut publishing) => input,
                _ = verify.tick(), if election.term().is_some() && operation.is_none() && connection == Connection::Connected => {
                    operation = Some(self.operation(session, election, Effect::Verify));
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
                                election.step(Input::Seen(Epoch(epoch)), &mut effects);
                            }
                            let oldest = publishing.as_ref().and_then(LeaderTerm::oldest_pending);
                            let refused = publishing.as_ref().and_then(LeaderTerm::refused);
                            self.note_membership(seen, election, session.timeout(), (oldest, refused));
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
                self.tell_leftovers(candidates, leftovers);
            }
            election.step(input, &mut effects);
        }
    }

    fn setup(&self) -> Setup {
        Setup {
            layout: self.layout.clone(),
            id: self.id.to_string(),
            view: self.view.clone(),
            commands: self.commands.clone(),
            clock: self.clock,
            orphans_max_percent: self.orphans_max_percent,
            audit_interval: self.audit_interval,
            freshness_interval: self.freshness_interval,
            metrics: self.metrics.clone(),
            diagnostics: Arc::clone(&self.diagnostics),
        }
    }

    fn read_membership(&self, session: &Arc<S::Session>) -> PendingRead {
        let (session, layout, own) = (Arc::clone(session), self.layout.clone(), self.membership());
        Box::pin(async move { read_membership(&*session, &layout, &own).await })
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
mod tests_faults;
#[cfg(test)]
mod tests_proofs;

async fn run<S: Store>(publishing: &mut Option<LeaderTerm<S>>) -> Input {
    match publishing {
        Some(publishing) => publishing.run().await,
        None => std::future::pending().await,
    }
}
