//! The task that talks to ZooKeeper, on a thread of its own so that a busy main runtime never delays the
//! session. Carries what `core::election` decides and, while leading, runs the [`publisher`](crate::publish).
//! Any doubt that cannot be settled ends in a fresh session.

mod campaign;
pub mod leadership;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use redkeeper_core::{
    backoff::Backoff,
    election::{Candidate, Effect, Election, Input, Term, lease::Lease},
    ids::{CollectorId, Epoch},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, errors::chain};
use tokio::{sync::mpsc, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{aggregator::Command, view::Shared},
    leader::{
        campaign::{claim, list, settle, verify, watch_candidate},
        leadership::{Membership, Seen},
    },
    metrics::Metrics,
    publish::{Publishing, load},
    store::{Connection, Session, Store, StoreError, Write, layout::Layout, records::CollectorJson},
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

    /// Without a session nothing is known of who leads, least of all that it is us.
    fn offline(&self, error: Option<String>) {
        self.metrics.pending.set(0);
        self.tell(|d| {
            d.note_connection(None, self.clock.wall());
            d.phase = "offline";
            (d.lease, d.oldest_pending, d.refused) = (None, None, None);
            (d.id_taken, d.id_shared) = (None, None);
            d.last_leader.clear();
            if let Some(error) = error {
                d.last_error = error;
            }
        });
    }

    fn tell(&self, change: impl FnOnce(&mut leadership::Directory)) {
        self.directory.send_if_modified(|directory| {
            let before = directory.clone();
            change(directory);
            *directory != before
        });
    }

    /// A session with the layout in place and the own membership registered.
    async fn open(&self) -> Result<Arc<S::Session>, StoreError> {
        let session = Arc::new(self.store.connect().await?);
        self.layout.ensure(&*session).await?;
        let membership = leadership::register(&*session, &self.layout, &self.membership()).await?;
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
                            publishing = Some(Publishing::new(self, session, term, grace));
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

    fn note_phase(
        &self,
        election: &Election,
        publishing: Option<&Publishing<S>>,
        connection: Connection,
        lease: Lease,
    ) {
        if publishing.is_none() {
            self.metrics.pending.set(0);
        }
        let phase = match publishing {
            Some(publishing) if connection == Connection::Connected => publishing.phase(),
            _ => election.phase(),
        };
        let own = self.id.as_str();
        self.tell(|d| {
            d.note_connection(Some(connection), self.clock.wall());
            d.phase = phase;
            d.lease = election.term().map(|_| lease);
            match election.term() {
                Some(term) if connection == Connection::Connected => {
                    d.epoch = term.epoch.0;
                    own.clone_into(&mut d.last_leader);
                }
                Some(_) => d.last_leader.clear(),
                None => {}
            }
        });
        if let Some(term) = election.term() {
            self.metrics
                .epoch
                .set(i64::try_from(term.epoch.0).unwrap_or(i64::MAX));
        }
    }

    /// The operation that the election asks for. Ends with its answer.
    fn operation(&self, session: &Arc<S::Session>, election: &Election, effect: Effect) -> Operation {
        let (session, layout) = (Arc::clone(session), self.layout.clone());
        let node = election.node().unwrap_or_default().to_owned();
        let (term, id, newest) = (election.term(), self.id.clone(), election.newest());
        let sent = self.clock.now();
        Box::pin(async move {
            let result = match effect {
                Effect::Enqueue => layout.enqueue(&*session).await.map(Input::Enqueued),
                Effect::FindOwn => layout.find_own(&*session).await.map(Input::Found),
                Effect::List => list(&*session, &layout).await,
                Effect::Watch(other) => watch_candidate(&*session, &layout, &other).await,
                Effect::Claim => claim(&*session, &layout, &node, &id, newest).await,
                Effect::Settle => settle(&*session, &layout, &node).await,
                Effect::Verify => verify(&*session, &layout, &node, term).await,
                Effect::Drop | Effect::Lead(_) | Effect::Hold | Effect::StepDown(_) => Ok(Input::LookAgain),
            };
            let input = result.unwrap_or_else(|error| match error {
                // The request may still be sent later: only the end of the session rules that out.
                StoreError::TimedOut | StoreError::Lost(_) | StoreError::Refused(_) => {
                    tracing::warn!("election: {}", chain(&error));
                    Input::Lost
                }
                error => {
                    tracing::debug!("election: {}", chain(&error));
                    Input::Unknown
                }
            });
            (input, sent)
        })
    }

    async fn step_down(&self, session: &Arc<S::Session>, election: &Election, term: Option<Term>) {
        let Some(term) = term else { return };
        let mut writes = vec![Write::Delete(self.layout.publisher())];
        if let Some(node) = election.node() {
            writes.push(Write::Delete(self.layout.candidate(node)));
        }
        match session.commit((&self.layout.epoch(), term.token), writes).await {
            Ok(()) => tracing::info!(epoch = term.epoch.0, "leadership handed over"),
            Err(e) => tracing::warn!("leadership ends with the session: {}", chain(&e)),
        }
    }

    /// Says once that there are candidates of nobody: they do no harm, and stay until somebody deletes them.
    fn tell_leftovers(&self, candidates: &[Candidate], told: &mut usize) {
        let left = || candidates.iter().filter(|candidate| candidate.is_leftover());
        let (first, count) = (left().next(), left().count());
        let before = std::mem::replace(told, count);
        if let Some(first) = first.filter(|_| before != count) {
            let path = self.layout.candidate(&first.name);
            tracing::warn!(
                znode = path,
                count,
                "candidates that no session owns, as a restored backup leaves them, do not take part in the election; delete them"
            );
        }
    }

    fn look(&self, session: &Arc<S::Session>) -> Looking {
        let (session, layout, own) = (Arc::clone(session), self.layout.clone(), self.membership());
        Box::pin(async move { leadership::look(&*session, &layout, &own).await })
    }

    fn note_directory(
        &self,
        seen: Seen,
        election: &Election,
        session_timeout: Duration,
        (oldest_pending, refused): (Option<Mono>, Option<(String, usize)>),
    ) {
        let epoch = election.newest().0;
        self.metrics.epoch.set(i64::try_from(epoch).unwrap_or(i64::MAX));
        self.tell(|d| {
            d.members = seen.members;
            d.note_id(seen.taken_by, self.clock.now(), session_timeout);
            (d.oldest_pending, d.refused) = (oldest_pending, refused);
            // What was read may be older than an own claim.
            if election.term().is_none() {
                d.epoch = epoch;
                d.last_leader = seen.publisher.holder;
                // The znode of a former life, which has not expired yet: nobody is known to lead.
                if d.last_leader == self.id.as_str() {
                    d.last_leader.clear();
                }
            }
        });
    }

    fn membership(&self) -> CollectorJson {
        CollectorJson {
            id: self.id.to_string(),
            grpc: self.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
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
