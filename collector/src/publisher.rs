//! The leader's writing: reads what is published, then writes differences in fenced batches. Carries what
//! `core::publish` decides.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    pin::Pin,
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    election::{Input, Term},
    ids::{Bucket, InstanceId, Revision},
    publish::{Batch, BucketData, Held, Op, Publisher, Record, Refusal},
    status::Reason,
};
use redkeeper_runtime::errors::chain;
use tokio::sync::{mpsc, watch};

use crate::{
    aggregator::Command,
    coordinator::{Coordinator, adopt_all},
    layout::Layout,
    metrics::Metrics,
    store::{CommitError, Session, Store, StoreError, Write},
    view::{Compacted, Shared, View},
    znode::{self, PublisherJson},
};

/// What is published, as read from ZooKeeper.
struct Published {
    held: BTreeMap<InstanceId, Held>,
    buckets: BTreeMap<Bucket, BucketData>,
}

/// Requests under way while everything is read: a latency of 1 ms each then costs 16 ms in all.
const READS_IN_FLIGHT_MAX: usize = 16;

type Commit = Pin<Box<dyn Future<Output = (u64, Result<(), CommitError>)> + Send>>;

type Reading<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Where the work stands. What is being read is kept here, because whoever waits for it may be interrupted.
enum Stage {
    /// What is published must be read first.
    Reading(Reading<Published>),
    /// Writing.
    Writing(Box<Publisher>),
    /// Outcomes became unknown: the znodes are read back before the next batch.
    Settling(Box<Publisher>, Doubtful, Reading<ReadBack>),
}

/// Znodes of unknown state.
#[derive(Clone, Default)]
struct Doubtful {
    ids: BTreeSet<InstanceId>,
    buckets: BTreeSet<Bucket>,
}

/// What znodes of unknown state turned out to hold.
struct ReadBack {
    instances: Vec<(InstanceId, Option<Held>)>,
    buckets: Vec<(Bucket, Option<BucketData>)>,
}

/// One term of leadership.
pub struct Publishing<S: Store> {
    session: Arc<S::Session>,
    layout: Layout,
    term: Term,
    id: String,
    view: Shared,
    revisions: watch::Receiver<Revision>,
    commands: mpsc::Sender<Command>,
    metrics: Metrics,
    stage: Stage,
    commits: FuturesUnordered<Commit>,
    /// Changes up to here have been marked.
    seen: Revision,
    held: bool,
    live: bool,
    /// The write that says so is under way.
    going_live: bool,
    /// An outcome became unknown: nothing is sent until everything in flight has ended and was read back.
    unsettled: bool,
}

impl<S: Store> Publishing<S> {
    /// Begins a term after an acknowledged claim.
    pub fn new(of: &Coordinator<S>, session: &Arc<S::Session>, term: Term) -> Self {
        let reading = read_and_adopt::<S>(Arc::clone(session), of.layout.clone(), of.commands.clone());
        Self {
            session: Arc::clone(session),
            layout: of.layout.clone(),
            term,
            id: of.id.to_string(),
            revisions: of.view.revisions(),
            view: of.view.clone(),
            commands: of.commands.clone(),
            metrics: of.metrics.clone(),
            stage: Stage::Reading(Box::pin(reading)),
            commits: FuturesUnordered::new(),
            seen: Revision(0),
            held: false,
            live: false,
            going_live: false,
            unsettled: false,
        }
    }

    /// Writes nothing more until [`resume`](Self::resume).
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Goes on with the same term.
    pub fn resume(&mut self) {
        self.held = false;
    }

