//! Contents of redkeeper's own znodes other than statuses. Consumers rely on these formats; fields are only ever added.

use redkeeper_core::{ids::Epoch, publish::BucketData};
use serde::{Deserialize, Serialize};

use super::Node;

#[derive(Serialize, Deserialize)]
struct BucketJson {
    r#gen: u64,
    count: u64,
    #[serde(default)]
    epoch: u64,
}

/// Bucket JSON.
pub fn bucket(data: BucketData) -> Vec<u8> {
    let json = BucketJson {
        r#gen: data.generation,
        count: data.count,
        epoch: data.epoch.0,
    };
    serde_json::to_vec(&json).unwrap_or_default()
}

/// Largest number that is believed where others may have written: the largest that readers of JSON take exactly. No
/// counter reaches it by counting.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// Reads a bucket. Damaged content counts as empty and is written anew.
pub fn read_bucket(bytes: &[u8]) -> BucketData {
    serde_json::from_slice::<BucketJson>(bytes)
        .ok()
        .filter(|json| json.r#gen <= NUMBER_MAX)
        .map(|json| BucketData {
            generation: json.r#gen,
            count: json.count,
            epoch: Epoch(json.epoch),
        })
        .unwrap_or_default()
}

/// Content of `epoch`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct EpochJson {
    /// Number of the term.
    pub epoch: u64,
    /// Collector that claimed it.
    pub holder: String,
    /// Its candidate node.
    pub node: String,
    /// Unique for each claim, so that one with unknown outcome can be recognised.
    pub claim: String,
}

/// Content of `publisher`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct PublisherJson {
    /// Number of the term.
    pub epoch: u64,
    /// The leader.
    pub holder: String,
    /// `reconciling`, `live`, or `isolated` while statuses are held because too many agents are silent at once.
    pub phase: String,
    /// Grows with each rewriting of this znode in a term. Who sees no new one knows that the statuses may be outdated.
    pub mark: u64,
    /// Statuses that are known and not yet acknowledged.
    pub pending: u64,
    /// Age of the oldest of them, in milliseconds.
    pub oldest_pending_ms: u64,
    /// Statuses that are known to differ from what the leader wrote, or that ZooKeeper refuses to let it write.
    pub wrong: u64,
}

/// Content of `collectors/<id>`.
#[derive(Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct CollectorJson {
    /// Its name.
    pub id: String,
    /// gRPC address for others.
    pub grpc: String,
    /// Its version.
    pub version: String,
}

/// Content of `meta`. Written once; a different one is refused.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct MetaJson {
    /// Version of the layout.
    pub layout: u32,
    /// Number of buckets.
    pub buckets: usize,
    /// Which hash chooses the bucket.
    pub hash: String,
}

impl Default for MetaJson {
    fn default() -> Self {
        Self {
            layout: 1,
            buckets: redkeeper_core::limits::BUCKETS,
            hash: "fnv1a-64".to_owned(),
        }
    }
}

/// Reads the JSON of a znode; damaged or absent content reads as nothing known.
pub(crate) fn read_json<T: serde::de::DeserializeOwned + Default>(node: Option<Node>) -> T {
    node.and_then(|node| serde_json::from_slice(&node.data).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_an_empty_bucket() {
        assert_eq!(read_bucket(b"nonsense"), BucketData::default());
    }
}
