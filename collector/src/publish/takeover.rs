//! The begin of a term: opens one bucket after the other for writing, once it is proven that the mirror knows it, or it was
//! read, and the fleet has adopted what is published. Meanwhile the fleet is compared with the mirror. All of it is done in
//! parts of some milliseconds between which writes and the session have their turn, so that it may take as long as it
//! takes. A bucket in which something changes is opened first, so that the change is written at once.
//!
//! The comparison walks over the fleet in its order, which is several times faster than to look up the names of a bucket
//! one by one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    fleet::message_order::Origin,
    ids::{Bucket, InstanceId},
    publish::{BucketData, Found},
    status::Status,
};
use tokio::time::Instant;

use super::{LeaderTerm, Reading, Request, desired::publishable};
use crate::{
    fleet::command::Adopting,
    publish::load::{News, news, read_data, read_statuses, tell_fleet},
    store::{Store, StoreError},
};

/// Buckets that are read or adopted at a time: at a latency of 1 ms, reading all takes about 32 ms.
const OPENINGS_MAX: usize = 16;
/// Instances that are compared at a time, in a millisecond or two.
const COMPARED_AT_A_TIME: usize = 1_024;

/// Changed buckets that are opened before others. To find the news of one takes up to 30 ms with a million instances; if
/// more change, the walk is faster.
const URGENT_MAX: usize = 32;

/// What the walk has found in a bucket that is proven.
#[derive(Default)]
struct Walked {
    /// Statuses of the mirror that the fleet has too.
    seen: usize,
    /// Those to be adopted.
    news: Vec<(Arc<Status>, Origin)>,
}

/// A bucket whose statuses the fleet has adopted, and what was read of it if it was not proven.
type Opened = (Bucket, Option<Found>);

/// What is left to do.
pub(super) struct TakeOver {
    adopting: Adopting,
    began: Instant,
    /// The data of all buckets is being read. In this term nobody else changes it.
    reading: Option<Reading<BTreeMap<Bucket, Option<BucketData>>>>,
    data: BTreeMap<Bucket, Option<BucketData>>,
    openings: FuturesUnordered<Request<Result<Opened, StoreError>>>,
    /// The buckets that are being opened.
    opening: BTreeSet<Bucket>,
    /// Number of buckets that had to be read.
    read: usize,
    /// Buckets in which something has changed since the claim.
    urgent: BTreeSet<Bucket>,
    /// The last instance that the walk came to.
    last: Option<InstanceId>,
    /// The walk has come to the end.
    is_walked: bool,
    /// Something must be compared that the present walk may have passed.
    walk_again: bool,
    walked: BTreeMap<Bucket, Walked>,
}

/// A part of the work that waits for others.
pub(super) enum Step {
    Data(BTreeMap<Bucket, Option<BucketData>>),
    Opened(Opened),
}

impl TakeOver {
    pub(super) fn new(adopting: Adopting) -> Self {
        Self {
            adopting,
            began: Instant::now(),
            reading: None,
            data: BTreeMap::new(),
            openings: FuturesUnordered::new(),
            opening: BTreeSet::new(),
            read: 0,
            urgent: BTreeSet::new(),
            last: None,
            is_walked: false,
            walk_again: false,
            walked: BTreeMap::new(),
        }
    }

    /// Everything must be compared, because changes were missed.
    pub(super) fn compare_again(&mut self) {
        self.walk_again = true;
    }

    /// Something has changed in this bucket.
    pub(super) fn changed(&mut self, bucket: Bucket) {
        self.urgent.insert(bucket);
    }

    /// The next part that others have done.
    async fn step(&mut self) -> Result<Step, StoreError> {
        if let Some(reading) = &mut self.reading {
            let data = reading.await;
            // A completed future must not be polled again.
            self.reading = None;
            return data.map(Step::Data);
        }
        match self.openings.next().await {
            Some(opened) => opened.map(Step::Opened),
            None => std::future::pending().await,
        }
    }

    /// Gives up what is under way, so that it is begun again.
    fn interrupt(&mut self) {
        self.openings = FuturesUnordered::new();
        self.opening.clear();
    }
}

/// The next part of a take-over; never, if there is none.
pub(super) async fn step(takeover: &mut Option<TakeOver>) -> Result<Step, StoreError> {
    match takeover {
        Some(takeover) => takeover.step().await,
        None => std::future::pending().await,
    }
}

