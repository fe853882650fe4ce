//! The agent's metrics on `/metrics`, except those of the tasks.

use prometheus_client::{
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use redkeeper_core::{probe::ConnectFailure, redis::reply::Meaning, status::Reason};

type Labels = [(&'static str, &'static str); 1];

/// Counters of the agent. Clones share state.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Completed probe rounds.
    pub rounds: Counter,
    /// Mute connections: without an answer while the server answered on another one.
    pub mute_connections: Counter,
    /// Time from PING to its answer, in seconds.
    pub latency: Histogram,
    /// Changes of verdicts by reason.
    pub verdicts: Family<Labels, Counter>,
    /// Checks with a new connection, by result.
    pub fresh: Family<Labels, Counter>,
    /// Pauses of the agent itself, such as a suspended machine.
    pub pauses: Counter,
    /// Reloads of the configuration by result.
    pub reloads: Family<Labels, Counter>,
    /// Replaced workers, by cause.
    pub replaced: Family<Labels, Counter>,
    /// 1 for each collector with an open stream.
    pub connected: Family<[(&'static str, String); 1], Gauge>,
    /// When each instance's certificate ends, in seconds since 1970.
    pub certificates: Family<[(&'static str, String); 1], Gauge>,
    /// 1 for each collector that refuses this agent.
    pub refused: Family<[(&'static str, String); 1], Gauge>,
    /// Connections to collectors that ended or failed.
    pub reconnects: Counter,
    /// Messages sent to collectors.
    pub messages: Counter,
}

impl Default for Metrics {
    /// Counters that are not exposed.
    fn default() -> Self {
        Self::new(&mut Registry::default())
    }
}

impl Metrics {
    /// Registers all metrics.
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            rounds: Counter::default(),
            mute_connections: Counter::default(),
            latency: Histogram::new(exponential_buckets(0.000_05, 2.0, 16)),
            verdicts: Family::default(),
            fresh: Family::default(),
            pauses: Counter::default(),
            reloads: Family::default(),
            replaced: Family::default(),
            connected: Family::default(),
            certificates: Family::default(),
            refused: Family::default(),
            reconnects: Counter::default(),
            messages: Counter::default(),
        };
        registry.register(
            "redkeeper_probe_rounds",
            "Completed probe rounds",
            metrics.rounds.clone(),
        );
        registry.register(
            "redkeeper_mute_connections",
            "Connections that were mute while their server answered on another one",
            metrics.mute_connections.clone(),
        );
        registry.register(
            "redkeeper_probe_duration_seconds",
            "PING to answer",
            metrics.latency.clone(),
        );
        registry.register(
            "redkeeper_verdicts",
            "Changes of verdicts by reason",
            metrics.verdicts.clone(),
        );
        registry.register(
            "redkeeper_fresh_connections",
            "Fresh connections beside the lasting ones, by what they met",
            metrics.fresh.clone(),
        );
        registry.register(
            "redkeeper_agent_pauses",
            "Own pauses found",
            metrics.pauses.clone(),
        );
        registry.register(
            "redkeeper_config_reloads",
            "Reloads by result",
            metrics.reloads.clone(),
        );
        registry.register(
            "redkeeper_workers_replaced",
            "Workers replaced, by why",
            metrics.replaced.clone(),
        );
        registry.register(
            "redkeeper_certificate_end_timestamp_seconds",
            "End of the server's certificate by instance, where TLS is spoken",
            metrics.certificates.clone(),
        );
        registry.register(
            "redkeeper_uplink_connected",
            "Open streams by collector",
            metrics.connected.clone(),
        );
        registry.register(
            "redkeeper_uplink_refused",
            "1 while the collector refuses this agent",
            metrics.refused.clone(),
        );
        registry.register(
            "redkeeper_uplink_reconnects",
            "Streams ended or failed",
            metrics.reconnects.clone(),
        );
        registry.register(
            "redkeeper_uplink_messages",
            "Messages sent",
            metrics.messages.clone(),
        );
        metrics
    }

    /// Counts a check with a new connection.
    pub fn new_connection_checked(&self, answer: &Result<Meaning, ConnectFailure>) {
        let result = match answer {
            Ok(meaning) if meaning.reason == Reason::Ok => "served",
            Ok(_) => "refused",
            Err(_) => "failed",
        };
        self.fresh.get_or_create(&[("result", result)]).inc();
    }
}
