//! The probe supervisor owns the workers. A worker that panicked, ended, or completed no round within its limit is
//! replaced and counted; the other workers are not affected.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use redkeeper_core::{
    ids::Handle,
    probe::{
        Prober,
        watchdog::{self, Replacements},
    },
    status::{Reason, Stage, Verdict},
    time::Mono,
};
use redkeeper_runtime::{
    clock::Clock,
    supervise::{Supervisor, Task},
};
use tokio::{sync::mpsc, time::MissedTickBehavior};

use super::{timer::Timers, worker::Worker};
use crate::{
    config::InstanceConfig,
    instances::{InstanceTable, Progress},
    metrics::Metrics,
};

/// Task kind of the workers.
pub const WORKER: &str = "probe-worker";

/// Heartbeat interval that the freshness limit allows for: the collector's default.
const HEARTBEAT_ASSUMED: Duration = Duration::from_secs(1);

struct ProbeHandle {
    worker: Worker,
    task: Task,
    /// Time at which the present worker was started.
    since: Mono,
    limit: Duration,
    replacements: Replacements,
}

/// What all workers share.
#[derive(Clone)]
pub struct Common {
    /// Owner of all tasks.
    pub supervisor: Supervisor,
    /// Receives the verdicts.
    pub table: Arc<InstanceTable>,
    /// Wakes the workers.
    pub timers: Timers,
    /// The clock.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// Owns the workers of all instances.
pub struct ProbeSupervisor {
    handles: Vec<ProbeHandle>,
    common: Common,
    reloads: mpsc::Receiver<Vec<InstanceConfig>>,
}

impl ProbeSupervisor {
    /// Starts a worker for each instance. Later sets of instances arrive through `reloads`.
    pub fn start(
        common: Common,
        instances: Vec<InstanceConfig>,
        reloads: mpsc::Receiver<Vec<InstanceConfig>>,
    ) -> Self {
        let mut supervisor = Self {
            handles: Vec::new(),
            common,
            reloads,
        };
        supervisor.apply(instances);
        supervisor
    }

    /// Supervises the workers until asked to stop.
    pub async fn run(mut self) {
        let (stop, clock) = (self.common.supervisor.stop().clone(), self.common.clock);
        let mut period = self.period();
        let mut ticks = ticks(period);
        let (mut looked, mut paused) = (clock.now(), None);
        loop {
            let reloaded = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.handles.iter().for_each(|post| post.task.abort());
                    return;
                }
                Some(instances) = self.reloads.recv() => Some(instances),
                _ = ticks.tick() => None,
            };
            let now = clock.now();
            if now.since(looked) > period * 5 / 2 {
                paused = Some(now);
                let late = now.since(looked);
                self.common.metrics.pauses.inc();
                tracing::warn!(?late, "the agent was asleep; deadlines extended");
            }
            looked = now;
            // After the check for a pause, which needs the period that was in force.
            if let Some(instances) = reloaded {
                self.apply(instances);
                period = self.period();
                ticks = self::ticks(period);
            }
            for post in &mut self.handles {
                let last = post.worker.progress.last().unwrap_or_default().max(post.since);
                let why = if post.task.is_finished() {
                    "ended"
                } else if watchdog::is_stalled(now, last, paused, post.limit) {
                    "made no progress"
                } else {
                    post.replacements.recovered();
                    continue;
                };
                if post.replacements.is_due(now, post.since) {
                    replace(&self.common.supervisor, &self.common.table, post, now, why);
                }
            }
        }
    }

    /// Time between two checks of the workers.
    fn period(&self) -> Duration {
        let intervals = self.handles.iter().map(|post| post.worker.config.probe.interval);
        let period = intervals.min().unwrap_or_default();
        period.clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Applies a new set of instances. Unchanged instances keep their connection and history; changed ones keep their
    /// verdict.
    fn apply(&mut self, instances: Vec<InstanceConfig>) {
        let mut former: BTreeMap<_, _> = std::mem::take(&mut self.handles)
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
            self.handles.push(post);
        }
        for (id, post) in former {
            tracing::info!(instance = %id, "no longer configured: forgotten");
            post.task.abort();
            self.common.table.remove(post.worker.handle);
            self.common
                .metrics
                .certificates
                .remove(&[("instance", id.to_string())]);
        }
        self.common.supervisor.expect(WORKER, count);
    }

    fn added(&self, config: InstanceConfig) -> ProbeHandle {
        let (now, wall) = (self.common.clock.now(), self.common.clock.wall());
        let verdict = Verdict::blank(Reason::NotProbed, Stage::Resolve, "not yet probed", wall);
        let (handle, progress) =
            self.common
                .table
                .add(config.identity.clone(), verdict, freshness_limit(&config));
        let prober = Prober::new(now, wall, config.probe.clone());
        self.post(config, handle, progress, prober)
    }

    fn changed(&self, post: ProbeHandle, config: InstanceConfig) -> ProbeHandle {
        tracing::info!(instance = %config.identity.id, "configured anew");
        post.task.abort();
        let (handle, now) = (post.worker.handle, self.common.clock.now());
        let limit = freshness_limit(&config);
        self.common.table.update(handle, config.identity.clone(), limit);
        let prober = match self.common.table.verdict(handle) {
            Some(verdict) => Prober::resume(now, config.probe.clone(), verdict),
            None => Prober::new(now, self.common.clock.wall(), config.probe.clone()),
        };
        self.post(config, handle, post.worker.progress, prober)
    }

    fn post(
        &self,
        config: InstanceConfig,
        handle: Handle,
        progress: Progress,
        prober: Prober,
    ) -> ProbeHandle {
        let limit = watchdog::progress_limit(config.probe.interval, config.probe.connect_timeout);
        let worker = Worker {
            config: Arc::new(config),
            handle,
            table: Arc::clone(&self.common.table),
            progress,
            clock: self.common.clock,
            metrics: self.common.metrics.clone(),
            timers: self.common.timers.clone(),
        };
        ProbeHandle {
            task: spawn(&self.common.supervisor, &worker, prober),
            worker,
            since: self.common.clock.now(),
            limit,
            replacements: Replacements::default(),
        }
    }
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Maximum age of an instance's progress before the collector calls it stalled.
fn freshness_limit(config: &InstanceConfig) -> Duration {
    let limit = watchdog::progress_limit(config.probe.interval, config.probe.connect_timeout);
    watchdog::freshness_limit(limit, HEARTBEAT_ASSUMED)
}

fn replace(
    supervisor: &Supervisor,
    table: &InstanceTable,
    post: &mut ProbeHandle,
    now: Mono,
    why: &'static str,
) {
    let id = &post.worker.config.identity.id;
    tracing::error!(instance = %id, "worker {why}; replacing it");
    post.worker.metrics.replaced.get_or_create(&[("why", why)]).inc();
    post.task.abort();
    let verdict = table.verdict(post.worker.handle);
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

#[cfg(test)]
mod tests;
