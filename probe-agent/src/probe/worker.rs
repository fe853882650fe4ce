//! The worker is the task of one instance. It drives `core::probe` through the [`Shell`], and reports what it decides.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redkeeper_core::{
    ids::Handle,
    probe::{Effect, Input, Prober},
    status::Verdict,
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, log_limit::LogLimit};

use crate::{
    config::InstanceConfig,
    instances::{InstanceTable, Progress, SharedProber},
    metrics::Metrics,
    probe::{certificate, shell::Shell, timer::Timers},
};

/// The worker of one instance.
#[derive(Clone)]
pub struct Worker {
    /// Configuration of the instance.
    pub config: Arc<InstanceConfig>,
    /// Handle of the instance in the table.
    pub handle: Handle,
    /// Receives the verdicts.
    pub table: Arc<InstanceTable>,
    /// Records completed rounds, and what the prober holds.
    pub progress: Progress,
    /// The clock.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Wakes the worker.
    pub timers: Timers,
}

impl Worker {
    /// Probes until the probe supervisor ends the task. Never returns.
    pub async fn run(self, prober: Prober) {
        let prober = SharedProber::new(prober);
        let target = Arc::clone(&self.config.target);
        let mut shell = Shell::new(target, self.config.probe.connect_timeout);
        let mut timer = self.timers.timer();
        let mut effects = Vec::with_capacity(4);
        let mut certificate_warned = None;
        self.progress.begins(&prober);
        loop {
            let deadline = prober.lock().next_deadline();
            let input = shell.next(|context| timer.poll(deadline, context)).await;
            match &input {
                Input::Certificate(ends) => certificate::tell(
                    &self.config.identity.id,
                    *ends,
                    self.clock,
                    &self.metrics,
                    &mut certificate_warned,
                ),
                Input::NewConnectionChecked(answer) => self.metrics.new_connection_checked(answer),
                _ => {}
            }
            let now = self.clock.now();
            prober.lock().step(now, self.clock.wall(), input, &mut effects);
            for effect in effects.drain(..) {
                if let Some(effect) = shell.carry_out(effect).await {
                    self.report(now, effect).await;
                }
            }
        }
    }

    /// Reports an effect that concerns neither connections nor process.
    async fn report(&self, now: Mono, effect: Effect) {
        match effect {
            Effect::Round => {
                #[cfg(feature = "test-hooks")]
                crate::test_hooks::apply(self.config.identity.id.as_str()).await;
                self.metrics.rounds.inc();
                self.progress.completed(now);
            }
            Effect::Latency(latency) => self.metrics.latency.observe(latency.as_secs_f64()),
            Effect::SilentConnectionReplaced => {
                self.metrics.mute_connections.inc();
            }
            // The probe supervisor counts and logs it, once for all instances.
            Effect::Paused(late) => {
                tracing::debug!(instance = %self.config.identity.id, ?late, "the agent was asleep; deadlines extended");
            }
            Effect::Verdict(verdict) => self.publish(verdict),
            // The shell carries out these.
            Effect::Connect
            | Effect::Disconnect
            | Effect::Send(_)
            | Effect::LocateProcess(_)
            | Effect::CheckProcess
            | Effect::CheckNewConnection
            | Effect::CheckSecondConnection(_) => {}
        }
    }

    /// Logs and counts a verdict, and puts it into the table.
    fn publish(&self, mut verdict: Verdict) {
        if let Some(credentials) = &self.config.target.credentials {
            credentials.explain(&mut verdict);
        }
        let line = VERDICT_LINES
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .line(Instant::now());
        if let Some(more) = line {
            tracing::info!(
                instance = %self.config.identity.id, state = %verdict.state(), reason = %verdict.reason,
                role = %verdict.role, run_id = %verdict.run_id, evidence = %verdict.evidence, more, "verdict"
            );
        }
        self.metrics
            .verdicts
            .get_or_create(&[("reason", verdict.reason.as_str())])
            .inc();
        self.table.set(self.handle, verdict);
    }
}

/// Limits the log lines about verdicts, over all instances; every verdict is reported regardless.
static VERDICT_LINES: Mutex<LogLimit> = Mutex::new(LogLimit::new(200, Duration::from_secs(10)));
