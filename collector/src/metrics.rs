//! What `/metrics` of the collector shows, beside the tasks.

use std::collections::BTreeMap;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::Counter, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};

use redkeeper_runtime::clock::Clock;

use crate::{
    fleet::view::Shared,
    leader::leadership,
    peers::{
        self,
        warnings::{CODES, warnings},
    },
    store::Connection,
};

type Labels = [(&'static str, &'static str); 1];

/// Counters of the collector. Clones are the same counters.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// Messages from agents by result.
    pub reports: Family<Labels, Counter>,
    /// Changes of state or reason, by the new reason.
    pub transitions: Family<Labels, Counter>,
    /// Times that the collector found that it had been asleep.
    pub pauses: Counter,
    /// Number of the newest term known.
    pub epoch: Gauge,
    /// Batches to ZooKeeper by result.
    pub batches: Family<Labels, Counter>,
    /// Status znodes written.
    pub writes: Counter,
    /// Znodes found changed by another hand, by kind; and orphans deleted.
    pub repairs: Family<Labels, Counter>,
    /// Statuses that no agent stands behind.
    pub orphans: Gauge,
    /// Instances that change so often that their writes are limited.
    pub flapping: Gauge,
    /// Statuses not yet acknowledged by ZooKeeper.
    pub pending: Gauge,
    /// ZooKeeper sessions begun.
    pub sessions: Counter,
    /// Open watch streams.
    pub watchers: Gauge,
    /// Watch streams ended because the reader was too slow.
    pub watch_lagged: Counter,
}

impl Metrics {
    /// Registers everything.
    pub fn new(registry: &mut Registry, view: Shared, standing: Standing) -> Self {
        let m = Self::default();
        registry.register(
            "redkeeper_agent_reports",
            "Messages from agents by result",
            m.reports.clone(),
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
            "Znodes found changed by another hand, and orphans deleted",
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
        registry.register_collector(Box::new(Fleet(view)));
        registry.register_collector(Box::new(standing));
        m
    }
}

/// Counts of the view, made when they are asked for: nothing to forget when an instance goes.
struct Fleet(Shared);

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fleet")
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let view = self.0.get();
        let mut counts = BTreeMap::<_, i64>::new();
        for entry in view.instances.values() {
            let reason = entry.status.verdict.reason;
            *counts
                .entry((reason.state().as_str(), reason.as_str()))
                .or_default() += 1;
        }
        let help = "Instances by state and reason";
        let mut metric = encoder.encode_descriptor("redkeeper_instances", help, None, MetricType::Gauge)?;
        for ((state, reason), count) in counts {
            ConstGauge::new(count).encode(metric.encode_family(&[("state", state), ("reason", reason)])?)?;
        }
        let silent = view.agents.values().filter(|agent| agent.silent).count();
        let mut metric = encoder.encode_descriptor("redkeeper_agents", "Agents", None, MetricType::Gauge)?;
        for (state, count) in [("heard", view.agents.len() - silent), ("silent", silent)] {
            ConstGauge::new(i64::try_from(count).unwrap_or(0))
                .encode(metric.encode_family(&[("state", state)])?)?;
        }
        let off = view
            .agents
            .values()
            .filter(|agent| agent.clock_ahead_ms != 0)
            .count();
        let help = "Agents whose wall clock is more than 5 s off this collector's";
        let metric =
            encoder.encode_descriptor("redkeeper_agents_clock_off", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(off).unwrap_or(0)).encode(metric)
    }
}

/// What depends on the instant at which it is asked for: a lease runs out, an age grows.
#[derive(Clone)]
pub struct Standing {
    /// Own standing.
    pub directory: leadership::Reader,
    /// What other collectors answer.
    pub peers: peers::Reader,
    /// Time.
    pub clock: Clock,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Standing")
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (standing, now) = (self.directory.borrow().clone(), self.clock.now());
        let leads = standing.lease.is_some_and(|lease| lease.holds(now));
        ConstGauge::new(i64::from(leads)).encode(encoder.encode_descriptor(
            "redkeeper_leader",
            "1 on the leader",
            None,
            MetricType::Gauge,
        )?)?;
        let connected = standing.connection == Some(Connection::Connected);
        ConstGauge::new(i64::from(connected)).encode(encoder.encode_descriptor(
            "redkeeper_zookeeper_connected",
            "1 while there is a session with ZooKeeper",
            None,
            MetricType::Gauge,
        )?)?;
        let found = warnings(&standing, &self.peers.borrow(), now);
        let help = "What is wrong with the cluster, by kind: `redkeeper cluster` tells it in words";
        let mut metric = encoder.encode_descriptor("redkeeper_warnings", help, None, MetricType::Gauge)?;
        for code in CODES {
            let count = found.iter().filter(|warning| warning.code == code).count();
            ConstGauge::new(i64::try_from(count).unwrap_or(0))
                .encode(metric.encode_family(&[("code", code)])?)?;
        }
        let unheard = i64::try_from(self.peers.borrow().unheard.len()).unwrap_or(0);
        ConstGauge::new(unheard).encode(encoder.encode_descriptor(
            "redkeeper_agents_unheard",
            "Agents that another collector hears, but not the leader",
            None,
            MetricType::Gauge,
        )?)?;
        ConstGauge::new(standing.behind(now)).encode(encoder.encode_descriptor(
            "redkeeper_zookeeper_behind_seconds",
            "Age of the oldest status that is not yet acknowledged",
            None,
            MetricType::Gauge,
        )?)
    }
}
