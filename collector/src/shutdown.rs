//! Shutdown of the collector, step by step, so that nothing that was heard is lost:
//!
//! 1. On the request to stop: `/readyz` and the health service say no, and the leader finishes its batches and hands
//!    leadership over. At the same time agents' streams are drained (agents go on with the other collectors, which hear
//!    them already), and watch streams end.
//! 2. The gRPC port closes.
//! 3. The aggregator, to which all of these send commands, stops.
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
        tracing::info!("stopping: leadership is handed over, and agents' streams are drained");
        // At once: the next leader hears the agents itself, and waits for nobody here.
        self.leader.cancel();
        let drained = supervisor.kinds_ended(&[STREAM, SNAPSHOT], left(DRAIN_LIMIT.min(self.grace / 4)));
        let handed_over = supervisor.kinds_ended(&["coordinator"], left(HAND_OVER_LIMIT));
        tokio::join!(drained, handed_over);
        tracing::info!("stopping: the gRPC port closes");
        self.grpc.cancel();
        let clean = supervisor
            .all_ended(&["signals", "aggregator"], end - Instant::now())
            .await;
        self.aggregator.cancel();
        clean
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What happened, each with the milliseconds after the request to stop.
    #[derive(Clone)]
    struct Diary(Arc<Mutex<Vec<(&'static str, u128)>>>, Instant);

    impl Diary {
        fn new() -> Self {
            Self(Arc::default(), Instant::now())
        }

        fn note(&self, what: &'static str) {
            let at = self.1.elapsed().as_millis();
            self.0.lock().unwrap().push((what, at));
        }

        fn read(&self) -> Vec<(&'static str, u128)> {
            self.0.lock().unwrap().clone()
        }
    }

    /// Starts a task that ends `millis` after its token; without a number, never.
    fn start(
        supervisor: &Supervisor,
        diary: &Diary,
        kind: &'static str,
        token: &CancellationToken,
        millis: Option<u64>,
    ) {
        let (diary, token) = (diary.clone(), token.clone());
        let _owned_by_supervisor = supervisor.spawn(kind, "", async move {
            token.cancelled().await;
            diary.note(kind);
            match millis {
                Some(millis) => tokio::time::sleep(Duration::from_millis(millis)).await,
                None => std::future::pending().await,
            }
        });
    }

    /// Starts the parts of a collector. Those in `stuck` never end.
    async fn stopped(grace: u64, stuck: &[&str]) -> (bool, Vec<(&'static str, u128)>, u128) {
        let supervisor = Supervisor::new(CancellationToken::new());
        let (stop, shutdown) = (
            supervisor.stop().clone(),
            Shutdown::new(Duration::from_secs(grace)),
        );
        let diary = Diary::new();
        for (kind, token, millis) in [
            (STREAM, &stop, 100),
            (SNAPSHOT, &stop, 200),
            ("coordinator", &shutdown.leader, 1_000),
            ("grpc", &shutdown.grpc, 30),
            ("aggregator", &shutdown.aggregator, 0),
        ] {
            let millis = (!stuck.contains(&kind)).then_some(millis);
            start(&supervisor, &diary, kind, token, millis);
        }
        // Ends when the process does.
        start(&supervisor, &diary, "signals", &CancellationToken::new(), None);
        tokio::task::yield_now().await;
        stop.cancel();
        let clean = shutdown.run(&supervisor).await;
        let took = diary.1.elapsed().as_millis();
        supervisor
            .kinds_ended(&["aggregator"], Duration::from_secs(1))
            .await;
        (clean, diary.read(), took)
    }

    #[tokio::test(start_paused = true)]
    async fn the_hand_over_begins_at_once_and_each_further_step_when_the_one_before_has_ended() {
        let (clean, steps, took) = stopped(10, &[]).await;
        let expected = [
            (STREAM, 0),
            (SNAPSHOT, 0),
            ("coordinator", 0),
            ("grpc", 1_000),
            ("aggregator", 1_030),
        ];
        assert_eq!(steps, expected);
        assert_eq!((clean, took), (true, 1_030));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_end_delays_the_next_step_by_its_limit_only() {
        let (clean, steps, took) = stopped(30, &[SNAPSHOT, "coordinator"]).await;
        let expected = [("coordinator", 0), ("grpc", 5_000), ("aggregator", 30_000)];
        assert_eq!(steps[2..], expected);
        assert_eq!((clean, took), (false, 30_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_grace_keeps_the_order_and_time_for_the_clients() {
        let (clean, steps, took) = stopped(4, &[STREAM, "coordinator", "grpc"]).await;
        let expected = [("coordinator", 0), ("grpc", 2_500), ("aggregator", 4_000)];
        assert_eq!(steps[2..], expected);
        assert_eq!((clean, took), (false, 4_000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_is_late_does_not_stop_what_comes_after_it() {
        let (clean, steps, _) = stopped(10, &[STREAM]).await;
        assert_eq!(
            steps[2..],
            [("coordinator", 0), ("grpc", 2_000), ("aggregator", 10_000)]
        );
        assert!(!clean, "a stream is left");
    }

    #[test]
    fn clients_have_a_quarter_of_the_grace_and_at_most_two_seconds() {
        let close = |seconds| Shutdown::new(Duration::from_secs(seconds)).close_grace();
        assert_eq!(close(2), Duration::from_millis(500));
        assert_eq!(close(60), Duration::from_secs(2));
    }
}