    /// One word.
    pub fn phase(&self) -> &'static str {
        if self.live { "leader" } else { "reconciling" }
    }

    /// Statuses not yet acknowledged.
    pub fn pending(&self) -> usize {
        match &self.stage {
            Stage::Reading(_) => 0,
            Stage::Writing(publisher) | Stage::Settling(publisher, ..) => publisher.pending(),
        }
    }

    /// Works until something happens that the election must know. May be cancelled between any two steps:
    /// what is under way is kept in `self`.
    pub async fn run(&mut self) -> Input {
        loop {
            if self.held && self.commits.is_empty() {
                return std::future::pending().await;
            }
            if let Err(error) = self.step().await {
                return self.failed(&error);
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
                let mut publisher = Publisher::new(self.term.epoch, published.held, published.buckets);
                let view = self.view.get();
                mark_all(&mut publisher, &view);
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
                    let again =
                        read_back::<S>(Arc::clone(&self.session), self.layout.clone(), doubtful.clone());
                    *reading = Box::pin(again);
                    return Err(error.into());
                }
            },
            Stage::Writing(publisher) if self.unsettled && self.commits.is_empty() => {
                let (ids, buckets) = publisher.unknown();
                let doubtful = Doubtful { ids, buckets };
                let reading =
                    read_back::<S>(Arc::clone(&self.session), self.layout.clone(), doubtful.clone());
                self.stage = Stage::Settling(publisher.clone(), doubtful, Box::pin(reading));
            }
            Stage::Writing(_) => self.write().await?,
        }
        Ok(())
    }

    fn failed(&mut self, error: &CommitError) -> Input {
        self.metrics.batches.get_or_create(&[("result", "failed")]).inc();
        tracing::warn!("publishing: {}", chain(error));
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
        Box::pin(read_and_adopt::<S>(
            Arc::clone(&self.session),
            self.layout.clone(),
            self.commands.clone(),
        ))
    }

    /// One step of writing: takes in changes, sends what the window allows, waits for what comes first.
    async fn write(&mut self) -> Result<(), CommitError> {
        let Stage::Writing(publisher) = &mut self.stage else {
            return Ok(());
        };
        let view = self.view.get();
        match view.changes_after(self.seen) {
            Ok(changes) => {
                for change in changes {
                    let id = &change.status.identity.id;
                    if change.removed {
                        publisher.remove(id)
                    } else {
                        publisher.mark(id)
                    }
                }
            }
            // Too far behind: everything is compared.
            Err(Compacted) => mark_all(publisher, &view),
        }
        self.seen = view.revision;
        if !self.held && !self.unsettled {
            let desired = |id: &InstanceId| {
                let entry = view.instances.get(id)?;
                // Nothing is known yet: what is published stays.
                (entry.status.verdict.reason != Reason::NotProbed).then(|| Record::of(&entry.status))
            };
            while let Some(batch) = publisher.next_batch(desired) {
                self.commits
                    .push(commit::<S>(&self.session, &self.layout, self.term, batch));
            }
            if !self.live && !self.going_live && publisher.pending() == 0 {
                self.going_live = true;
                self.commits
                    .push(go_live::<S>(&self.session, &self.layout, self.term, &self.id));
            }
        }
        let Stage::Writing(publisher) = &mut self.stage else {
            return Ok(());
        };
        tokio::select! {
            Some((number, result)) = self.commits.next() => match result {
                Ok(()) if number == GO_LIVE => {
                    tracing::info!(epoch = self.term.epoch.0, "live: everything known is published");
                    self.live = true;
                }
                Ok(()) => {
                    publisher.acknowledged(number);
                    self.metrics.batches.get_or_create(&[("result", "ok")]).inc();
                }
                Err(CommitError::Operation(index, StoreError::Exists)) => publisher.refused(number, index, Refusal::Exists),
                Err(CommitError::Operation(index, StoreError::Missing)) => publisher.refused(number, index, Refusal::Missing),
                Err(CommitError::Operation(index, StoreError::Refused(why))) if number != GO_LIVE => {
                    tracing::error!(batch = number, "a znode may not be written: {why}; left out until it changes");
                    self.metrics.batches.get_or_create(&[("result", "forbidden")]).inc();
                    publisher.refused(number, index, Refusal::Forbidden);
                }
                Err(error) => {
                    self.going_live &= number != GO_LIVE;
                    return Err(error);
                }
            },
            changed = self.revisions.changed() => if changed.is_err() {
                return Err(StoreError::Lost("the aggregator has stopped".to_owned()).into());
            },
        }
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

/// Everything in the view may differ; what an agent no longer has, although it has said what it has, is gone.
fn mark_all(publisher: &mut Publisher, view: &View) {
    view.instances.keys().for_each(|id| publisher.mark(id));
    let orphan = |(id, held): (&InstanceId, &Held)| match held {
        Held::Record(record) if !view.instances.contains_key(id) => view
            .agents
            .get(&record.agent)
            .is_some_and(|agent| agent.complete)
            .then(|| id.clone()),
        _ => None,
    };
    let orphans: Vec<_> = publisher.mirror().iter().filter_map(orphan).collect();
    orphans.iter().for_each(|id| publisher.remove(id));
}

/// Number of the write that ends the reconciliation; batches count from 1.
const GO_LIVE: u64 = 0;

fn go_live<S: Store>(session: &Arc<S::Session>, layout: &Layout, term: Term, id: &str) -> Commit {
    let json = PublisherJson {
        epoch: term.epoch.0,
        holder: id.to_owned(),
        phase: "live".to_owned(),
    };
    let write = Write::Set(
        layout.publisher(),
        serde_json::to_vec(&json).unwrap_or_default(),
        None,
    );
    let (session, epoch) = (Arc::clone(session), layout.epoch());
    Box::pin(async move { (GO_LIVE, session.commit((&epoch, term.token), vec![write]).await) })
}

fn commit<S: Store>(session: &Arc<S::Session>, layout: &Layout, term: Term, batch: Batch) -> Commit {
    let (session, epoch) = (Arc::clone(session), layout.epoch());
    let writes = batch.ops.iter().map(|op| write(layout, term, op)).collect();
    Box::pin(async move { (batch.number, session.commit((&epoch, term.token), writes).await) })
}

fn write(layout: &Layout, term: Term, op: &Op) -> Write {
    match op {
        Op::Put(record, true) => Write::Create(layout.instance(&record.id), znode::status(record), false),
        Op::Put(record, false) => Write::Set(layout.instance(&record.id), znode::status(record), None),
        Op::Delete(id) => Write::Delete(layout.instance(id)),
        Op::Bucket(bucket, data, true) => {
            Write::Create(layout.bucket(*bucket), znode::bucket(*data, term.epoch), false)
        }
        Op::Bucket(bucket, data, false) => {
            Write::Set(layout.bucket(*bucket), znode::bucket(*data, term.epoch), None)
        }
    }
}

fn status_of(held: &Held) -> Option<redkeeper_core::status::Status> {
    match held {
        Held::Record(record) => Some(record.status()),
        Held::Unreadable => None,
    }
}

async fn read_back<S: Store>(
    session: Arc<S::Session>,
    layout: Layout,
    Doubtful { ids, buckets }: Doubtful,
) -> Result<ReadBack, StoreError> {
    session.sync(&layout.epoch()).await?;
    let paths: Vec<_> = ids.iter().map(|id| layout.instance(id)).collect();
    let nodes = session.get(&paths).await?;
    let held = |(id, node): (InstanceId, Option<crate::store::Node>)| {
        let held = node.map(|node| znode::read_status(&id, &node.data));
        (id, held)
    };
    let instances = ids.into_iter().zip(nodes).map(held).collect();
    let paths: Vec<_> = buckets.iter().map(|bucket| layout.bucket(*bucket)).collect();
    let nodes = session
        .get(&paths)
        .await?
        .into_iter()
        .map(|node| node.map(|node| znode::read_bucket(&node.data)));
    Ok(ReadBack {
        instances,
        buckets: buckets.into_iter().zip(nodes).collect(),
    })
}

async fn read_and_adopt<S: Store>(
    session: Arc<S::Session>,
    layout: Layout,
    commands: mpsc::Sender<Command>,
) -> Result<Published, StoreError> {
    let published = read_all(&*session, &layout).await?;
    adopt_all(&commands, published.held.values().filter_map(status_of).collect()).await?;
    Ok(published)
}

async fn read_all<T: Session>(session: &T, layout: &Layout) -> Result<Published, StoreError> {
    let buckets: Vec<_> = Bucket::all().collect();
    let paths: Vec<_> = buckets.iter().map(|bucket| layout.bucket(*bucket)).collect();
    let nodes = session.get(&paths).await?;
    let found = buckets
        .iter()
        .zip(nodes)
        .filter_map(|(b, node)| Some((*b, znode::read_bucket(&node?.data))));
    let mut published = Published {
        held: BTreeMap::new(),
        buckets: found.collect(),
    };
    let listed = futures_util::stream::iter(published.buckets.keys().copied().collect::<Vec<_>>())
        .map(|bucket| read_bucket(session, layout, bucket))
        .buffer_unordered(READS_IN_FLIGHT_MAX);
    let mut listed = std::pin::pin!(listed);
    while let Some(statuses) = listed.next().await {
        published.held.extend(statuses?);
    }
    Ok(published)
}

async fn read_bucket<T: Session>(
    session: &T,
    layout: &Layout,
    bucket: Bucket,
) -> Result<Vec<(InstanceId, Held)>, StoreError> {
    let names = session.children(&layout.bucket(bucket)).await?;
    // A name that is no id, or stands in the wrong bucket, is somebody else's: left alone.
    let ids = names
        .iter()
        .filter_map(|name| InstanceId::new(name).ok())
        .filter(|id| id.bucket() == bucket);
    let ids: Vec<_> = ids.collect();
    let paths: Vec<_> = ids.iter().map(|id| layout.instance(id)).collect();
    let nodes = if paths.is_empty() {
        Vec::new()
    } else {
        session.get(&paths).await?
    };
    let one = |(id, node): (InstanceId, Option<crate::store::Node>)| {
        let held = znode::read_status(&id, &node?.data);
        Some((id, held))
    };
    Ok(ids.into_iter().zip(nodes).filter_map(one).collect())
}

/// Tells the aggregator what is published, without writing.
///
/// # Errors
/// As the store.
pub async fn adopt<T: Session>(
    session: &T,
    layout: &Layout,
    commands: &mpsc::Sender<Command>,
) -> Result<(), StoreError> {
    let published = read_all(session, layout).await?;
    adopt_all(commands, published.held.values().filter_map(status_of).collect()).await
}
