//! Bounds that are part of a protocol, each with its reason.

/// Longest instance id, which is also the name of the instance's znode.
pub const INSTANCE_ID_BYTES_MAX: usize = 128;
/// Longest agent id, collector id and cluster name: a DNS label's length.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest address: a Unix socket path has at most 107 bytes, a DNS name with port fits too in practice.
pub const ADDRESS_BYTES_MAX: usize = 107;
/// Id, cluster, address and agent of one instance together: what is left of a 512-byte status znode after its keys,
/// numbers, the 40-byte run_id and the origin (`collector::publish::format::native` asserts it).
pub const NAMES_TOTAL_BYTES_MAX: usize = 165;
/// Size of the status JSON in a znode.
pub const STATUS_JSON_BYTES_MAX: usize = 512;
/// Size of the evidence of a verdict.
pub const EVIDENCE_BYTES_MAX: usize = 256;
/// `run_id` is 40 hex digits in Redis and Valkey; anything longer is truncated.
pub const RUN_ID_BYTES_MAX: usize = 40;
/// Size of the server version.
pub const VERSION_BYTES_MAX: usize = 32;
/// Labels of one instance.
pub const LABELS_MAX: usize = 16;
/// Size of each key and each value of a label.
pub const LABEL_BYTES_MAX: usize = 63;
/// Instances of one agent: ten times what a large host runs.
pub const AGENT_INSTANCES_MAX: usize = 5_000;
/// Agents of one collector. For more, the rule that each agent keeps a stream to every collector must be reconsidered.
pub const AGENTS_MAX: usize = 20_000;
/// Instances of one fleet: 256 buckets of about 4,000 children, 80 KB for each listing.
pub const FLEET_INSTANCES_MAX: usize = 1_000_000;
/// Largest message that a collector takes from an agent.
pub const AGENT_MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Instances in one message. A report is below 1,400 bytes without labels and 3,500 with all of them:
/// 64 x 3,500 = 224,000 < `AGENT_MESSAGE_BYTES_MAX`.
pub const REPORTS_PER_MESSAGE_MAX: usize = 64;
/// Instances in one part of a snapshot. Every stream carries a snapshot, and keeps buffers as large as its largest
/// message: with 64 instances in a part, each stream of a collector took 0.9 KB more (measured).
pub const REPORTS_PER_SNAPSHOT_PART_MAX: usize = 16;
/// Former boots that are remembered for each agent, so that they stay superseded.
pub const RETIRED_BOOTS_MAX: usize = 32;
/// Messages that an agent sends on one stream without an acknowledgement.
pub const UNACKED_MESSAGES_MAX: usize = 64;
/// Number of buckets under `instances/`; recorded in `meta` and never changed.
pub const BUCKETS: usize = 256;
/// Instance writes in one multi: 75 % of the throughput of 500 at a quarter of its latency (measured).
pub const BATCH_OPS_MAX: usize = 128;
/// Instance writes in one multi while more than [`BACKLOG`] instances wait: throughput then matters more than the
/// latency of one write.
pub const BATCH_OPS_BACKLOG_MAX: usize = 256;
/// Number of waiting instances that counts as a backlog: half of what a window of small batches holds. With large
/// batches ZooKeeper took 1.7 times as many writes in the same time (measured).
pub const BACKLOG: usize = BATCHES_IN_FLIGHT_MAX * BATCH_OPS_MAX / 2;
/// Unacknowledged multis at one time.
pub const BATCHES_IN_FLIGHT_MAX: usize = 8;

const _: () = assert!(REPORTS_PER_SNAPSHOT_PART_MAX <= REPORTS_PER_MESSAGE_MAX);
const _: () = assert!(REPORTS_PER_MESSAGE_MAX * 3_500 < AGENT_MESSAGE_BYTES_MAX);
// A create costs 48 + path + data; the server's limit for a request is 1,048,575 bytes.
const _: () = assert!(2 * BATCH_OPS_BACKLOG_MAX * (48 + 256 + STATUS_JSON_BYTES_MAX) < 1_048_575);
