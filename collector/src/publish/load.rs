//! Reads what is published: all of it, one bucket, or znodes of unresolved state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::StreamExt;
use redkeeper_core::{
    ids::{Bucket, Epoch, InstanceId},
    publish::{BucketData, Found, Record, StoredStatus},
};
use tokio::sync::mpsc;

use super::format::native;
use crate::{
    fleet::command::{Command, adopt},
    store::{Node, Session, StoreError, layout::Layout, records},
};

/// Maximum requests in flight while everything is read: at a latency of 1 ms each, reading takes 16 ms in all.
const READS_IN_FLIGHT_MAX: usize = 16;

/// Everything that is published.
pub(crate) struct Published {
    pub(crate) held: BTreeMap<InstanceId, StoredStatus>,
    pub(crate) buckets: BTreeMap<Bucket, BucketData>,
}

impl Published {
    /// Newest term that wrote one of the statuses.
    pub(crate) fn newest_epoch(&self) -> Epoch {
        let records = self.held.values().filter_map(StoredStatus::record);
        records.map(|record| record.epoch).max().unwrap_or(Epoch(0))
    }
}

/// Znodes of unknown state.
#[derive(Clone, Default)]
pub(crate) struct Unresolved {
    pub(crate) ids: BTreeSet<InstanceId>,
    pub(crate) buckets: BTreeSet<Bucket>,
}

/// What znodes of unknown state turned out to hold.
pub(crate) struct ReadBack {
    pub(crate) instances: Vec<(InstanceId, Option<StoredStatus>)>,
    pub(crate) buckets: Vec<(Bucket, Option<BucketData>)>,
}

/// Reads znodes of unknown state.
pub(crate) async fn read_back<T: Session>(
    session: Arc<T>,
    layout: Layout,
    Unresolved { ids, buckets }: Unresolved,
) -> Result<ReadBack, StoreError> {
    session.sync(&layout.epoch()).await?;
    let paths: Vec<_> = ids.iter().map(|id| layout.instance(id)).collect();
    let nodes = session.get(&paths).await?;
    let held = |(id, node): (InstanceId, Option<Node>)| {
        let held = node.map(|node| native::read_status(&id, &node.data));
        (id, held)
    };
    let instances = ids.into_iter().zip(nodes).map(held).collect();
    let data = read_data(&*session, &layout, &buckets).await?;
    Ok(ReadBack {
        instances,
        buckets: buckets.into_iter().zip(data).collect(),
    })
}

/// Reads everything that is published, and has the aggregator adopt it.
pub(crate) async fn read_and_adopt<T: Session>(
    session: Arc<T>,
    layout: Layout,
    commands: mpsc::Sender<Command>,
    grace: bool,
) -> Result<Published, StoreError> {
    let buckets: BTreeSet<_> = Bucket::all().collect();
    let data = read_data(&*session, &layout, &buckets).await?;
    let found = buckets.into_iter().zip(data);
    let mut published = Published {
        held: BTreeMap::new(),
        buckets: found.filter_map(|(bucket, data)| Some((bucket, data?))).collect(),
    };
    let listed = futures_util::stream::iter(published.buckets.keys().copied().collect::<Vec<_>>())
        .map(|bucket| read_statuses(&*session, &layout, bucket))
        .buffer_unordered(READS_IN_FLIGHT_MAX);
    let mut listed = std::pin::pin!(listed);
    while let Some(statuses) = listed.next().await {
        published.held.extend(statuses?);
    }
    tell_fleet(
        &commands,
        published.held.values().filter_map(StoredStatus::record),
        grace,
    )
    .await?;
    Ok(published)
}

/// Passes statuses that were found to the aggregator, and waits until they are in the view.
pub(crate) async fn tell_fleet(
    commands: &mpsc::Sender<Command>,
    records: impl Iterator<Item = &Record>,
    grace: bool,
) -> Result<(), StoreError> {
    let adopted = adopt(commands, records, grace).await;
    adopted.map_err(|stopped| StoreError::Lost(stopped.to_string()))
}

/// Reads one bucket.
pub(crate) async fn read_bucket<T: Session>(
    session: Arc<T>,
    layout: Layout,
    bucket: Bucket,
) -> Result<Found, StoreError> {
    let data = read_data(&*session, &layout, &[bucket].into()).await?.remove(0);
    let held = match data {
        Some(_) => read_statuses(&*session, &layout, bucket).await?,
        None => BTreeMap::new(),
    };
    Ok(Found { data, held })
}

async fn read_data<T: Session>(
    session: &T,
    layout: &Layout,
    buckets: &BTreeSet<Bucket>,
) -> Result<Vec<Option<BucketData>>, StoreError> {
    let paths: Vec<_> = buckets.iter().map(|bucket| layout.bucket(*bucket)).collect();
    let nodes = session.get(&paths).await?.into_iter();
    Ok(nodes
        .map(|node| node.map(|node| records::read_bucket(&node.data)))
        .collect())
}

async fn read_statuses<T: Session>(
    session: &T,
    layout: &Layout,
    bucket: Bucket,
) -> Result<BTreeMap<InstanceId, StoredStatus>, StoreError> {
    let names = match session.children(&layout.bucket(bucket)).await {
        // Bucket was deleted concurrently; treat it as empty.
        Err(StoreError::Missing) => Vec::new(),
        // A bucket that may not be read is written blindly; statuses are left out one by one if writing is refused too.
        Err(StoreError::Refused(why)) => {
            tracing::error!(%bucket, "a bucket may not be read: {why}");
            Vec::new()
        }
        other => other?,
    };
    // A name that is no id, or is in the wrong bucket, belongs to somebody else and is left alone.
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
    let one = |(id, node): (InstanceId, Option<Node>)| {
        let held = native::read_status(&id, &node?.data);
        Some((id, held))
    };
    Ok(ids.into_iter().zip(nodes).filter_map(one).collect())
}
