//! Shutdown of the collector, step by step, so that nothing that was heard is lost:
//!
//! 1. On the request to stop: `/readyz` and the health service say no, agents' streams are drained (agents go on with
//!    the other collectors), and watch streams end.
//! 2. The leader finishes its batches and hands leadership over.
//! 3. The gRPC port closes.
//! 4. The aggregator, to which all of these send commands, stops.
//!
//! Each step has a time limit and a line in the log; together they have `shutdown_grace`.

use std::time::Duration;

use redkeeper_runtime::supervise::Supervisor;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::grpc::{agent::STREAM, status::watch::SNAPSHOT};

/// How long agents may take to read that they are drained. The connection of one that does not read is closed.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// How long batches in flight and the hand-over may take; each has 2 s (`leader`).
const HAND_OVER_LIMIT: Duration = Duration::from_secs(5);
/// How long clients may take to close their connections once their streams have ended.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The tokens by which each step stops its part, and the limit for all.
pub(crate) struct Shutdown {
    /// Stops the session with ZooKeeper, and with it leadership.
    pub(crate) leader: CancellationToken,
    /// Stops the gRPC server.
    pub(crate) grpc: CancellationToken,
    /// Stops the aggregator.
    pub(crate) aggregator: CancellationToken,
    /// Limit for all steps together.
    grace: Duration,
}

impl Shutdown {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            leader: CancellationToken::new(),
            grpc: CancellationToken::new(),
            aggregator: CancellationToken::new(),
            grace,
        }
    }

    /// How long clients may take to close their connections.
    pub(crate) fn close_grace(&self) -> Duration {
        CLOSE_LIMIT.min(self.grace / 4)
    }

    /// Runs the steps after the request to stop. Returns true if all tasks ended in time.
    pub(crate) async fn run(self, supervisor: &Supervisor) -> bool {
        let end = Instant::now() + self.grace;
        // Clients keep their time to close their connections, however long the steps before take.
        let kept = self.close_grace() * 3 / 2;
        let left = |limit: Duration| limit.min((end - Instant::now()).saturating_sub(kept));
        tracing::info!("stopping: agents' streams are drained");
        supervisor
            .kinds_ended(&[STREAM, SNAPSHOT], left(DRAIN_LIMIT.min(self.grace / 4)))
            .await;
        tracing::info!("stopping: the last statuses are published, and leadership is handed over");
        self.leader.cancel();
        supervisor
            .kinds_ended(&["coordinator"], left(HAND_OVER_LIMIT))
            .await;
        tracing::info!("stopping: the gRPC port closes");
        self.grpc.cancel();
        let clean = supervisor
            .all_ended(&["signals", "aggregator"], end - Instant::now())
            .await;
        self.aggregator.cancel();
        clean
    }
}
