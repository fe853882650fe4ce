//! Publishing by the leader: reads what is published, writes differences in fenced batches, and reads back what it
//! wrote. It carries out what `core::publish` decides.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    election::{Input, Term},
    ids::{Bucket, Revision},
    publish::{Found, Mirror, Publisher, Unknown},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, errors::chain, log_limit::LogLimit};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    fleet::{
        change_cursor::ChangeCursor,
        command::{Adopting, Command},
        view::ViewHandle,
    },
    metrics::Metrics,
    publish::{
        fenced_write::Commit,
        freshness::Freshness,
        load::{ReadBack, Unresolved, read_back},
        takeover::TakeOver,
    },
    store::{CommitError, Store, StoreError, diagnostics::Diagnostics, layout::Layout},
};

mod audit;
mod desired;
mod fenced_write;
pub mod follow;
pub mod format;
mod freshness;
mod load;
mod progress;
pub mod replicate;
mod send_changes;
mod takeover;

/// Time between the read-backs of two buckets: all 256 take 4 s, so that a znode modified externally is right again
/// within 5 s.
pub const AUDIT_INTERVAL: Duration = Duration::from_micros(15_625);
/// The same for the in-memory store of a standalone collector, where nobody else writes and only orphans can be found.
/// Eight times as long, because the shorter interval takes 4 % of the CPU of a collector with 2,000 agents.
pub const AUDIT_INTERVAL_STANDALONE: Duration = Duration::from_millis(125);
/// A permanent refusal is logged once in this time; the number of refusals is a warning of `cluster`.
const REFUSAL_LINES_INTERVAL: Duration = Duration::from_secs(60);

type Request<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Reading<T> = Request<Result<T, StoreError>>;

/// What each term of this collector needs.
#[derive(Clone)]
pub struct Setup {
    /// Paths in ZooKeeper.
    pub layout: Layout,
    /// Id of this collector.
    pub id: String,
    /// The fleet's view.
    pub view: ViewHandle,
    /// Command channel of the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Clock.
    pub clock: Clock,
    /// Largest share of the statuses that may be deleted as orphans, in percent.
    pub orphans_max_percent: u8,
    /// Time between the read-backs of two buckets.
    pub audit_interval: Duration,
    /// Time between two freshness marks.
    pub freshness_interval: Duration,
    /// Tells the other collectors what is written.
    pub links: replicate::Sender,
    /// Number of the next adoption of statuses by the fleet.
    pub next_adoption: Arc<AtomicU64>,
    /// Counters.
    pub metrics: Metrics,
    /// Record for debug pages.
    pub diagnostics: Arc<Diagnostics>,
}

impl Setup {
    /// Begins an adoption. `grace`: whether another collector led until now.
    fn adopting(&self, grace: bool) -> Adopting {
        let number = self.next_adoption.fetch_add(1, Ordering::Relaxed);
        Adopting { grace, number }
    }
}

/// The newest changes of the fleet that a new term looks at before it compares everything: a leader that dies leaves the last
/// ones unwritten.
const RECENT_MAX: u64 = 16;

/// One term of leadership.
pub struct LeaderTerm<S: Store> {
    setup: Setup,
    session: Arc<S::Session>,
    term: Term,
    publisher: Box<Publisher>,
    /// What is left of taking over what is published.
    takeover: Option<TakeOver>,
    /// Outcomes became unknown: the znodes are read back before the next batch.
    resolving: Option<(Unresolved, Reading<ReadBack>)>,
    /// The pending read-back of one bucket.
    audit: Option<(Bucket, Reading<Found>)>,
    audit_at: Instant,
    /// Pending hand-over of unexpected statuses to the aggregator.
    adopting: Option<Reading<()>>,
    commits: FuturesUnordered<Commit>,
    /// Position after the changes that have been marked.
    cursor: ChangeCursor,
    paused: bool,
    /// Refusal of the first status that was refused for good, and how many were.
    refused: Option<(String, usize)>,
    refusal_lines: LogLimit,
    repair_lines: LogLimit,
    /// The coordinator has asked for a hold since the last [`resume`](Self::resume).
    paused_by_leader: bool,
    live: bool,
    freshness: Freshness,
    /// An outcome became unknown: nothing is sent until everything in flight has ended and was read back.
    needs_resolution: bool,
}

impl<S: Store> LeaderTerm<S> {
    /// Begins a term after an acknowledged claim.
    ///
    /// `grace`: whether another collector led until now.
    pub fn new(setup: Setup, session: &Arc<S::Session>, term: Term, mirror: Mirror, grace: bool) -> Self {
        let publisher = Publisher::new(term.epoch, mirror, setup.orphans_max_percent);
        let view = setup.view.get();
        let recent = view.revision.0.saturating_sub(RECENT_MAX);
        let recent = Revision(recent.max(view.log.oldest().map_or(0, |oldest| oldest - 1)));
        Self {
            session: Arc::clone(session),
            term,
            cursor: ChangeCursor::new(&setup.view, recent),
            publisher: Box::new(publisher),
            takeover: Some(TakeOver::new(setup.adopting(grace))),
            resolving: None,
            audit: None,
            audit_at: Instant::now() + setup.audit_interval,
            adopting: None,
            commits: FuturesUnordered::new(),
            paused: false,
            refused: None,
            refusal_lines: LogLimit::new(1, REFUSAL_LINES_INTERVAL),
            repair_lines: LogLimit::new(20, Duration::from_secs(10)),
            paused_by_leader: false,
            live: false,
            freshness: Freshness::new(Instant::now() + setup.freshness_interval),
            needs_resolution: false,
            setup,
        }
    }

