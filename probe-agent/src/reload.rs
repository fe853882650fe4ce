//! SIGHUP: reads the configuration again and hands the instances to the overseer. A bad file, or one that drops
//! too much at once, changes nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use redkeeper_core::{ids::InstanceId, limits::AGENT_INSTANCES_MAX};
use redkeeper_runtime::config::ConfigError;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, InstanceConfig},
    discovery,
    metrics::Metrics,
};

/// Reads and validates the configuration as at the start.
pub type Load = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A second SIGHUP within this time confirms what the first one was refused for.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);

/// Without discovery there is nothing to do between two signals.
const IDLE: Duration = Duration::from_secs(3_600);

/// Carries out reloads, and discovery.
pub struct Reloader {
    present: Config,
    load: Load,
    reloads: mpsc::Sender<Vec<InstanceConfig>>,
    metrics: Metrics,
    /// What was discovered, and when it was last found.
    discovered: BTreeMap<InstanceId, (InstanceConfig, Instant)>,
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
            discovered: BTreeMap::new(),
            refused: None,
        }
    }

    /// Looks for instances, and remembers those that were found before. Says whether something changed.
    pub async fn look(&mut self) -> bool {
        let Some(discovery) = self.present.discovery.clone() else {
            return false;
        };
        let configured = self
            .present
            .instances
            .iter()
            .map(|i| i.identity.address.to_string());
        let found = discovery::find(discovery.settings.clone(), configured.collect()).await;
        let now = Instant::now();
        let before: BTreeMap<_, _> = self
            .discovered
            .iter()
            .map(|(id, (c, _))| (id.clone(), c.clone()))
            .collect();
        // One that is listed but does not answer, such as a hung one, is not gone.
        for candidate in &found {
            let known =
                |(config, _): &&mut (InstanceConfig, Instant)| *config.identity.address == candidate.address;
            if let Some((_, seen)) = self.discovered.values_mut().find(known)
                && candidate.source.starts_with("process ")
            {
                *seen = now;
            }
        }
        for candidate in found.iter().filter(|candidate| candidate.left.is_none()) {
            match discovery.instance(&candidate.address) {
                Ok(config) => {
                    let id = config.identity.id.clone();
                    let other = self
                        .discovered
                        .get(&id)
                        .filter(|(c, _)| c.identity.address != config.identity.address);
                    if other.is_some() {
                        tracing::warn!(
                            instance = %id, address = candidate.address,
                            "discovered, but another server has this id already; name one under [[instances]]"
                        );
                        continue;
                    }
                    if self.discovered.insert(id.clone(), (config, now)).is_none() {
                        tracing::info!(instance = %id, by = candidate.source, "discovered");
                    }
                }
                Err(why) => tracing::warn!(address = candidate.address, "discovered, but not probed: {why}"),
            }
        }
        // One that is gone stays, and is DOWN, until it is forgotten.
        self.discovered
            .retain(|_, (_, seen)| now.duration_since(*seen) < discovery.forget_after);
        let same =
            |(id, (config, _)): (&InstanceId, &(InstanceConfig, Instant))| before.get(id) == Some(config);
        if self.discovered.len() != before.len() || !self.discovered.iter().all(same) {
            return true;
        }
        false
    }

    /// Everything that is to be probed.
    pub fn all(&self) -> Vec<InstanceConfig> {
        let configured = ids(&self.present);
        let more = self.discovered.iter().filter(|(id, _)| !configured.contains(*id));
        let mut all = self.present.instances.clone();
        all.extend(more.map(|(_, (config, _))| config.clone()));
        all.truncate(AGENT_INSTANCES_MAX);
        all
    }

    async fn hand_over(&self) {
        // The overseer takes it at once; if it is gone, the agent is stopping.
        drop(self.reloads.send(self.all()).await);
    }

    /// Listens until asked to stop.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn run(mut self, stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(async move {
            loop {
                let again = self
                    .present
                    .discovery
                    .as_ref()
                    .map(|discovery| discovery.interval);
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    _ = hangup.recv() => {}
                    () = tokio::time::sleep(again.unwrap_or(IDLE)) => {
                        let changed = tokio::select! {
                            biased;
                            () = stop.cancelled() => return,
                            changed = self.look() => changed,
                        };
                        if changed {
                            self.hand_over().await;
                        }
                        continue;
                    }
                }
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
        self.present.discovery = config.discovery;
        if self.present.discovery.is_none() {
            self.discovered.clear();
        }
        self.hand_over().await;
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
