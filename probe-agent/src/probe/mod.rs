//! Owns the workers. One that panicked, ended, or completed no round for its limit is replaced and counted;
//! the others never notice.

mod certificate;
mod link;
mod page;
pub mod timer;
pub mod worker;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use redkeeper_core::{
    ids::Handle,
    probe::{Prober, watchdog},
    status::{Reason, Stage, Verdict},
    time::Mono,
};
use redkeeper_runtime::{
    clock::Clock,
    supervise::{Supervisor, Task},
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use crate::{
    config::InstanceConfig,
    instances::{Board, Progress},
    metrics::Metrics,
    probe::{timer::Alarms, worker::Worker},
};

pub use page::progress_page;

/// Kind of the workers' tasks.
pub const WORKER: &str = "probe-worker";

/// Heartbeat interval for which an instance's freshness limit makes room; the collector's default.
const HEARTBEAT_ASSUMED: Duration = Duration::from_secs(1);

struct Post {
    worker: Worker,
    task: Task,
    /// When the present worker took over.
    since: Mono,
    limit: Duration,
}

/// What every worker needs beside its instance.
#[derive(Clone)]
pub struct Common {
    /// Owner of the tasks.
    pub supervisor: Supervisor,
    /// Where verdicts go.
    pub board: Arc<Board>,
    /// Where workers are woken from.
    pub alarms: Alarms,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// The workers of all instances.
pub struct Overseer {
    posts: Vec<Post>,
    common: Common,
    reloads: mpsc::Receiver<Vec<InstanceConfig>>,
}

impl Overseer {
    /// Starts a worker for each instance; more instances, or fewer, come through `reloads`.
    pub fn start(
        common: Common,
        instances: Vec<InstanceConfig>,
        reloads: mpsc::Receiver<Vec<InstanceConfig>>,
    ) -> Self {
        let mut overseer = Self {
            posts: Vec::new(),
            common,
            reloads,
        };
        overseer.apply(instances);
        overseer
    }

    /// Watches until asked to stop.
    pub async fn run(mut self) {
        let (stop, clock) = (self.common.supervisor.stop().clone(), self.common.clock);
        let mut period = self.period();
        let mut ticks = ticks(period);
        let (mut looked, mut paused) = (clock.now(), None);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.posts.iter().for_each(|post| post.task.abort());
                    return;
                }
                Some(instances) = self.reloads.recv() => {
                    self.apply(instances);
                    period = self.period();
                    ticks = self::ticks(period);
                }
                _ = ticks.tick() => {}
            }
            let now = clock.now();
            if now.since(looked) > period * 5 / 2 {
                paused = Some(now);
                let late = now.since(looked);
                self.common.metrics.pauses.inc();
                tracing::warn!(?late, "the agent was asleep; deadlines extended");
            }
            looked = now;
            for post in &mut self.posts {
                let last = post.worker.progress.last().unwrap_or_default().max(post.since);
                let why = if post.task.is_finished() {
                    "ended"
                } else if watchdog::is_stalled(now, last, paused, post.limit) {
                    "made no progress"
                } else {
                    continue;
                };
                replace(&self.common.supervisor, &self.common.board, post, now, why);
            }
        }
    }

    /// How often the workers are looked at.
    fn period(&self) -> Duration {
        let intervals = self.posts.iter().map(|post| post.worker.config.probe.interval);
        let period = intervals.min().unwrap_or_default();
        period.clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Brings the workers in line with a configuration. What did not change keeps its connection and history; what
    /// changed goes on with its verdict.
    fn apply(&mut self, instances: Vec<InstanceConfig>) {
        let mut former: BTreeMap<_, _> = std::mem::take(&mut self.posts)
            .into_iter()
            .map(|post| (post.worker.config.identity.id.clone(), post))
            .collect();
        let count = instances.len();
        for config in instances {
            let post = match former.remove(&config.identity.id) {
                Some(post) if *post.worker.config == config => post,
                Some(post) => self.changed(post, config),
                None => self.added(config),
            };
            self.posts.push(post);
        }
        for (id, post) in former {
            tracing::info!(instance = %id, "no longer configured: forgotten");
            post.task.abort();
            self.common.board.remove(post.worker.handle);
            self.common
                .metrics
                .certificates
                .remove(&[("instance", id.to_string())]);
        }
        self.common.supervisor.expect(WORKER, count);
    }

    fn added(&self, config: InstanceConfig) -> Post {
        let (now, wall) = (self.common.clock.now(), self.common.clock.wall());
        let verdict = Verdict::blank(Reason::NotProbed, Stage::Resolve, "not yet probed", wall);
        let (handle, progress) =
            self.common
                .board
                .add(config.identity.clone(), verdict, freshness_limit(&config));
        let prober = Prober::new(now, wall, config.probe.clone());
        self.post(config, handle, progress, prober)
    }

    fn changed(&self, post: Post, config: InstanceConfig) -> Post {
        tracing::info!(instance = %config.identity.id, "configured anew");
        post.task.abort();
        let (handle, now) = (post.worker.handle, self.common.clock.now());
        let limit = freshness_limit(&config);
        self.common.board.update(handle, config.identity.clone(), limit);
        let prober = match self.common.board.verdict(handle) {
            Some(verdict) => Prober::resume(now, config.probe.clone(), verdict),
            None => Prober::new(now, self.common.clock.wall(), config.probe.clone()),
        };
        self.post(config, handle, post.worker.progress, prober)
    }

    fn post(&self, config: InstanceConfig, handle: Handle, progress: Progress, prober: Prober) -> Post {
        let limit = watchdog::progress_limit(config.probe.interval, config.probe.connect_timeout);
        let worker = Worker {
            config: Arc::new(config),
            handle,
            board: Arc::clone(&self.common.board),
            progress,
            clock: self.common.clock,
            metrics: self.common.metrics.clone(),
            alarms: self.common.alarms.clone(),
        };
        Post {
            task: spawn(&self.common.supervisor, &worker, prober),
            worker,
            since: self.common.clock.now(),
            limit,
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// How old the progress of an instance may be for the collector.
fn freshness_limit(config: &InstanceConfig) -> Duration {
    let limit = watchdog::progress_limit(config.probe.interval, config.probe.connect_timeout);
    watchdog::freshness_limit(limit, HEARTBEAT_ASSUMED)
}

fn replace(supervisor: &Supervisor, board: &Board, post: &mut Post, now: Mono, why: &'static str) {
    let id = &post.worker.config.identity.id;
    tracing::error!(instance = %id, "worker {why}; replacing it");
    post.worker.metrics.replaced.get_or_create(&[("why", why)]).inc();
    post.task.abort();
    let verdict = board.verdict(post.worker.handle);
    let config = post.worker.config.probe.clone();
    let prober = match verdict {
        Some(verdict) => Prober::resume(now, config, verdict),
        None => Prober::new(now, post.worker.clock.wall(), config),
    };
    post.task = spawn(supervisor, &post.worker, prober);
    post.since = now;
}

fn spawn(supervisor: &Supervisor, worker: &Worker, prober: Prober) -> Task {
    let name = worker.config.identity.id.to_string();
    supervisor.spawn(WORKER, name, worker.clone().run(prober))
}
