//! SIGHUP: reads the configuration again and hands the instances to the overseer. A bad file, or one that drops
//! too much at once, changes nothing.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use redkeeper_core::ids::InstanceId;
use redkeeper_runtime::config::ConfigError;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, InstanceConfig},
    metrics::Metrics,
};

/// Reads and validates the configuration as at the start.
pub type Load = Box<dyn Fn() -> Result<Config, ConfigError> + Send>;

/// A second SIGHUP within this time confirms what the first one was refused for.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);

/// Carries out reloads.
pub struct Reloader {
    present: Config,
    load: Load,
    reloads: mpsc::Sender<Vec<InstanceConfig>>,
    metrics: Metrics,
    /// When a reload was refused, and what would be left after it.
    refused: Option<(Instant, BTreeSet<InstanceId>)>,
}

impl Reloader {
    /// Goes on from the configuration in force.
    pub fn new(
        present: Config,
        load: Load,
        reloads: mpsc::Sender<Vec<InstanceConfig>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            present,
            load,
            reloads,
            metrics,
            refused: None,
        }
    }

    /// Listens until asked to stop.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn run(mut self, stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(async move {
            loop {
                tokio::select! { biased; () = stop.cancelled() => return, _ = hangup.recv() => () }
                let result = self.reload().await;
                self.metrics.reloads.get_or_create(&[("result", result)]).inc();
            }
        })
    }

    async fn reload(&mut self) -> &'static str {
        let config = match (self.load)() {
            Ok(config) => config,
            Err(error) => {
                tracing::error!("the configuration is wrong; the former one stays in force: {error}");
                return "invalid";
            }
        };
        let (before, after) = (ids(&self.present), ids(&config));
        let dropped = before.difference(&after).count();
        let share = usize::from(self.present.reload_drop_max_percent);
        let confirmed = self
            .refused
            .take()
            .is_some_and(|(at, left)| at.elapsed() < CONFIRM_WITHIN && left == after);
        if dropped * 100 > before.len() * share && !confirmed {
            tracing::error!(
                "the configuration drops {dropped} of {} instances, more than reload_drop_max_percent = {share}; the \
                 former one stays in force. Send SIGHUP again within {CONFIRM_WITHIN:?} to confirm",
                before.len()
            );
            self.refused = Some((Instant::now(), after));
            return "refused";
        }
        let fixed = |c: &Config| {
            (
                c.id.clone(),
                c.collectors.clone(),
                c.admin_listen,
                c.shutdown_grace,
            )
        };
        if fixed(&config) != fixed(&self.present) {
            tracing::warn!("id, collectors, admin_listen and shutdown_grace change with a restart only");
        }
        tracing::info!(
            added = after.difference(&before).count(),
            dropped,
            instances = after.len(),
            "configuration reloaded"
        );
        self.present.instances.clone_from(&config.instances);
        self.present.reload_drop_max_percent = config.reload_drop_max_percent;
        // The overseer takes it at once; if it is gone, the agent is stopping.
        drop(self.reloads.send(config.instances).await);
        "ok"
    }
}

fn ids(config: &Config) -> BTreeSet<InstanceId> {
    config
        .instances
        .iter()
        .map(|instance| instance.identity.id.clone())
        .collect()
}
