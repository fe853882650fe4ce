//! The task that talks to ZooKeeper, on a thread of its own so that a busy main runtime never delays the
//! session. Carries what `core::election` decides and, while leading, runs the [`publisher`](crate::publish).
//! Any doubt that cannot be settled ends in a fresh session.

mod announce;
mod campaign;
pub mod leadership;
mod membership;

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
    fleet::{command::Command, view::Shared},
    leader::membership::{Membership, Seen, look, register},
    metrics::Metrics,
    publish::{Publishing, Setup, load},
    store::{Connection, Session, Store, StoreError, layout::Layout},
};

/// How often members, epoch and leader are read for `GetClusterStatus`.
const DIRECTORY_INTERVAL: Duration = Duration::from_secs(1);
/// A session that lived this long was a good one: the next delay is short again.
const SESSION_GOOD: Duration = Duration::from_secs(5);
/// How long batches in flight, and then the hand-over, may take at shutdown.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay before a new session.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// The coordinator.
pub struct Coordinator<S: Store> {
    /// Where sessions come from.
    pub store: S,
    /// Paths.
    pub layout: Layout,
    /// Own name.
    pub id: CollectorId,
    /// Own gRPC address for others.
    pub address: String,
    /// The fleet's view.
    pub view: Shared,
    /// To the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Where the standing is told.
    pub directory: leadership::Sender,
    /// Time.
    pub clock: Clock,
    /// Share of the statuses that is deleted as orphans at most, in percent.
    pub orphans_max_percent: u8,
    /// Time between the read-backs of two buckets.
    pub audit_interval: Duration,
    /// Counters.
    pub metrics: Metrics,
    /// Request to stop.
    pub stop: CancellationToken,
}

/// Ends with its answer, and the instant before it was sent.
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
        // Candidates that no session owns, as last told.
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
                    // Said before it is true for others: a successor may lead within milliseconds.
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
                    // Another cause is another line.
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

    /// A session with the layout in place and the own membership registered.
    async fn open(&self) -> Result<Arc<S::Session>, StoreError> {
        let session = Arc::new(self.store.connect().await?);
        self.layout.ensure(&*session).await?;
        let membership = register(&*session, &self.layout, &self.membership()).await?;
        if membership == Membership::Foreign {
            // The node of a former session that has not expired yet, or another collector of the same name.
            tracing::warn!(id = %self.id, "a collector of this name is registered; its node is left alone");
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
        // A read-only look at what is published, so that instances of agents that are gone are known too.
        let adopted = tokio::select! {
                biased;
                adopted = load::read_and_adopt(Arc::clone(session), self.layout.clone(), self.commands.clone(), false) => adopted.map(|published| published.newest_epoch()),
            () = self.stop.cancelled() => Ok(Epoch(0)),
        };
        match adopted {
            Ok(newest) => election.step(Input::Seen(newest), &mut effects),
            Err(e) => tracing::warn!("published statuses could not be read: {}", chain(&e)),
        }
        let mut lease = Lease::new(session.timeout());
        let mut operation: Option<Operation> = None;
        let mut publishing: Option<Publishing<S>> = None;
        let mut directory = tokio::time::interval(DIRECTORY_INTERVAL);
        directory.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looking: Option<Looking> = None;
        let mut verify = tokio::time::interval(session.timeout() / 6);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Lead(term) => match &mut publishing {
                        Some(publishing) => publishing.resume(),
                        None => {
                            tracing::info!(epoch = term.epoch.0, "leading");
                            // Who led the term before knows all that it published.
                            let grace = led.is_none_or(|led| led.0 + 1 != term.epoch.0);
                            *led = Some(term.epoch);
                            publishing = Some(Publishing::new(self.setup(), session, term, grace));
                        }
                    },
                    Effect::Hold => {
                        lease.ended();
                        if let Some(publishing) = &mut publishing
                            && publishing.hold()
                        {
                            tracing::info!("publishing is on hold until leadership is proved");
                        }
                    }
                    Effect::Drop => return SessionEnd::Dropped,
                    Effect::StepDown(term) => {
                        if let Some(mut publishing) = publishing.take() {
                            // What is not acknowledged by then is written by the next leader.
                            drop(tokio::time::timeout(HAND_OVER_TIMEOUT, publishing.finish()).await);
                        }
                        self.tell(|d| {
                            (d.lease, d.phase) = (None, "resigned");
                            d.last_leader.clear();
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
                    if matches!(input, Input::Claimed(_) | Input::Settled(Some(_)) | Input::Verified(true)) {
                        lease.renewed(sent);
                    }
                    input
                }
                input = run(&mut publishing) => input,
                _ = verify.tick(), if election.term().is_some() && operation.is_none() && connection == Connection::Connected => {
                    operation = Some(self.operation(session, election, Effect::Verify));
                    continue;
                }
                _ = directory.tick(), if connection == Connection::Connected && looking.is_none() => {
                    looking = Some(self.look(session));
                    continue;
                }
                seen = pending(&mut looking) => {
                    looking = None;
                    match seen {
                        Ok(seen) => {
                            for epoch in [seen.epoch.epoch, seen.publisher.epoch] {
                                election.step(Input::Seen(Epoch(epoch)), &mut effects);
                            }
                            let oldest = publishing.as_ref().and_then(Publishing::oldest_pending);
                            let refused = publishing.as_ref().and_then(Publishing::refused);
                            self.note_directory(seen, election, session.timeout(), (oldest, refused));
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
            metrics: self.metrics.clone(),
        }
    }

    fn look(&self, session: &Arc<S::Session>) -> Looking {
        let (session, layout, own) = (Arc::clone(session), self.layout.clone(), self.membership());
        Box::pin(async move { look(&*session, &layout, &own).await })
    }
}

type Looking = Pin<Box<dyn Future<Output = Result<Seen, StoreError>> + Send>>;

async fn pending<F: Future + Unpin>(operation: &mut Option<F>) -> F::Output {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;

async fn run<S: Store>(publishing: &mut Option<Publishing<S>>) -> Input {
    match publishing {
        Some(publishing) => publishing.run().await,
        None => std::future::pending().await,
    }
}
