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
pub struct SharedContext {
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
    probes: Vec<ProbeHandle>,
    shared: SharedContext,
    reloads: mpsc::Receiver<Vec<InstanceConfig>>,
}

impl ProbeSupervisor {
    /// Starts a worker for each instance. Later sets of instances arrive through `reloads`.
    pub fn start(
        shared: SharedContext,
        instances: Vec<InstanceConfig>,
        reloads: mpsc::Receiver<Vec<InstanceConfig>>,
    ) -> Self {
        let mut supervisor = Self {
            probes: Vec::new(),
            shared,
            reloads,
        };
        supervisor.apply(instances);
        supervisor
    }

    /// Supervises the workers until asked to stop.
    pub async fn run(mut self) {
        let (stop, clock) = (self.shared.supervisor.stop().clone(), self.shared.clock);
        let mut period = self.period();
        let mut ticks = ticks(period);
        let (mut checked_at, mut paused) = (clock.now(), None);
        loop {
            let reloaded = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    self.probes.iter().for_each(|probe| probe.task.abort());
                    return;
                }
                Some(instances) = self.reloads.recv() => Some(instances),
                _ = ticks.tick() => None,
            };
            let now = clock.now();
            if now.since(checked_at) > period * 5 / 2 {
                paused = Some(now);
                let late = now.since(checked_at);
                self.shared.metrics.pauses.inc();
                tracing::warn!(?late, "the agent was asleep; deadlines extended");
            }
            checked_at = now;
            // After the check for a pause, which needs the period that was in force.
            if let Some(instances) = reloaded {
                self.apply(instances);
                period = self.period();
                ticks = self::ticks(period);
            }
            for probe in &mut self.probes {
                let last = probe.worker.progress.last().unwrap_or_default().max(probe.since);
                let why = if probe.task.is_finished() {
                    "ended"
                } else if watchdog::is_stalled(now, last, paused, probe.limit) {
                    "made no progress"
                } else {
                    probe.replacements.recovered();
                    continue;
                };
                if probe.replacements.is_due(now, probe.since) {
                    replace(&self.shared.supervisor, &self.shared.table, probe, now, why);
                }
            }
        }
    }

    /// Time between two checks of the workers.
    fn period(&self) -> Duration {
        let intervals = self.probes.iter().map(|probe| probe.worker.config.probe.interval);
        let period = intervals.min().unwrap_or_default();
        period.clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    /// Applies a new set of instances. Unchanged instances keep their connection and history; changed ones keep their
    /// verdict.
    fn apply(&mut self, instances: Vec<InstanceConfig>) {
        let mut former: BTreeMap<_, _> = std::mem::take(&mut self.probes)
            .into_iter()
            .map(|probe| (probe.worker.config.identity.id.clone(), probe))
            .collect();
        let count = instances.len();
        for config in instances {
            let probe = match former.remove(&config.identity.id) {
                Some(probe) if *probe.worker.config == config => probe,
                Some(probe) => self.changed(probe, config),
                None => self.added(config),
            };
            self.probes.push(probe);
        }
        for (id, probe) in former {
            tracing::info!(instance = %id, "no longer configured: forgotten");
            probe.task.abort();
            self.shared.table.remove(probe.worker.handle);
            self.shared
                .metrics
                .certificates
                .remove(&[("instance", id.to_string())]);
        }
        self.shared.supervisor.expect(WORKER, count);
    }

    fn added(&self, config: InstanceConfig) -> ProbeHandle {
        let (now, wall) = (self.shared.clock.now(), self.shared.clock.wall());
        let verdict = Verdict::blank(Reason::NotProbed, Stage::Resolve, "not yet probed", wall);
        let (handle, progress) =
            self.shared
                .table
                .add(config.identity.clone(), verdict, freshness_limit(&config));
        let prober = Prober::new(now, wall, config.probe.clone());
        self.start_worker(config, handle, progress, prober)
    }

    fn changed(&self, probe: ProbeHandle, config: InstanceConfig) -> ProbeHandle {
        tracing::info!(instance = %config.identity.id, "configured anew");
        probe.task.abort();
        let (handle, now) = (probe.worker.handle, self.shared.clock.now());
        let limit = freshness_limit(&config);
        self.shared.table.update(handle, config.identity.clone(), limit);
        let prober = match self.shared.table.verdict(handle) {
            Some(verdict) => Prober::resume(now, config.probe.clone(), verdict),
            None => Prober::new(now, self.shared.clock.wall(), config.probe.clone()),
        };
        self.start_worker(config, handle, probe.worker.progress, prober)
    }

    fn start_worker(
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
            table: Arc::clone(&self.shared.table),
            progress,
            clock: self.shared.clock,
            metrics: self.shared.metrics.clone(),
            timers: self.shared.timers.clone(),
        };
        ProbeHandle {
            task: spawn(&self.shared.supervisor, &worker, prober),
            worker,
            since: self.shared.clock.now(),
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
    probe: &mut ProbeHandle,
    now: Mono,
    why: &'static str,
) {
    let id = &probe.worker.config.identity.id;
    tracing::error!(instance = %id, "worker {why}; replacing it");
    probe.worker.metrics.replaced.get_or_create(&[("why", why)]).inc();
    probe.task.abort();
    let verdict = table.verdict(probe.worker.handle);
    let config = probe.worker.config.probe.clone();
    let prober = match verdict {
        Some(verdict) => Prober::resume(now, config, verdict),
        None => Prober::new(now, probe.worker.clock.wall(), config),
    };
    probe.task = spawn(supervisor, &probe.worker, prober);
    probe.since = now;
}

fn spawn(supervisor: &Supervisor, worker: &Worker, prober: Prober) -> Task {
    let name = worker.config.identity.id.to_string();
    supervisor.spawn(WORKER, name, worker.clone().run(prober))
}

#[cfg(test)]
mod tests;
