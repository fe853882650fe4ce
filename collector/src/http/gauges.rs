//! Metrics that are computed from the present state when they are requested: the fleet's view, leadership, and peers.
//! No metric has to be removed when an instance goes.

use std::sync::Arc;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Registry,
};
use redkeeper_runtime::clock::Clock;

use crate::{
    fleet::view::{AgentEntry, ViewHandle},
    leader::leadership,
    peers::{
        self,
        warnings::{CODES, warnings},
    },
    store::Connection,
};

/// Registers all of these metrics.
pub(crate) fn register(registry: &mut Registry, view: ViewHandle, standing: Standing) {
    registry.register_collector(Box::new(Fleet(view)));
    registry.register_collector(Box::new(standing));
}

/// Counts of the view, computed when they are requested: nothing has to be removed when an instance goes.
struct Fleet(ViewHandle);

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fleet")
    }
}

impl Collector for Fleet {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let view = self.0.get();
        let help = "Instances by state and reason";
        let mut metric = encoder.encode_descriptor("redkeeper_instances", help, None, MetricType::Gauge)?;
        for (reason, count) in view.counts.reasons() {
            let labels = [("state", reason.state().as_str()), ("reason", reason.as_str())];
            ConstGauge::new(i64::try_from(count).unwrap_or(0)).encode(metric.encode_family(&labels)?)?;
        }
        let silent = view.agents.values().filter(|agent| agent.silent).count();
        let mut metric = encoder.encode_descriptor("redkeeper_agents", "Agents", None, MetricType::Gauge)?;
        for (state, count) in [("heard", view.agents.len() - silent), ("silent", silent)] {
            ConstGauge::new(i64::try_from(count).unwrap_or(0))
                .encode(metric.encode_family(&[("state", state)])?)?;
        }
        let via = |agent: &&Arc<AgentEntry>| {
            agent
                .greeting
                .as_ref()
                .is_some_and(|greeting| !greeting.via.is_empty())
        };
        let relayed = view.agents.values().filter(via).count();
        let help = "Agents that are heard by way of other collectors only";
        let metric = encoder.encode_descriptor("redkeeper_agents_relayed", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(relayed).unwrap_or(0)).encode(metric)?;
        let held = view.held.map_or(0, |held| held.agents);
        let help = "Silent agents whose statuses are held, because too many are silent at once";
        let metric = encoder.encode_descriptor("redkeeper_agents_held", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(held).unwrap_or(0)).encode(metric)?;
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

/// State that must be evaluated at the time of each request: a lease runs out, an age grows.
#[derive(Clone)]
pub(crate) struct Standing {
    /// Leadership, as this collector knows it.
    pub(crate) leadership: leadership::Reader,
    /// Answers of the other collectors.
    pub(crate) peers: peers::Reader,
    /// Clock.
    pub(crate) clock: Clock,
}

impl std::fmt::Debug for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Standing")
    }
}

impl Collector for Standing {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let (standing, now) = (self.leadership.borrow().clone(), self.clock.now());
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
        let help = "Other collectors by the link to them; `none` is one that does not answer, or refuses";
        let mut metric =
            encoder.encode_descriptor("redkeeper_collector_links", help, None, MetricType::Gauge)?;
        let (open, none) = {
            let peers = self.peers.borrow();
            let open = peers.peers.values().filter(|peer| peer.is_linked()).count();
            (open, peers.peers.len() - open)
        };
        for (state, count) in [("open", open), ("none", none)] {
            ConstGauge::new(i64::try_from(count).unwrap_or(0))
                .encode(metric.encode_family(&[("state", state)])?)?;
        }
        let unheard = i64::try_from(self.peers.borrow().unheard.len()).unwrap_or(0);
        ConstGauge::new(unheard).encode(encoder.encode_descriptor(
            "redkeeper_agents_unheard",
            "Agents that another collector hears directly, but not the leader",
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
