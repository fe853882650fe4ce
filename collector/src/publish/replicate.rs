//! What the leader tells the other collectors of its writes, so that they know what is published without reading it.

use std::sync::Arc;

use redkeeper_core::{
    ids::{Bucket, Epoch, InstanceId},
    publish::{Batch, BucketData, BucketWrites, StoredStatus},
};
use redkeeper_proto::v1::{PublishedBucket, PublishedStatus, PublishedWrites};
use tokio::sync::broadcast;

use super::format::native;

/// Batches that wait for a link that is slow, of 256 operations and 150 KB at most: 77 MB. A link that falls behind further misses some, and
/// its collector reads what it lacks.
pub const TOLD_MAX: usize = 512;

/// Tells the links of all batches that were applied.
pub type Sender = broadcast::Sender<Arc<PublishedWrites>>;

/// Tells of a batch that was applied, if there is a link.
pub(super) fn tell(links: &Sender, batch: &Batch) {
    if links.receiver_count() > 0 {
        let buckets = batch.by_bucket().iter().map(encode).collect();
        // Without a receiver by now, nobody has to know.
        drop(links.send(Arc::new(PublishedWrites { buckets })));
    }
}

fn encode(writes: &BucketWrites) -> PublishedBucket {
    let written = writes.written.iter().filter_map(|(id, held)| {
        let content = native::status(held.record()?);
        Some(PublishedStatus {
            instance_id: id.to_string(),
            content,
        })
    });
    PublishedBucket {
        bucket: u32::from(writes.bucket.0),
        generation: writes.data.generation,
        count: writes.data.count,
        epoch: writes.data.epoch.0,
        written: written.collect(),
        deleted_ids: writes.deleted.iter().map(ToString::to_string).collect(),
    }
}

/// Reads what another collector tells. What makes no sense is left out: the bucket is then not proven, and is read.
pub(super) fn decode(told: PublishedWrites) -> impl Iterator<Item = BucketWrites> {
    told.buckets.into_iter().filter_map(|told| {
        let bucket = Bucket(u8::try_from(told.bucket).ok()?);
        let id = |text: &str| InstanceId::new(text).ok().filter(|id| id.bucket() == bucket);
        let written = told.written.iter().map(|status| {
            let id = id(&status.instance_id)?;
            let held: StoredStatus = native::read_status(&id, &status.content);
            Some((id, held))
        });
        Some(BucketWrites {
            bucket,
            data: BucketData {
                generation: told.generation,
                count: told.count,
                epoch: Epoch(told.epoch),
            },
            written: written.collect::<Option<_>>()?,
            deleted: told
                .deleted_ids
                .iter()
                .map(|text| id(text))
                .collect::<Option<_>>()?,
        })
    })
}
