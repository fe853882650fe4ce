//! Tests of the coordinator with the in-memory store, in virtual time.

use redkeeper_core::fleet::Fleet;
use redkeeper_runtime::supervise::{Supervisor, Task};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    fleet::{aggregator::Aggregator, command::COMMANDS_MAX, view},
    leader::leadership::Leadership,
    publish::{AUDIT_INTERVAL, replicate},
    store::{
        Kind, Write,
        memory::{Memory, MemorySession},
    },
};

const LIMIT: Duration = Duration::from_secs(60);

/// A collector without gRPC.
pub(super) struct Rig {
    pub(super) leadership: leadership::Reader,
    /// Proves the end of other collectors' processes.
    pub(super) ended: proofs::Sender,
    metrics: Metrics,
    stop: CancellationToken,
    running: Task,
}

impl Rig {
    pub(super) fn start<S: Store + Clone>(store: &S, id: &str) -> Self {
        let clock = Clock::simulated();
        let (view_publisher, view) = view::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (leadership, reader) = watch::channel(Leadership::default());
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let (ended, ended_reader) = watch::channel(proofs::Ended::default());
        let aggregator = Aggregator::new(
            Fleet::new(clock.now(), Duration::from_secs(1)),
            view_publisher,
            receiver,
            Arc::default(),
            clock,
            metrics.clone(),
            CancellationToken::new(),
        );
        let coordinator = Coordinator {
            store: store.clone(),
            layout: Layout::new("/redkeeper"),
            id: CollectorId::new(id).unwrap(),
            address: format!("{id}:7400"),
            view,
            commands,
            leadership,
            ended: ended_reader,
            requests: mpsc::channel(1).1,
            told: mpsc::channel(1).1,
            links: replicate::Sender::new(1),
            clock,
            orphans_max_percent: 10,
            audit_interval: AUDIT_INTERVAL,
            freshness_interval: Duration::from_secs(5),
            metrics: metrics.clone(),
            diagnostics: Arc::new(Diagnostics::new(clock)),
            stop: stop.clone(),
        };
        let supervisor = Supervisor::new(CancellationToken::new());
        let running = supervisor.spawn("collector", "", async move {
            tokio::select! { () = aggregator.run() => (), () = coordinator.run() => () }
        });
        Self {
            leadership: reader,
            ended,
            metrics,
            stop,
            running,
        }
    }

    pub(super) async fn until(&mut self, what: &str, reached: impl FnMut(&Leadership) -> bool) {
        let waiting = timeout(LIMIT, self.leadership.wait_for(reached));
        assert!(matches!(waiting.await, Ok(Ok(_))), "not reached: {what}");
    }

    /// Ends as a killed process does: its session stays until it expires.
    pub(super) fn kill(self) {
        self.running.abort();
    }

    pub(super) async fn end(self) {
        self.stop.cancel();
        let exit = timeout(LIMIT, self.running.join()).await;
        assert!(exit.is_ok(), "does not stop");
    }
}

#[tokio::test(start_paused = true)]
async fn that_it_leads_is_told_at_once_and_that_it_no_longer_does() {
    let ensemble = Memory::default();
    let start = Instant::now();
    let mut a = Rig::start(&ensemble, "a");
    a.until("a leads", |d| d.phase == "leader").await;
    let took = start.elapsed();
    assert!(took < Duration::from_millis(50), "took {took:?}");
    assert_eq!(a.metrics.pending.get(), 0);

    let start = Instant::now();
    ensemble.expire(1);
    a.until("a has lost its session", |d| d.phase != "leader").await;
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert!(a.leadership.borrow().lease.is_none());
    a.until("a leads again", |d| d.phase == "leader").await;
    a.end().await;
}

/// Writes the epoch into an empty store, and returns the session that did.
async fn with_epoch(ensemble: &Memory, epoch: &str) -> (MemorySession, Layout) {
    let hand = ensemble.connect().await.unwrap();
    let layout = Layout::new("/redkeeper");
    layout.ensure(&hand).await.unwrap();
    let write = Write::Set(layout.epoch(), epoch.as_bytes().to_vec(), None);
    hand.commit((&layout.epoch(), 0), vec![write]).await.unwrap();
    (hand, layout)
}

/// Everything is deleted while only a follower lives, which had seen the fourth term.
#[tokio::test(start_paused = true)]
async fn a_wiped_zookeeper_does_not_begin_again_with_the_first_term() {
    let ensemble = Memory::default();
    let (hand, layout) = with_epoch(&ensemble, r#"{"epoch":4,"holder":"gone"}"#).await;
    // A leader that lives: `a` follows.
    let candidate = layout.candidate("_c_x-n-");
    hand.create(&candidate, b"", Kind::EphemeralSequential)
        .await
        .unwrap();
    let mut a = Rig::start(&ensemble, "a");
    a.until("a has seen the fourth term", |d| {
        d.epoch == 4 && d.phase == "follower"
    })
    .await;

    ensemble.wipe(hand.id());
    a.until("a leads the fifth", |d| d.phase == "leader").await;
    assert_eq!(a.leadership.borrow().epoch, 5);
    let published = hand.get(&[layout.epoch()]).await.unwrap().remove(0).unwrap();
    assert!(published.data.starts_with(br#"{"epoch":5,"#), "{published:?}");
    a.end().await;
}

/// A number that no election reaches by counting leaves room for the next terms.
#[tokio::test(start_paused = true)]
async fn an_epoch_written_by_a_vandal_is_no_end_of_all_terms() {
    let ensemble = Memory::default();
    let epoch = format!("{{\"epoch\":{},\"holder\":\"vandal\"}}", u64::MAX);
    let (_hand, _) = with_epoch(&ensemble, &epoch).await;
    let mut a = Rig::start(&ensemble, "a");
    for term in 1..=2 {
        a.until("a leads", |d| d.phase == "leader" && d.epoch == term)
            .await;
        let session = ensemble.sessions().last().copied().unwrap();
        ensemble.expire(session);
    }
    a.end().await;
}
