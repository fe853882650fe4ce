//! The leader's writing: reads what is published, writes differences in fenced batches, and reads back what it
//! wrote. Carries what `core::publish` decides.

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
    fleet::{change_cursor::ChangeCursor, command::Command, view::Shared},
    metrics::Metrics,
    publish::{
        commit::Commit,
        load::{Doubtful, Published, ReadBack, read_and_adopt, read_back},
    },
    store::{CommitError, Store, StoreError, layout::Layout},
};

mod audit;
mod commit;
pub mod format;
pub(crate) mod load;
mod write;

/// Time between the read-backs of two buckets: 256 of them take 4 s, so that a znode changed by another hand is
/// right again within 5 s.
pub const AUDIT_INTERVAL: Duration = Duration::from_micros(15_625);
/// The same in the memory of a standalone collector, where nobody else writes: only orphans are to be found. Eight times
/// as long, because it would take 4 % of the CPU of one with 2,000 agents.
pub const AUDIT_INTERVAL_STANDALONE: Duration = Duration::from_millis(125);
/// A refusal for good is logged once in this time; how many there are is a warning of `cluster`.
const REFUSAL_LINES_INTERVAL: Duration = Duration::from_secs(60);

type Request<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Reading<T> = Request<Result<T, StoreError>>;

/// Where the work stands. What is being read is kept here, because whoever waits for it may be interrupted.
enum Stage {
    /// What is published must be read first.
    Reading(Reading<Published>),
    /// Writing.
    Writing(Box<Publisher>),
    /// Outcomes became unknown: the znodes are read back before the next batch.
    Settling(Box<Publisher>, Doubtful, Reading<ReadBack>),
}

/// What each term of this collector needs.
#[derive(Clone)]
pub struct Setup {
    /// Paths.
    pub layout: Layout,
    /// Own name.
    pub id: String,
    /// The fleet's view.
    pub view: Shared,
    /// To the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// Time.
    pub clock: Clock,
    /// Share of the statuses that is deleted as orphans at most, in percent.
    pub orphans_max_percent: u8,
    /// Time between the read-backs of two buckets.
    pub audit_interval: Duration,
    /// Counters.
    pub metrics: Metrics,
}

/// One term of leadership.
pub struct Publishing<S: Store> {
    setup: Setup,
    session: Arc<S::Session>,
    term: Term,
    grace: bool,
    stage: Stage,
    /// The read-back of one bucket.
    audit: Option<(Bucket, Reading<Found>)>,
    audit_at: Instant,
    /// Statuses of others' making, on their way to the aggregator.
    adopting: Option<Reading<()>>,
    commits: FuturesUnordered<Commit>,
    /// Behind the changes that have been marked.
    cursor: ChangeCursor,
    held: bool,
    /// Why the first status was refused for good, and how many were.
    refused: Option<(String, usize)>,
    refusal_lines: LogLimit,
    repair_lines: LogLimit,
    /// The coordinator said so, since the last [`resume`](Self::resume).
    told_to_hold: bool,
    live: bool,
    /// The write that says so is under way.
    going_live: bool,
    /// An outcome became unknown: nothing is sent until everything in flight has ended and was read back.
    unsettled: bool,
}

