//! A follower's mirror of what is published. The leader tells of its writes over the links; now and then the data of the
//! buckets shows what was missed, and only that is read. So a new leader knows what is published before it leads.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt;
use redkeeper_core::{
    ids::{Bucket, Epoch, InstanceId},
    publish::{BucketData, BucketWrites, Found, Mirror, StoredStatus},
};
use redkeeper_proto::v1::PublishedWrites;
use redkeeper_runtime::errors::chain;
use tokio::{sync::mpsc, time::Instant};

use super::{Reading, Setup, desired::publishable, replicate::decode};
use crate::{
    fleet::view::View,
    publish::load::{news, read_data, read_statuses, tell_fleet},
    store::{Session, StoreError, layout::Layout},
};

/// Messages of the links that wait, 77 MB at most: what is lost beyond is read.
pub const TOLD_MAX: usize = 512;
/// Time between two looks at the data of all buckets.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Maximum znodes that are read in one second to make up for what was missed: a tenth of what a server answers. After a gap
/// in everything, a million of them take 50 s.
const READS_PER_SECOND: u32 = 20_000;
/// Buckets that are read at a time when a session begins: at a latency of 1 ms, all of them take about 50 ms.
const READS_IN_FLIGHT_MAX: usize = 16;
/// Instances whose copies are looked for at each look: a million take 20 minutes.
const SHARED_AT_A_TIME: usize = 4_096;

/// What was read of a bucket; `None` if it was written meanwhile.
type Read = Option<Found>;

/// A follower's mirror.
pub struct Follower {
    mirror: Mirror,
    told: mpsc::Receiver<PublishedWrites>,
    look_at: Instant,
    looking: Option<Reading<BTreeMap<Bucket, Option<BucketData>>>>,
    /// The buckets that were not proven at the last look.
    behind: BTreeSet<Bucket>,
    /// The buckets that were not proven at two looks, and are read.
    to_read: BTreeSet<Bucket>,
    reading: Option<(Bucket, Reading<Read>)>,
    read_at: Instant,
    /// The last instance of which a copy was looked for.
    shared: Option<InstanceId>,
}

impl Follower {
    /// A follower that knows nothing. `told`: what the links tell.
    pub fn new(told: mpsc::Receiver<PublishedWrites>) -> Self {
        Self {
            mirror: Mirror::default(),
            told,
            look_at: Instant::now(),
            looking: None,
            behind: BTreeSet::new(),
            to_read: BTreeSet::new(),
            reading: None,
            read_at: Instant::now(),
            shared: None,
        }
    }

    /// Takes the mirror, for a term.
    pub fn take_mirror(&mut self) -> Mirror {
        std::mem::take(&mut self.mirror)
    }

    /// Takes the mirror back after a term.
    pub fn put_mirror(&mut self, mirror: Mirror) {
        self.mirror = mirror;
    }

    /// Reads what is not known, and has the fleet adopt it, without writing: so instances of agents that are gone are known
    /// too. Returns the newest term that wrote a status.
    ///
    /// # Errors
    /// When something cannot be read.
    pub async fn catch_up<T: Session>(
        &mut self,
        session: &Arc<T>,
        setup: &Setup,
    ) -> Result<Epoch, StoreError> {
        (self.looking, self.reading) = (None, None);
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let adopting = setup.adopting(false);
        let buckets: BTreeSet<_> = Bucket::all().collect();
        let data = read_data(&**session, &setup.layout, &buckets).await?;
        let unknown: Vec<_> = buckets
            .iter()
            .copied()
            .zip(data)
            .filter(|(bucket, data)| !self.mirror.is_proven(*bucket, *data))
            .collect();
        let reads = futures_util::stream::iter(unknown)
            .map(|(bucket, before)| async move {
                let found = read(&**session, &setup.layout, bucket, before).await?;
                let statuses = news(&setup.view.get(), found.held.values());
                tell_fleet(&setup.commands, statuses, adopting).await?;
                let stable = is_stable(&**session, &setup.layout, bucket, &found).await?;
                Ok::<_, StoreError>((bucket, found, stable))
            })
            .buffer_unordered(READS_IN_FLIGHT_MAX);
        let mut reads = std::pin::pin!(reads);
        let mut newest = Epoch(0);
        while let Some(read) = reads.next().await {
            let (bucket, found, stable) = read?;
            let records = found.held.values().filter_map(StoredStatus::record);
            newest = records.map(|record| record.epoch).fold(newest, Epoch::max);
            self.mirror.read(bucket, found);
            if !stable {
                self.mirror.doubt(bucket);
            }
        }
        for bucket in buckets {
            newest = newest.max(self.mirror.newest_epoch(bucket));
            tokio::task::yield_now().await;
        }
        Ok(newest)
    }

