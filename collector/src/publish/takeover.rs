//! The begin of a term: opens one bucket after the other for writing, once it is proven that the mirror knows it, or it was
//! read, and the fleet has adopted what is published. Then the fleet is compared with the mirror. All of it is done in
//! parts of some milliseconds between which writes and the session have their turn, so that it may take as long as it
//! takes, and a change in an open bucket is written at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use redkeeper_core::{
    ids::{Bucket, InstanceId},
    publish::{BucketData, Found},
};
use tokio::time::Instant;

use super::{LeaderTerm, Reading, Request, desired::publishable};
use crate::{
    fleet::command::Adopting,
    publish::load::{news, read_data, read_statuses, tell_fleet},
    store::{Store, StoreError},
};

/// Buckets that are read or adopted at a time: at a latency of 1 ms, reading all takes about 32 ms.
const OPENINGS_MAX: usize = 16;
/// Instances that are compared at a time, in a millisecond or two.
const COMPARED_AT_A_TIME: usize = 1_024;

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
    /// The last instance that was compared.
    compared: Option<InstanceId>,
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
            compared: None,
        }
    }

    /// Everything must be compared, from the first instance on.
    pub(super) fn compare_again(&mut self) {
        self.compared = None;
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
        if takeover.openings.len() < OPENINGS_MAX {
            let closed = self.publisher.closed();
            let next = closed.iter().find(|bucket| !takeover.opening.contains(bucket));
            if let Some(bucket) = next {
                self.start_opening(*bucket);
                return true;
            }
        }
        self.publisher.all_open() && self.compare_some()
    }

    fn start_opening(&mut self, bucket: Bucket) {
        let Some(takeover) = &mut self.takeover else {
            return;
        };
        let data = takeover.data.get(&bucket).copied().flatten();
        let is_proven = self.publisher.is_proven(bucket, data);
        let proven = is_proven.then(|| news(&self.setup.view.get(), self.publisher.held(bucket)));
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

    /// Compares some instances of the fleet with what is published. Returns false when all are compared.
    fn compare_some(&mut self) -> bool {
        let Some(takeover) = &mut self.takeover else {
            return false;
        };
        let (view, now) = (self.setup.view.get(), self.setup.clock.now());
        let from = takeover
            .compared
            .as_ref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        for (id, entry) in view
            .instances
            .range::<_, InstanceId>((from, Bound::Unbounded))
            .take(COMPARED_AT_A_TIME)
        {
            if let Some(record) = publishable(&entry.status, entry.origin) {
                self.publisher.compare(now, record);
            }
            last = Some(id.clone());
        }
        if last.is_some() {
            takeover.compared = last;
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
}
