//! The leader's writing: reads what is published, writes differences in fenced batches, and reads back what it
//! wrote. Carries what `core::publish` decides.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    election::{Input, Term},
    fleet::message_order::Origin,
    ids::{Bucket, InstanceId, Revision},
    publish::{Found, Publisher, Record, Refusal, Unknown},
    status::{Reason, Status},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, errors::chain, log_limit::LogLimit};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use crate::{
    fleet::{
        aggregator::Command,
        view::{Compacted, Shared},
    },
    leader::Coordinator,
    metrics::Metrics,
    publish::{
        commit::{Commit, Work, commit, go_live},
        load::{Doubtful, Published, ReadBack, read_and_adopt, read_back},
    },
    store::{CommitError, Store, StoreError, layout::Layout},
};

mod audit;
mod commit;
pub(crate) mod load;

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

/// One term of leadership.
pub struct Publishing<S: Store> {
    session: Arc<S::Session>,
    layout: Layout,
    term: Term,
    grace: bool,
    id: String,
    view: Shared,
    revisions: watch::Receiver<Revision>,
    commands: mpsc::Sender<Command>,
    clock: Clock,
    orphans_max_percent: u8,
    audit_interval: Duration,
    metrics: Metrics,
    stage: Stage,
    /// The read-back of one bucket.
    audit: Option<(Bucket, Reading<Found>)>,
    audit_at: Instant,
    /// Statuses of others' making, on their way to the aggregator.
    adopting: Option<Reading<()>>,
    commits: FuturesUnordered<Commit>,
    /// Changes up to here have been marked.
    seen: Revision,
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
    pub fn new(of: &Coordinator<S>, session: &Arc<S::Session>, term: Term, grace: bool) -> Self {
        let reading = read_and_adopt(Arc::clone(session), of.layout.clone(), of.commands.clone(), grace);
        Self {
            session: Arc::clone(session),
            layout: of.layout.clone(),
            term,
            grace,
            id: of.id.to_string(),
            revisions: of.view.revisions(),
            view: of.view.clone(),
            commands: of.commands.clone(),
            clock: of.clock,
            orphans_max_percent: of.orphans_max_percent,
            audit_interval: of.audit_interval,
            metrics: of.metrics.clone(),
            stage: Stage::Reading(Box::pin(reading)),
            audit: None,
            audit_at: Instant::now() + of.audit_interval,
            adopting: None,
            commits: FuturesUnordered::new(),
            seen: Revision(0),
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
                let now = self.clock.now();
                let Published { held, buckets } = published;
                let mut publisher =
                    Publisher::new(now, self.term.epoch, held, buckets, self.orphans_max_percent);
                let view = self.view.get();
                view.instances.keys().for_each(|id| publisher.mark(now, id));
                self.seen = view.revision;
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
                    let again = read_back(Arc::clone(&self.session), self.layout.clone(), doubtful.clone());
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
                } = publisher.unknown(self.clock.now());
                if let Some(id) = left_out {
                    let path = self.layout.instance(&id);
                    self.metrics
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
                let reading = read_back(Arc::clone(&self.session), self.layout.clone(), doubtful.clone());
                self.stage = Stage::Settling(publisher.clone(), doubtful, Box::pin(reading));
            }
            Stage::Writing(_) => self.write().await?,
        }
        Ok(())
    }

    /// A live number: who asks is told what is true now.
    fn note_pending(&self) {
        let pending = i64::try_from(self.pending()).unwrap_or(i64::MAX);
        self.metrics.pending.set(pending);
    }

    fn failed(&mut self, error: &CommitError) -> Input {
        self.metrics.batches.get_or_create(&[("result", "failed")]).inc();
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
            self.layout.clone(),
            self.commands.clone(),
            self.grace,
        ))
    }

    /// One step of writing: takes in changes, sends what the window allows, waits for what comes first.
    async fn write(&mut self) -> Result<(), CommitError> {
        let Stage::Writing(publisher) = &mut self.stage else {
            return Ok(());
        };
        let (view, now) = (self.view.get(), self.clock.now());
        match view.changes_after(self.seen) {
            Ok(changes) => {
                for change in changes {
                    let id = &change.status.identity.id;
                    if change.removed {
                        publisher.remove(now, id)
                    } else if let Some(record) = publishable(&change.status, change.origin) {
                        publisher.put(now, record)
                    } else {
                        publisher.mark(now, id)
                    }
                }
            }
            // Too far behind: everything is compared. What was removed meanwhile is found as an orphan.
            Err(Compacted) => view.instances.keys().for_each(|id| publisher.mark(now, id)),
        }
        self.seen = view.revision;
        let mut sent = false;
        if self.held || self.unsettled {
            self.audit = None;
        } else {
            let desired = |id: &InstanceId| {
                let entry = view.instances.get(id)?;
                publishable(&entry.status, entry.origin)
            };
            if let Some(batch) = publisher.next_batch(now, desired) {
                self.commits
                    .push(commit::<S>(&self.session, &self.layout, self.term, batch));
                sent = true;
            }
            // Whatever is left now waits for a read-back or for its pace.
            if !self.live && !self.going_live && publisher.in_flight() == 0 {
                self.going_live = true;
                self.commits
                    .push(go_live::<S>(&self.session, &self.layout, self.term, &self.id));
            }
        }
        let may_write = !self.held && !self.unsettled;
        let paced = publisher.next_deadline().filter(|_| may_write);
        let paced = paced.map(|due| self.clock.instant(due));
        let may_audit = self.live && may_write && self.adopting.is_none();
        tokio::select! {
            biased;
            Some((work, result)) = self.commits.next() => self.committed(work, result)?,
            changed = self.revisions.changed() => if changed.is_err() {
                return Err(StoreError::Lost("the aggregator has stopped".to_owned()).into());
            },
            adopted = pending(&mut self.adopting) => {
                self.adopting = None;
                adopted?;
            }
            found = pending_audit(&mut self.audit) => {
                if let Some((bucket, _)) = self.audit.take() {
                    self.audited(bucket, found?, &view);
                }
            }
            () = tokio::time::sleep_until(paced.unwrap_or(self.audit_at)), if paced.is_some() => {}
            // What was made goes out before the next one is made.
            () = tokio::task::yield_now(), if sent => (),
            () = tokio::time::sleep_until(self.audit_at), if may_audit && self.audit.is_none() => self.start_audit(),
        }
        Ok(())
    }

    fn committed(&mut self, work: Work, result: Result<(), CommitError>) -> Result<(), CommitError> {
        let Stage::Writing(publisher) = &mut self.stage else {
            return result;
        };
        let number = match (work, &result) {
            (Work::GoLive, Ok(())) => {
                tracing::info!(epoch = self.term.epoch.0, "live: everything known is published");
                self.live = true;
                return Ok(());
            }
            (Work::GoLive, Err(_)) => {
                self.going_live = false;
                return result;
            }
            (Work::Batch(number), _) => number,
        };
        let kind = match result {
            Ok(()) => {
                let written = publisher.acknowledged(number);
                self.metrics.writes.inc_by(written);
                "ok"
            }
            Err(CommitError::Operation(index, StoreError::Exists)) => {
                publisher.refused(number, index, Refusal::Exists);
                "refused"
            }
            Err(CommitError::Operation(index, StoreError::Missing)) => {
                if publisher.refused(number, index, Refusal::Missing) {
                    return Err(StoreError::Lost("the parent of the buckets is gone".to_owned()).into());
                }
                "refused"
            }
            Err(CommitError::Operation(index, StoreError::Refused(why))) => {
                publisher.refused(number, index, Refusal::Forbidden);
                let count = publisher.quarantined();
                let new = self.refused.as_ref().is_none_or(|(first, _)| *first != why);
                if new && let Some(more) = self.refusal_lines.line(std::time::Instant::now()) {
                    tracing::error!(
                        count,
                        more,
                        "ZooKeeper refuses to let a status be written: {why}; it is left out until it changes"
                    );
                }
                let first = self.refused.take().map_or(why, |(first, _)| first);
                self.refused = Some((first, count));
                "forbidden"
            }
            Err(error) => return Err(error),
        };
        self.metrics.batches.get_or_create(&[("result", kind)]).inc();
        Ok(())
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

async fn pending<T>(request: &mut Option<Request<T>>) -> T {
    match request {
        Some(request) => request.await,
        None => std::future::pending().await,
    }
}

async fn pending_audit(audit: &mut Option<(Bucket, Reading<Found>)>) -> Result<Found, StoreError> {
    match audit {
        Some((_, reading)) => reading.await,
        None => std::future::pending().await,
    }
}

/// What is to be published of a status: nothing where nothing is known yet, so that what is published stays.
fn publishable(status: &Arc<Status>, origin: Origin) -> Option<Record> {
    (status.verdict.reason != Reason::NotProbed).then(|| Record::of(status, origin))
}
