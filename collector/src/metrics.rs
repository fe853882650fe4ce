//! The counters of the collector. Each is incremented where its event occurs; `http` shows them.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

type Labels = [(&'static str, &'static str); 1];

/// Counters of the collector. Clones share the same counters.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Messages from agents by result.
    pub reports: Family<Labels, Counter>,
    /// Agents' messages relayed between collectors, by direction.
    pub relayed: Family<Labels, Counter>,
    /// Changes of state or reason, by the new reason.
    pub transitions: Family<Labels, Counter>,
    /// Number of times that the collector found that it had been asleep.
    pub pauses: Counter,
    /// Number of the newest term known.
    pub epoch: Gauge,
    /// Batches to ZooKeeper by result.
    pub batches: Family<Labels, Counter>,
    /// Status znodes written.
    pub writes: Counter,
    /// Znodes modified externally and rewritten, by kind, and orphans deleted.
    pub repairs: Family<Labels, Counter>,
    /// Statuses that no agent stands behind.
    pub orphans: Gauge,
    /// Instances that change so often that their writes are limited.
    pub flapping: Gauge,
    /// Statuses not yet acknowledged by ZooKeeper.
    pub pending: Gauge,
    /// Buckets that a follower does not know, at its last look.
    pub buckets_behind: Gauge,
    /// ZooKeeper sessions begun.
    pub sessions: Counter,
    /// Open watch streams.
    pub watchers: Gauge,
    /// Watch streams ended because the reader was too slow.
    pub watch_lagged: Counter,
    /// gRPC calls by method and code; a stream counts by its beginning.
    pub calls: Family<[(&'static str, &'static str); 2], Counter>,
    /// How long unary calls took, in seconds.
    pub call_seconds: Family<Labels, Histogram, fn() -> Histogram>,
}

/// Buckets from 50 microseconds to 13 s.
fn call_buckets() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 4.0, 10))
}

impl Default for Metrics {
    /// Counters that are registered nowhere.
    fn default() -> Self {
        Self {
            reports: Default::default(),
            relayed: Default::default(),
            transitions: Default::default(),
            pauses: Default::default(),
            epoch: Default::default(),
            batches: Default::default(),
            writes: Default::default(),
            repairs: Default::default(),
            orphans: Default::default(),
            flapping: Default::default(),
            pending: Default::default(),
            buckets_behind: Default::default(),
            sessions: Default::default(),
            watchers: Default::default(),
            watch_lagged: Default::default(),
            calls: Default::default(),
            call_seconds: Family::new_with_constructor(call_buckets),
        }
    }
}

impl Metrics {
    /// Counters that `registry` shows.
    pub fn new(registry: &mut Registry) -> Self {
        let m = Self::default();
        registry.register(
            "redkeeper_agent_reports",
            "Messages from agents by result",
            m.reports.clone(),
        );
        registry.register(
            "redkeeper_relayed_messages",
            "Messages of agents relayed to (sent) and by (received) other collectors",
            m.relayed.clone(),
        );
        registry.register(
            "redkeeper_transitions",
            "Changes of state or reason by new reason",
            m.transitions.clone(),
        );
        registry.register("redkeeper_collector_pauses", "Own pauses found", m.pauses.clone());
        registry.register("redkeeper_leader_epoch", "Newest term known", m.epoch.clone());
        registry.register(
            "redkeeper_zookeeper_batches",
            "Batches by result",
            m.batches.clone(),
        );
        registry.register(
            "redkeeper_zookeeper_writes",
            "Status znodes written",
            m.writes.clone(),
        );
        registry.register(
            "redkeeper_zookeeper_repairs",
            "Znodes modified externally and rewritten, and orphans deleted",
            m.repairs.clone(),
        );
        registry.register(
            "redkeeper_zookeeper_orphans",
            "Statuses that no agent stands behind",
            m.orphans.clone(),
        );
        registry.register(
            "redkeeper_flapping_instances",
            "Instances whose writes are limited to one a second",
            m.flapping.clone(),
        );
        registry.register(
            "redkeeper_zookeeper_pending_writes",
            "Statuses not yet acknowledged",
            m.pending.clone(),
        );
        registry.register(
            "redkeeper_zookeeper_buckets_behind",
            "Buckets of which a follower does not know what is published; a take-over reads them",
            m.buckets_behind.clone(),
        );
        registry.register(
            "redkeeper_zookeeper_sessions",
            "Sessions begun",
            m.sessions.clone(),
        );
        registry.register("redkeeper_watchers", "Open watch streams", m.watchers.clone());
        registry.register(
            "redkeeper_watch_lagged",
            "Watch streams ended for slowness",
            m.watch_lagged.clone(),
        );
        registry.register(
            "redkeeper_grpc_calls",
            "gRPC calls by method and code; of a stream its beginning",
            m.calls.clone(),
        );
        registry.register(
            "redkeeper_grpc_call_seconds",
            "Time that unary gRPC calls took",
            m.call_seconds.clone(),
        );
        m
    }
}