    /// Keeps the mirror up to date. May be cancelled at any await: what is under way is kept in `self`.
    pub async fn run<T: Session>(&mut self, session: &Arc<T>, setup: &Setup) -> std::convert::Infallible {
        loop {
            if self.reading.is_none()
                && let Some(bucket) = self.to_read.pop_first()
            {
                let (session, layout) = (Arc::clone(session), setup.layout.clone());
                let wait = self.read_at;
                let reading = async move {
                    tokio::time::sleep_until(wait).await;
                    let before = read_data(&*session, &layout, &[bucket].into()).await?.remove(0);
                    let found = read(&*session, &layout, bucket, before).await?;
                    let stable = is_stable(&*session, &layout, bucket, &found).await?;
                    Ok(stable.then_some(found))
                };
                self.reading = Some((bucket, Box::pin(reading)));
            }
            tokio::select! {
                biased;
                Some(told) = self.told.recv() => {
                    let view = setup.view.get();
                    decode(told).for_each(|writes| self.apply(&view, writes));
                    // Many may wait, and others have work too.
                    tokio::task::yield_now().await;
                }
                looked = pending(&mut self.looking) => {
                    self.looking = None;
                    self.look_at = Instant::now() + LOOK_INTERVAL;
                    match looked {
                        Ok(data) => {
                            self.looked(data);
                            let behind = i64::try_from(self.behind.len()).unwrap_or(i64::MAX);
                            setup.metrics.buckets_behind.set(behind);
                        }
                        Err(error) => tracing::debug!("the data of the buckets could not be read: {}", chain(&error)),
                    }
                    self.share_some(&setup.view.get());
                }
                (bucket, read) = pending_read(&mut self.reading) => {
                    self.reading = None;
                    match read {
                        Ok(Some(found)) => {
                            let reads = u32::try_from(found.held.len()).unwrap_or(u32::MAX);
                            self.read_at = Instant::now() + Duration::from_secs(1) * reads / READS_PER_SECOND;
                            self.mirror.read(bucket, found);
                        }
                        // The next look finds it again.
                        Ok(None) => {}
                        Err(error) => tracing::debug!("a bucket could not be read: {}", chain(&error)),
                    }
                }
                () = tokio::time::sleep_until(self.look_at), if self.looking.is_none() => {
                    let (session, layout) = (Arc::clone(session), setup.layout.clone());
                    self.looking = Some(Box::pin(async move {
                        let buckets = Bucket::all().collect();
                        let data = read_data(&*session, &layout, &buckets).await?;
                        Ok(buckets.into_iter().zip(data).collect())
                    }));
                }
            }
        }
    }

    /// Compares the data of all buckets with the mirror. A bucket that is behind once may be on its way over the link.
    fn looked(&mut self, data: BTreeMap<Bucket, Option<BucketData>>) {
        let behind = data
            .into_iter()
            .filter(|(bucket, data)| !self.mirror.is_proven(*bucket, *data));
        let behind: BTreeSet<_> = behind.map(|(bucket, _)| bucket).collect();
        self.to_read = behind.intersection(&self.behind).copied().collect();
        self.behind = behind;
    }

    fn apply(&mut self, view: &View, mut writes: BucketWrites) {
        for (id, held) in &mut writes.written {
            // What this collector heard itself is the same status mostly: one copy of it is enough.
            if let Some(known) = view.instances.get(id)
                && let StoredStatus::Record(record) = held
                && let Some(own) = publishable(&known.status, known.origin)
                && own.same(record)
                && own.status.verdict.since == record.status.verdict.since
            {
                record.status = own.status;
                *id = record.id().clone();
            }
        }
        self.mirror.apply(writes);
    }

    /// Replaces some statuses of the mirror that are copies of those in the view.
    fn share_some(&mut self, view: &View) {
        let from = self.shared.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let mut last = None;
        let some = view.instances.range::<_, InstanceId>((from, Bound::Unbounded));
        for (id, entry) in some.take(SHARED_AT_A_TIME) {
            if let Some(record) = publishable(&entry.status, entry.origin) {
                self.mirror.share(&record);
            }
            last = Some(id.clone());
        }
        self.shared = last;
    }
}

async fn read<T: Session>(
    session: &T,
    layout: &Layout,
    bucket: Bucket,
    data: Option<BucketData>,
) -> Result<Found, StoreError> {
    let held = match data {
        Some(_) => read_statuses(session, layout, bucket).await?,
        None => BTreeMap::new(),
    };
    Ok(Found { data, held })
}

/// Whether nothing was written in a bucket since its data was read. A status and the data change together, so what was
/// read in between is then one state.
async fn is_stable<T: Session>(
    session: &T,
    layout: &Layout,
    bucket: Bucket,
    found: &Found,
) -> Result<bool, StoreError> {
    let after = read_data(session, layout, &[bucket].into()).await?.remove(0);
    Ok(after == found.data)
}

async fn pending<T>(reading: &mut Option<Reading<T>>) -> Result<T, StoreError> {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

async fn pending_read(reading: &mut Option<(Bucket, Reading<Read>)>) -> (Bucket, Result<Read, StoreError>) {
    match reading {
        Some((bucket, reading)) => (*bucket, reading.await),
        None => std::future::pending().await,
    }
}