impl<S: Store> Publishing<S> {
    /// Begins a term after an acknowledged claim.
    ///
    /// `grace`: another collector led until now.
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
            setup,
            adopting: None,
            commits: FuturesUnordered::new(),
            held: false,
            refused: None,
            refusal_lines: LogLimit::new(1, REFUSAL_LINES_INTERVAL),
            repair_lines: LogLimit::new(20, Duration::from_secs(10)),
            told_to_hold: false,
            live: false,
            going_live: false,
            unsettled: false,
        }
    }

    /// Writes nothing more until [`resume`](Self::resume). True the first time.
    pub fn hold(&mut self) -> bool {
        self.held = true;
        !std::mem::replace(&mut self.told_to_hold, true)
    }

    /// Goes on with the same term.
    pub fn resume(&mut self) {
        (self.held, self.told_to_hold) = (false, false);
    }

    /// One word.
    pub fn phase(&self) -> &'static str {
        if self.live { "leader" } else { "reconciling" }
    }

    /// Statuses not yet acknowledged.
    fn pending(&self) -> usize {
        match &self.stage {
            Stage::Reading(_) => 0,
            Stage::Writing(publisher) | Stage::Settling(publisher, ..) => publisher.pending(),
        }
    }

    /// Statuses that ZooKeeper refuses to let us write: why the first one was, and how many there are.
    pub fn refused(&self) -> Option<(String, usize)> {
        match &self.stage {
            Stage::Reading(_) => None,
            Stage::Writing(publisher) | Stage::Settling(publisher, ..) => {
                let count = publisher.quarantined();
                let first = self.refused.as_ref().filter(|_| count > 0)?;
                Some((first.0.clone(), count))
            }
        }
    }

    /// Since when the longest waiting of them waits.
    pub fn oldest_pending(&self) -> Option<Mono> {
        match &self.stage {
            Stage::Reading(_) => None,
            Stage::Writing(publisher) | Stage::Settling(publisher, ..) => publisher.oldest_pending(),
        }
    }

    /// Works until something happens that the election must know, or of which others must be told. May be cancelled between any two steps:
    /// what is under way is kept in `self`.
    pub async fn run(&mut self) -> Input {
        loop {
            if self.held && self.commits.is_empty() {
                return std::future::pending().await;
            }
            let was_live = self.live;
            if let Err(error) = self.step().await {
                return self.failed(&error);
            }
            self.note_pending();
            if self.live != was_live {
                // To the election of a leader it says nothing; the phase is told anew.
                return Input::LookAgain;
            }
        }
    }

    async fn step(&mut self) -> Result<(), CommitError> {
        match &mut self.stage {
            Stage::Reading(reading) => {
                let published = match reading.as_mut().await {
                    Ok(published) => published,
                    Err(error) => {
                        // A future that has ended must not be polled again: after the doubt, from the start.
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
            Stage::Settling(publisher, doubtful, reading) => match reading.as_mut().await {
                Ok(found) => {
                    found
                        .instances
                        .into_iter()
                        .for_each(|(id, held)| publisher.settle(&id, held));
                    found
                        .buckets
                        .into_iter()
                        .for_each(|(bucket, data)| publisher.settle_bucket(bucket, data));
                    self.unsettled = false;
                    self.stage = Stage::Writing(publisher.clone());
                }
                Err(error) => {
                    let again = read_back(
                        Arc::clone(&self.session),
                        self.setup.layout.clone(),
                        doubtful.clone(),
                    );
                    *reading = Box::pin(again);
                    return Err(error.into());
                }
            },
            Stage::Writing(publisher) if self.unsettled && self.commits.is_empty() => {
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
                let doubtful = Doubtful { ids, buckets };
                let reading = read_back(
                    Arc::clone(&self.session),
                    self.setup.layout.clone(),
                    doubtful.clone(),
                );
                self.stage = Stage::Settling(publisher.clone(), doubtful, Box::pin(reading));
            }
            Stage::Writing(_) => self.write().await?,
        }
        Ok(())
    }

    /// A live number: who asks is told what is true now.
    fn note_pending(&self) {
        let pending = i64::try_from(self.pending()).unwrap_or(i64::MAX);
        self.setup.metrics.pending.set(pending);
    }

    fn failed(&mut self, error: &CommitError) -> Input {
        self.setup
            .metrics
            .batches
            .get_or_create(&[("result", "failed")])
            .inc();
        // Everything in flight ends with its connection: one line for all of it.
        if !self.unsettled {
            tracing::warn!("publishing: {}", chain(error));
        }
        match error {
            CommitError::Fenced => Input::Fenced,
            CommitError::Request(StoreError::Unknown(_)) => {
                self.held = true;
                self.unsettled = true;
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

    /// Waits for what is in flight, before leadership is handed over. Bounded by the store's time limits.
    pub async fn finish(&mut self) {
        while let Some((_, result)) = self.commits.next().await {
            if let Err(error) = result {
                tracing::warn!("last batch: {}", chain(&error));
            }
        }
    }
}