impl<S: Store> LeaderTerm<S> {
    /// Takes a part that others have done.
    pub(super) fn stepped(&mut self, step: Result<Step, StoreError>) -> Result<(), StoreError> {
        let Some(takeover) = &mut self.takeover else {
            return Ok(());
        };
        match step {
            Ok(Step::Data(data)) => takeover.data = data,
            Ok(Step::Opened((bucket, found))) => {
                takeover.opening.remove(&bucket);
                if let Some(found) = found {
                    takeover.read += 1;
                    takeover.walk_again = true;
                    self.publisher.read(bucket, found);
                }
                self.publisher.open(bucket);
            }
            Err(error) => {
                takeover.interrupt();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Does a part of the work. Returns true if there is more that need not wait.
    pub(super) fn take_over(&mut self) -> bool {
        let Some(takeover) = &mut self.takeover else {
            return false;
        };
        if takeover.data.is_empty() && !self.publisher.all_open() {
            takeover.reading.get_or_insert_with(|| {
                let (session, layout) = (Arc::clone(&self.session), self.setup.layout.clone());
                Box::pin(async move {
                    let buckets = Bucket::all().collect();
                    let data = read_data(&*session, &layout, &buckets).await?;
                    Ok(buckets.into_iter().zip(data).collect())
                })
            });
            return false;
        }
        let data = |bucket: Bucket| takeover.data.get(&bucket).copied().flatten();
        let is_proven = |bucket: &Bucket| self.publisher.is_proven(*bucket, data(*bucket));
        let reads = takeover
            .opening
            .iter()
            .filter(|bucket| !is_proven(bucket))
            .count();
        // Those that are read, which may take long, do not stand in the way of the others.
        if takeover.openings.len().saturating_sub(reads) < OPENINGS_MAX {
            let is_urgent =
                |bucket: &Bucket| takeover.urgent.contains(bucket) && takeover.urgent.len() <= URGENT_MAX;
            let may_open = |bucket: &Bucket| match is_proven(bucket) {
                true => takeover.is_walked || is_urgent(bucket),
                false => reads < OPENINGS_MAX,
            };
            let waiting = self
                .publisher
                .closed()
                .filter(|bucket| !takeover.opening.contains(bucket));
            let next = waiting.filter(may_open).max_by_key(is_urgent);
            if let Some(bucket) = next {
                self.start_opening(bucket);
                return true;
            }
        }
        if !takeover.is_walked {
            self.walk();
            return true;
        }
        if !self.publisher.all_open() {
            return false;
        }
        if std::mem::take(&mut takeover.walk_again) {
            (takeover.is_walked, takeover.last) = (false, None);
            return true;
        }
        tracing::info!(
            epoch = self.term.epoch.0,
            buckets_read = takeover.read,
            took = ?takeover.began.elapsed(),
            "everything that is published is compared"
        );
        self.takeover = None;
        true
    }

    fn start_opening(&mut self, bucket: Bucket) {
        let Some(takeover) = &mut self.takeover else {
            return;
        };
        let data = takeover.data.get(&bucket).copied().flatten();
        let is_proven = self.publisher.is_proven(bucket, data);
        let walked = takeover.walked.remove(&bucket).filter(|_| takeover.is_walked);
        let proven = is_proven.then(|| match walked {
            Some(walked) if walked.seen == self.publisher.held_count(bucket) => walked.news,
            // The fleet does not have all of them.
            _ => news(&self.setup.view.get(), self.publisher.held(bucket)),
        });
        let (session, setup, adopting) = (Arc::clone(&self.session), self.setup.clone(), takeover.adopting);
        takeover.opening.insert(bucket);
        takeover.openings.push(Box::pin(async move {
            if let Some(statuses) = proven {
                tell_fleet(&setup.commands, statuses, adopting).await?;
                return Ok((bucket, None));
            }
            let held = match data {
                Some(_) => read_statuses(&*session, &setup.layout, bucket).await?,
                None => BTreeMap::new(),
            };
            let statuses = news(&setup.view.get(), held.values());
            tell_fleet(&setup.commands, statuses, adopting).await?;
            Ok((bucket, Some(Found { data, held })))
        }));
    }

    /// Compares some instances of the fleet with what is published, as far as that is known.
    fn walk(&mut self) {
        let Some(takeover) = &mut self.takeover else {
            return;
        };
        let (view, now) = (self.setup.view.get(), self.setup.clock.now());
        let from = takeover.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let some = view.instances.range::<_, InstanceId>((from, Bound::Unbounded));
        let (mut judge, mut last) = (News::new(&view), None);
        for (id, entry) in some.take(COMPARED_AT_A_TIME) {
            last = Some(id);
            let bucket = id.bucket();
            if self.publisher.is_closed(bucket) {
                let data = takeover.data.get(&bucket).copied().flatten();
                if !self.publisher.is_proven(bucket, data) {
                    // It is compared once it is read.
                    continue;
                }
                if let Some(held) = self.publisher.held_of(id) {
                    let walked = takeover.walked.entry(bucket).or_default();
                    walked.seen += 1;
                    let news = held.record().filter(|record| judge.is_news(entry, record));
                    walked
                        .news
                        .extend(news.map(|record| (Arc::clone(&record.status), record.origin)));
                }
            }
            if let Some(record) = publishable(&entry.status, entry.origin) {
                self.publisher.compare(now, record);
            }
        }
        takeover.is_walked = last.is_none();
        takeover.last = last.cloned();
    }
}
