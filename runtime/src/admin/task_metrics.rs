//! The counts of tasks as metrics.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

use crate::supervise::Supervisor;

/// Live, expected and ended tasks as metrics.
#[derive(Debug)]
pub(super) struct TaskMetrics(pub(super) Supervisor);

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("count", &self.count())
            .finish()
    }
}

impl Collector for TaskMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let kinds = self.0.by_kind();
        let mut family = |name, help, values: Vec<(&'static str, usize)>| -> Result<(), std::fmt::Error> {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (task, value) in values {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(metric.encode_family(&[("kind", task)])?)?;
            }
            Ok(())
        };
        let alive = kinds.iter().map(|(kind, (alive, _))| (*kind, *alive)).collect();
        family("redkeeper_tasks_alive", "Live supervised tasks", alive)?;
        let expected = kinds
            .iter()
            .filter_map(|(kind, (_, n))| n.map(|n| (*kind, n)))
            .collect();
        family("redkeeper_tasks_expected", "Tasks that should be alive", expected)?;
        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut metric =
            encoder.encode_descriptor("redkeeper_tasks_ended", "Tasks ended, by how", None, kind)?;
        for ((task, exit), count) in self.0.exits() {
            let labels = [("kind", task), ("exit", exit.as_str())];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