    /// Ends the term. What is known of ZooKeeper is returned.
    pub fn into_mirror(self) -> Mirror {
        self.publisher.into_mirror()
    }

    /// Stops writing until [`resume`](Self::resume). Returns true the first time.
    pub fn pause(&mut self) -> bool {
        self.paused = true;
        self.note_progress();
        !std::mem::replace(&mut self.paused_by_leader, true)
    }

    /// Goes on writing in the same term.
    pub fn resume(&mut self) {
        (self.paused, self.paused_by_leader) = (false, false);
    }

    /// Name of the current phase: `reconciling` or `leader`.
    pub fn phase(&self) -> &'static str {
        if self.live { "leader" } else { "reconciling" }
    }

    /// Number of statuses not yet acknowledged.
    fn pending(&self) -> usize {
        self.publisher.pending()
    }

    /// Statuses that ZooKeeper refuses to let this leader write: the first one's refusal, and their number.
    pub fn refused(&self) -> Option<(String, usize)> {
        let count = self.publisher.quarantined();
        let first = self.refused.as_ref().filter(|_| count > 0)?;
        Some((first.0.clone(), count))
    }

    /// Since when the oldest status that is not acknowledged waits.
    pub fn oldest_pending(&self) -> Option<Mono> {
        self.publisher.oldest_pending()
    }

    /// Works until something happens that the election must know or that must be reported to others. May be cancelled
    /// at any await: what is under way is kept in `self`.
    pub async fn run(&mut self) -> Input {
        loop {
            // A paused term reads and writes nothing, but counts what waits to be written.
            if self.paused && self.commits.is_empty() && self.resolving.is_some() {
                return std::future::pending().await;
            }
            let was_live = self.live;
            if let Err(error) = self.step().await {
                return self.failed(&error);
            }
            self.note_pending();
            if self.live != was_live {
                // Means nothing to the election of a leader; the coordinator reports the phase again.
                return Input::LookAgain;
            }
        }
    }

    async fn step(&mut self) -> Result<(), CommitError> {
        if let Some((unresolved, reading)) = &mut self.resolving {
            match reading.await {
                Ok(found) => {
                    self.resolving = None;
                    self.resolved(found);
                    Ok(())
                }
                Err(error) => {
                    let unresolved = unresolved.clone();
                    self.resolve(unresolved);
                    Err(error.into())
                }
            }
        } else if self.needs_resolution && self.commits.is_empty() {
            let unresolved = self.doubt();
            self.resolve(unresolved);
            Ok(())
        } else {
            self.write().await
        }
    }

    /// Everything that was in flight is doubtful.
    fn doubt(&mut self) -> Unresolved {
        let before = self.publisher.batch_ops_max();
        let Unknown {
            ids,
            buckets,
            left_out,
        } = self.publisher.unknown(self.setup.clock.now());
        if let Some(id) = left_out {
            let path = self.setup.layout.instance(&id);
            self.setup
                .metrics
                .batches
                .get_or_create(&[("result", "left_out")])
                .inc();
            tracing::error!(
                path,
                "each attempt to write this znode ends without an answer; it is left out until its status changes"
            );
        } else if self.publisher.batch_ops_max() < before {
            tracing::warn!(
                operations = self.publisher.batch_ops_max(),
                "requests end without an answer again and again; smaller ones are sent. Does ZooKeeper's \
                 jute.maxbuffer, or a proxy, limit their size?"
            );
        }
        Unresolved { ids, buckets }
    }

    /// Begins to read back what is doubtful.
    fn resolve(&mut self, unresolved: Unresolved) {
        let (session, layout) = (Arc::clone(&self.session), self.setup.layout.clone());
        let reading = read_back(session, layout, unresolved.clone());
        self.resolving = Some((unresolved, Box::pin(reading)));
        self.note_progress();
    }

    fn resolved(&mut self, found: ReadBack) {
        for (id, held) in found.instances {
            self.publisher.settle(&id, held);
        }
        for (bucket, data) in found.buckets {
            self.publisher.settle_bucket(bucket, data);
        }
        self.needs_resolution = false;
    }

    fn failed(&mut self, error: &CommitError) -> Input {
        self.setup
            .metrics
            .batches
            .get_or_create(&[("result", "failed")])
            .inc();
        // Everything in flight fails with its connection: one line for all of it.
        if !self.needs_resolution {
            tracing::warn!("publishing: {}", chain(error));
        }
        match error {
            CommitError::Fenced => Input::Fenced,
            CommitError::Request(StoreError::Unknown(_)) => {
                self.paused = true;
                self.needs_resolution = true;
                Input::Unknown
            }
            _ => Input::Lost,
        }
    }

    /// Waits for writes in flight, before leadership is handed over. Bounded by the store's time limits.
    pub async fn finish(&mut self) {
        while let Some((work, result)) = self.commits.next().await {
            // What was applied is told to the followers, and known in the next term of this collector.
            if let Err(error) = self.committed(work, result) {
                tracing::warn!("last batch: {}", chain(&error));
            }
        }
    }
}

#[cfg(test)]
mod tests;
