//! Publishing by the leader: reads what is published, writes differences in fenced batches, and reads back what it
//! wrote. It carries out what `core::publish` decides.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    election::{Input, Term},
    ids::{Bucket, Revision},
    publish::{Found, Publisher, Unknown},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, errors::chain, log_limit::LogLimit};
use tokio::{sync::mpsc, time::Instant};

use crate::{
    fleet::{change_cursor::ChangeCursor, command::Command, view::ViewHandle},
    metrics::Metrics,
    publish::{
        fenced_write::Commit,
        freshness::Freshness,
        load::{Published, ReadBack, Unresolved, read_and_adopt, read_back},
    },
    store::{CommitError, Store, StoreError, diagnostics::Diagnostics, layout::Layout},
};

mod audit;
mod fenced_write;
pub mod format;
mod freshness;
pub(crate) mod load;
mod progress;
mod send_changes;

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

/// Stage of a term. What is being read is kept in `self`, because `run` may be cancelled at any await.
enum Stage {
    /// What is published is being read.
    Reading(Reading<Published>),
    /// Differences are written.
    Writing(Box<Publisher>),
    /// Outcomes became unknown: the znodes are read back before the next batch.
    Resolving(Box<Publisher>, Unresolved, Reading<ReadBack>),
}

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
    /// Counters.
    pub metrics: Metrics,
    /// Record for debug pages.
    pub diagnostics: Arc<Diagnostics>,
}

/// One term of leadership.
pub struct LeaderTerm<S: Store> {
    setup: Setup,
    session: Arc<S::Session>,
    term: Term,
    grace: bool,
    stage: Stage,
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
    pub fn new(setup: Setup, session: &Arc<S::Session>, term: Term, grace: bool) -> Self {
        let reading = read_and_adopt(
            Arc::clone(session),
            setup.layout.clone(),
            setup.commands.clone(),
            grace,
        );
        Self {
            session: Arc::clone(session),
            term,
            grace,
            cursor: ChangeCursor::new(&setup.view, Revision(0)),
            stage: Stage::Reading(Box::pin(reading)),
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
        match &self.stage {
            Stage::Reading(_) => 0,
            Stage::Writing(publisher) | Stage::Resolving(publisher, ..) => publisher.pending(),
        }
    }

    /// Statuses that ZooKeeper refuses to let this leader write: the first one's refusal, and their number.
    pub fn refused(&self) -> Option<(String, usize)> {
        match &self.stage {
            Stage::Reading(_) => None,
            Stage::Writing(publisher) | Stage::Resolving(publisher, ..) => {
                let count = publisher.quarantined();
                let first = self.refused.as_ref().filter(|_| count > 0)?;
                Some((first.0.clone(), count))
            }
        }
    }

    /// Since when the oldest status that is not acknowledged waits.
    pub fn oldest_pending(&self) -> Option<Mono> {
        match &self.stage {
            Stage::Reading(_) => None,
            Stage::Writing(publisher) | Stage::Resolving(publisher, ..) => publisher.oldest_pending(),
        }
    }

    /// Works until something happens that the election must know or that must be reported to others. May be cancelled
    /// at any await: what is under way is kept in `self`.
    pub async fn run(&mut self) -> Input {
        loop {
            // A paused term reads and writes nothing, but counts what waits to be written.
            if self.paused && self.commits.is_empty() && !matches!(self.stage, Stage::Writing(_)) {
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
        if !matches!(self.stage, Stage::Writing(_)) {
            self.note_progress();
        }
        match &mut self.stage {
            Stage::Reading(reading) => {
                let published = match reading.as_mut().await {
                    Ok(published) => published,
                    Err(error) => {
                        // A completed future must not be polled again: once the doubt is settled, reading starts over.
                        self.stage = Stage::Reading(self.reading());
                        return Err(error.into());
                    }
                };
                let now = self.setup.clock.now();
                let Published { held, buckets } = published;
                let mut publisher = Publisher::new(
                    now,
                    self.term.epoch,
                    held,
                    buckets,
                    self.setup.orphans_max_percent,
                );
                let view = self.setup.view.get();
                view.instances.keys().for_each(|id| publisher.mark(now, id));
                self.cursor.skip_to(view.revision);
                self.stage = Stage::Writing(Box::new(publisher));
            }
            Stage::Resolving(publisher, unresolved, reading) => match reading.as_mut().await {
                Ok(found) => {
                    found
                        .instances
                        .into_iter()
                        .for_each(|(id, held)| publisher.settle(&id, held));
                    found
                        .buckets
                        .into_iter()
                        .for_each(|(bucket, data)| publisher.settle_bucket(bucket, data));
                    self.needs_resolution = false;
                    self.stage = Stage::Writing(publisher.clone());
                }
                Err(error) => {
                    let again = read_back(
                        Arc::clone(&self.session),
                        self.setup.layout.clone(),
                        unresolved.clone(),
                    );
                    *reading = Box::pin(again);
                    return Err(error.into());
                }
            },
            Stage::Writing(publisher) if self.needs_resolution && self.commits.is_empty() => {
                let before = publisher.batch_ops_max();
                let Unknown {
                    ids,
                    buckets,
                    left_out,
                } = publisher.unknown(self.setup.clock.now());
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
                } else if publisher.batch_ops_max() < before {
                    tracing::warn!(
                        operations = publisher.batch_ops_max(),
                        "requests end without an answer again and again; smaller ones are sent. Does ZooKeeper's \
                         jute.maxbuffer, or a proxy, limit their size?"
                    );
                }
                let unresolved = Unresolved { ids, buckets };
                let reading = read_back(
                    Arc::clone(&self.session),
                    self.setup.layout.clone(),
                    unresolved.clone(),
                );
                self.stage = Stage::Resolving(publisher.clone(), unresolved, Box::pin(reading));
            }
            Stage::Writing(_) => self.write().await?,
        }
        Ok(())
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

    fn reading(&self) -> Reading<Published> {
        Box::pin(read_and_adopt(
            Arc::clone(&self.session),
            self.setup.layout.clone(),
            self.setup.commands.clone(),
            self.grace,
        ))
    }

    /// Waits for writes in flight, before leadership is handed over. Bounded by the store's time limits.
    pub async fn finish(&mut self) {
        while let Some((_, result)) = self.commits.next().await {
            if let Err(error) = result {
                tracing::warn!("last batch: {}", chain(&error));
            }
        }
    }
}

#[cfg(test)]
mod tests;
