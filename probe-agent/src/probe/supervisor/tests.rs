//! Tests of the probe supervisor in virtual time. All instances have the path of a Unix socket that does not exist, so
//! each round ends at once, as a failure.
#![allow(clippy::unwrap_used)]

use redkeeper_core::{
    ids::{ClusterName, InstanceId},
    probe::{
        ProbeConfig,
        schedule::{self, Spread},
        trail::Event,
    },
    status::Identity,
    time::WallMs,
};
use redkeeper_runtime::supervise::Exit;
use tokio::time::{advance, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{probe::timer::TIMERS, redis::Target};

const INTERVAL: Duration = Duration::from_millis(100);
/// A worker without a round for longer is stalled.
const LIMIT: Duration = Duration::from_millis(500);
const NO_PROGRESS: &str = "made no progress";

fn instance(name: &str) -> InstanceConfig {
    let id = InstanceId::new(name).unwrap();
    InstanceConfig {
        probe: ProbeConfig {
            interval: INTERVAL,
            phase: schedule::phase(&id, INTERVAL),
            spread: Spread::of(&id),
            connect_timeout: LIMIT - INTERVAL * 3,
            hang_after: INTERVAL * 3,
            info_interval: Duration::from_secs(10),
            connect_interval: Duration::from_secs(3_600),
            successes_before_up: 1,
            failures_before_down: 1,
            authenticate: false,
            tls: false,
            vanished: false,
        },
        target: Arc::new(Target {
            address: "/nonexistent/redis.sock".to_owned(),
            credentials: None,
            tls: None,
            owners: None,
        }),
        identity: Identity {
            id,
            cluster: None,
            address: "/nonexistent/redis.sock".into(),
            labels: Arc::default(),
        },
    }
}

struct Rig {
    shared: SharedContext,
    reloads: mpsc::Sender<Vec<InstanceConfig>>,
    supervisor: Option<ProbeSupervisor>,
}

impl Rig {
    /// Starts the workers of these instances. They are not supervised yet.
    fn start(names: &[&str]) -> Self {
        let rig = Self::without_timers(names.iter().map(|name| instance(name)).collect());
        let timers = rig.shared.timers.clone().run(CancellationToken::new());
        rig.shared.supervisor.spawn(TIMERS, "", timers);
        rig
    }

    /// As [`start`](Self::start), but nothing wakes the workers: each completes its first round and no other.
    fn without_timers(instances: Vec<InstanceConfig>) -> Self {
        let clock = Clock::simulated();
        let shared = SharedContext {
            supervisor: Supervisor::new(CancellationToken::new()),
            table: Arc::new(InstanceTable::new(clock)),
            timers: Timers::new(clock),
            clock,
            metrics: Metrics::default(),
        };
        let (reloads, receiver) = mpsc::channel(1);
        Self {
            supervisor: Some(ProbeSupervisor::start(shared.clone(), instances, receiver)),
            shared,
            reloads,
        }
    }

    /// Replaces the worker of an instance by another task.
    fn plant(&mut self, n: usize, task: impl Future<Output = ()> + Send + 'static) {
        let handle = &mut self.supervisor.as_mut().unwrap().probes[n];
        handle.task.abort();
        handle.task = self.shared.supervisor.spawn(WORKER, "planted", task);
    }

    fn supervise(&mut self) -> Task {
        let run = self.supervisor.take().unwrap().run();
        self.shared.supervisor.spawn("probe-supervisor", "", run)
    }

    async fn reload(&self, instances: Vec<InstanceConfig>) {
        self.reloads.send(instances).await.unwrap();
    }

    fn handle(&self, name: &str) -> Option<Handle> {
        let entries = self.shared.table.entries();
        let found = entries.iter().find(|(_, row)| row.identity.id.as_str() == name)?;
        Some(*found.0)
    }

    fn reason(&self, name: &str) -> Reason {
        let handle = self.handle(name).unwrap();
        self.shared.table.verdict(handle).unwrap().reason
    }

    fn last_round(&self, name: &str) -> Mono {
        let handle = self.handle(name).unwrap();
        let progress = self.shared.table.entries()[&handle].progress.last();
        progress.unwrap_or_default()
    }

    /// Numbers of live and expected workers.
    fn workers(&self) -> (usize, Option<usize>) {
        self.shared.supervisor.by_kind()[WORKER]
    }

    fn exits(&self, exit: Exit) -> u64 {
        let exits = self.shared.supervisor.exits();
        exits.get(&(WORKER, exit)).copied().unwrap_or_default()
    }

    fn replaced(&self, why: &'static str) -> u64 {
        self.shared.metrics.replaced.get_or_create(&[("why", why)]).get()
    }

    /// Until which times each of the next replacements took, from now on.
    async fn times_of_replacements(&self, count: u64) -> Vec<Duration> {
        let start = self.shared.clock.now();
        let mut times = Vec::new();
        while self.replaced(NO_PROGRESS) < count {
            sleep(Duration::from_millis(10)).await;
            while (times.len() as u64) < self.replaced(NO_PROGRESS) {
                times.push(self.shared.clock.now().since(start));
            }
            assert!(
                self.shared.clock.now().since(start) < Duration::from_secs(300),
                "{times:?}"
            );
        }
        times
    }
}

/// Lets everything happen that is due.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn each_instance_has_one_worker_and_one_row_while_it_is_configured() {
    let mut rig = Rig::start(&["a", "b"]);
    rig.supervise();
    settle().await;
    assert_eq!(rig.workers(), (2, Some(2)));
    assert_eq!(rig.reason("a"), Reason::SocketMissing);
    let kept = rig.handle("b");
    let certificates = rig.shared.metrics.certificates.clone();
    let label = |name: &str| [("instance", name.to_owned())];
    for name in ["a", "b"] {
        certificates.get_or_create(&label(name)).set(1);
    }

    rig.reload(vec![instance("b"), instance("c")]).await;
    settle().await;
    assert_eq!(rig.workers(), (2, Some(2)));
    assert_eq!((rig.handle("a"), rig.handle("b")), (None, kept));
    assert_eq!(rig.reason("c"), Reason::SocketMissing);
    assert_eq!(
        rig.exits(Exit::Aborted),
        1,
        "the worker of an unchanged instance was ended too"
    );
    assert!(certificates.get(&label("a")).is_none() && certificates.get(&label("b")).is_some());

    rig.reload(Vec::new()).await;
    settle().await;
    assert_eq!(rig.workers(), (0, Some(0)));
    assert!(rig.shared.table.entries().is_empty());
    assert_eq!((rig.replaced("ended"), rig.replaced(NO_PROGRESS)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_several_changes_in_a_row_the_last_one_stays_in_force() {
    let mut rig = Rig::start(&["a", "b"]);
    let first = rig.handle("a").unwrap();
    rig.supervise();
    for names in [&["c"][..], &["a", "c"], &["b"], &["b", "a"]] {
        rig.reload(names.iter().map(|name| instance(name)).collect())
            .await;
    }
    settle().await;
    assert_eq!(rig.workers(), (2, Some(2)));
    assert_eq!(
        (rig.reason("a"), rig.reason("b")),
        (Reason::SocketMissing, Reason::SocketMissing)
    );
    assert_eq!(rig.handle("c"), None);
    // Collectors may still hold what they know by the handle of the instance that was removed.
    assert!(rig.handle("a").unwrap() > first);
}

#[tokio::test(start_paused = true)]
async fn a_changed_instance_keeps_its_handle_and_its_verdict() {
    let mut rig = Rig::start(&["a"]);
    rig.supervise();
    sleep(Duration::from_secs(5)).await;
    let (handle, before) = (rig.handle("a"), rig.shared.table.entries());
    let verdict = before[&handle.unwrap()].verdict.clone();

    let mut changed = instance("a");
    changed.probe.interval = INTERVAL * 4;
    changed.identity.cluster = Some(ClusterName::new("cache").unwrap());
    rig.reload(vec![changed]).await;
    sleep(Duration::from_secs(5)).await;
    let entries = rig.shared.table.entries();
    let row = &entries[&handle.unwrap()];
    assert_eq!((entries.len(), row.verdict.since), (1, verdict.since));
    assert_eq!(row.verdict.reason, Reason::SocketMissing);
    assert!(row.identity.cluster.is_some());
    assert_eq!(
        row.freshness_limit,
        before[&handle.unwrap()].freshness_limit + INTERVAL * 9
    );
    assert_eq!(rig.workers(), (1, Some(1)));
    assert_eq!(rig.exits(Exit::Aborted), 1);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_or_ends_is_replaced_at_once_and_the_others_go_on() {
    let mut rig = Rig::start(&["a", "b", "c"]);
    rig.plant(0, async { panic!("planted") });
    rig.plant(1, async {});
    rig.supervise();
    sleep(INTERVAL).await;
    settle().await;
    assert_eq!(rig.replaced("ended"), 2);
    assert_eq!((rig.exits(Exit::Panicked), rig.exits(Exit::Finished)), (1, 1));
    assert_eq!(rig.workers(), (3, Some(3)));

    sleep(Duration::from_secs(60)).await;
    for name in ["a", "b", "c"] {
        assert_eq!(rig.reason(name), Reason::SocketMissing);
        let age = rig.shared.clock.now().since(rig.last_round(name));
        assert!(age <= INTERVAL * 2, "{name} was not probed for {age:?}");
    }
    // Those that were planted over, and no other.
    assert_eq!(rig.exits(Exit::Aborted), 2);
    assert_eq!((rig.replaced("ended"), rig.replaced(NO_PROGRESS)), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stalls_again_and_again_is_replaced_later_and_later() {
    let mut rig = Rig::without_timers(vec![instance("a")]);
    rig.supervise();
    let times = rig.times_of_replacements(9).await;
    // Each stalls for LIMIT after its only round; then come the pauses of `core::probe::watchdog`.
    let mut lived: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    lived.insert(0, times[0]);
    let pauses_ms = [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000];
    for (lived, pause_ms) in lived.iter().zip(pauses_ms) {
        let due = LIMIT + Duration::from_millis(pause_ms);
        assert!(
            *lived > due && *lived <= due + INTERVAL * 3,
            "{lived:?} of {times:?}"
        );
    }
    assert_eq!(rig.workers(), (1, Some(1)));
    assert_eq!(rig.exits(Exit::Aborted), 9);
    // The verdict of the former worker is kept, and with it the time since which it holds.
    let entries = rig.shared.table.entries();
    let row = entries.values().next().unwrap();
    assert_eq!(row.verdict.reason, Reason::SocketMissing);
    assert!(row.verdict.since.0 <= 1, "{:?}", row.verdict.since);
}

#[tokio::test(start_paused = true)]
async fn workers_are_looked_at_as_often_as_the_shortest_interval_asks() {
    let mut slow = instance("slow");
    slow.probe.interval = Duration::from_secs(60);
    let mut rig = Rig::without_timers(vec![slow.clone()]);
    rig.supervise();
    sleep(INTERVAL).await;
    rig.reload(vec![slow, instance("fast")]).await;
    let times = rig.times_of_replacements(1).await;
    assert!(times[0] <= LIMIT + INTERVAL * 2, "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_the_agent_counts_against_no_worker() {
    let mut rig = Rig::start(&["a"]);
    rig.plant(0, std::future::pending());
    rig.supervise();
    sleep(LIMIT - INTERVAL).await;
    advance(Duration::from_secs(3_600)).await;
    let awake = rig.shared.clock.now();
    sleep(LIMIT - INTERVAL / 2).await;
    assert_eq!(
        (rig.shared.metrics.pauses.get(), rig.replaced(NO_PROGRESS)),
        (1, 0)
    );
    // It is judged by the time since.
    rig.times_of_replacements(1).await;
    let waited = rig.shared.clock.now().since(awake);
    assert!(waited > LIMIT && waited <= LIMIT + INTERVAL * 2, "{waited:?}");
    assert_eq!(rig.shared.metrics.pauses.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reload_to_a_shorter_interval_is_no_pause_of_the_agent() {
    let mut slow = instance("a");
    slow.probe.interval = Duration::from_secs(1);
    let mut rig = Rig::without_timers(vec![slow]);
    rig.supervise();
    sleep(Duration::from_millis(2_700)).await;
    rig.reload(vec![instance("a")]).await;
    settle().await;
    assert_eq!(rig.shared.metrics.pauses.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_request_to_stop_ends_all_workers() {
    let mut rig = Rig::start(&["a", "b"]);
    let running = rig.supervise();
    settle().await;
    let asked = rig.shared.clock.now();
    rig.shared.supervisor.stop().cancel();
    assert_eq!(timeout(LIMIT, running.join()).await.unwrap(), Exit::Finished);
    let ended = rig.shared.supervisor.kinds_ended(&[WORKER], LIMIT).await;
    assert!(ended);
    assert_eq!(rig.shared.clock.now(), asked);
    assert_eq!(rig.exits(Exit::Aborted), 2);
}

#[tokio::test(start_paused = true)]
async fn what_a_prober_holds_can_be_read_beside_its_worker() {
    let mut rig = Rig::start(&["a"]);
    let snapshot = || rig.shared.table.find("a").unwrap().progress.snapshot();
    assert!(snapshot().is_none(), "no worker has run yet");
    sleep(INTERVAL * 5).await;
    let first = snapshot().unwrap();
    let events: Vec<_> = first.trail.decisions().iter().map(|one| one.event).collect();
    let (from, to) = (Reason::NotProbed, Reason::SocketMissing);
    assert_eq!(
        events,
        [
            Event::ConnectFailed,
            Event::Verdict { from, to },
            Event::ConnectFailed
        ]
    );
    assert!(
        first
            .outlook
            .due
            .connect
            .is_some_and(|at| at >= rig.shared.clock.now())
    );
    assert_eq!(first.config, instance("a").probe);
    sleep(INTERVAL * 5).await;
    let later = snapshot().unwrap();
    assert!(later.trail.totals().connect_failures > first.trail.totals().connect_failures);
    // A worker that replaces another one begins a trail of its own.
    let handle = &rig.supervisor.as_ref().unwrap().probes[0];
    let worker = handle.worker.clone();
    rig.plant(
        0,
        worker.run(Prober::new(rig.shared.clock.now(), WallMs(0), first.config)),
    );
    sleep(INTERVAL).await;
    let replaced = rig.shared.table.find("a").unwrap().progress.snapshot().unwrap();
    assert!(replaced.trail.totals().connect_failures < later.trail.totals().connect_failures);
}
