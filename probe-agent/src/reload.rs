//! Reloads on SIGHUP: reads the configuration again and passes the instances to the probe supervisor. An invalid file,
//! or one that drops too many instances at once, changes nothing. Discovery scans run here too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
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
    blocking::BlockingPool,
    config::{Config, DiscoveryConfig, InstanceConfig},
    discovery::{self, Known, registry::DiscoveredInstances, state_file},
    instances::InstanceTable,
    metrics::Metrics,
};

/// Reads and validates the configuration as at the start.
pub type Load = Arc<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// A second SIGHUP within this time confirms what the first one was refused for.
const CONFIRM_WITHIN: Duration = Duration::from_secs(60);

/// Maximum time for reading or writing a file: its file system may hang.
const FILE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time that a start waits for the state file.
const RECALL_TIMEOUT: Duration = Duration::from_secs(2);
static FILES: BlockingPool = BlockingPool::new(2);
/// Checks of files have a pool of their own, so that a hanging file blocks no reload.
static CHECKS: BlockingPool = BlockingPool::new(1);

/// Maximum number of missing files that are logged individually.
const FAULTS_LOGGED: usize = 20;

/// Timer interval without discovery: there is nothing to do between two signals.
const IDLE: Duration = Duration::from_secs(3_600);

/// Carries out reloads and discovery scans.
pub struct Reloader {
    present: Config,
    load: Load,
    reloads: mpsc::Sender<Vec<InstanceConfig>>,
    metrics: Metrics,
    discovered: DiscoveredInstances,
    table: Arc<InstanceTable>,
    /// Number of instances above the limit of an agent, as last logged.
    left_out: usize,
    /// Time of the last refused reload, and the instances that it would have kept.
    refused: Option<(Instant, BTreeSet<InstanceId>)>,
    /// Cancelled once the first discovery scan is done or not needed.
    looked: CancellationToken,
    /// What is discovered is not in the state file yet.
    unsaved: bool,
}

impl Reloader {
    /// Starts from the present configuration and the content of the state file.
    pub async fn new(
        present: Config,
        load: Load,
        reloads: mpsc::Sender<Vec<InstanceConfig>>,
        metrics: Metrics,
        table: Arc<InstanceTable>,
    ) -> Self {
        let discovered = match &present.discovery {
            Some(discovery) => load_discovered(discovery.clone()).await,
            None => DiscoveredInstances::default(),
        };
        Self {
            present,
            load,
            reloads,
            metrics,
            discovered,
            table,
            left_out: 0,
            refused: None,
            looked: CancellationToken::new(),
            unsaved: false,
        }
    }

    /// Returns a token that is cancelled once all instances from before a restart are known again. An earlier snapshot
    /// would make collectors forget what discovery is about to find; the content of the state file is known at once.
    pub fn first_look(&self) -> CancellationToken {
        if self.present.discovery.is_none() || !self.discovered.is_empty() {
            self.looked.cancel();
        }
        self.looked.clone()
    }

    /// Logs the files that instances lack.
    async fn report_missing_files(&self) {
        let files = self.present.files.clone();
        let late = || {
            vec![format!(
                "reading the files of instances takes longer than {FILE_TIMEOUT:?}"
            )]
        };
        let faults = CHECKS
            .run(FILE_TIMEOUT, move || files.faults())
            .await
            .unwrap_or_else(late);
        for fault in faults.iter().take(FAULTS_LOGGED) {
            tracing::warn!("{fault}");
        }
        if faults.len() > FAULTS_LOGGED {
            tracing::warn!(
                "and {} more files; --check-config tells all",
                faults.len() - FAULTS_LOGGED
            );
        }
    }

    /// Runs a discovery scan and stores the result. Returns whether something changed.
    pub async fn look(&mut self) -> bool {
        let Some(discovery) = self.present.discovery.clone() else {
            return false;
        };
        let target = |address: &str| discovery.instance(address).map(|config| config.target);
        let found = discovery::find(discovery.settings.clone(), self.known(), target).await;
        let Some(found) = found else { return false };
        let taken = ids(&self.present.instances);
        let changed = self.discovered.update(&discovery, &found, &taken, Instant::now());
        self.unsaved |= changed;
        if self.unsaved
            && let Some(file) = discovery.state_file
        {
            let memory = self.discovered.serialize();
            let write =
                move || state_file::write(&file, &memory).map_err(|e| format!("{}: {e}", file.display()));
            let late = || Err(format!("not written within {FILE_TIMEOUT:?}"));
            let written = FILES.run(FILE_TIMEOUT, write).await.unwrap_or_else(late);
            // Written again after the next scan otherwise; told for each change only.
            self.unsaved = written.is_err();
            if let (Err(e), true) = (written, changed) {
                tracing::warn!("what is discovered is not saved, and would be forgotten at a restart: {e}");
            }
        }
        changed
    }

    fn known(&self) -> Vec<Known> {
        let entries = self.table.entries();
        let run_ids: BTreeMap<_, _> = entries
            .values()
            .map(|entry| (&entry.identity.id, entry.verdict.run_id.to_string()))
            .collect();
        let one = |instance: &InstanceConfig| {
            Known::new(
                instance,
                run_ids.get(&instance.identity.id).map_or("", String::as_str),
            )
        };
        self.present.instances.iter().map(one).collect()
    }

    /// Returns all instances to probe.
    pub fn all(&self) -> Vec<InstanceConfig> {
        self.with(&self.present.instances)
    }

    fn with(&self, configured: &[InstanceConfig]) -> Vec<InstanceConfig> {
        let mut all = configured.to_vec();
        all.extend(self.discovered.instances(configured));
        all.truncate(AGENT_INSTANCES_MAX);
        all
    }

    /// Logs once how many instances exceed the limit.
    fn tell_left_out(&mut self) {
        let all = self.present.instances.len() + self.discovered.instances(&self.present.instances).len();
        let left_out = all.saturating_sub(AGENT_INSTANCES_MAX);
        if left_out != std::mem::replace(&mut self.left_out, left_out) && left_out > 0 {
            tracing::error!(
                "{all} instances are configured and found, of which an agent probes {AGENT_INSTANCES_MAX}: {left_out} of \
                 those found are left out; leave others with discovery.ignore, or run a second agent"
            );
        }
    }

    async fn hand_over(&mut self) {
        self.tell_left_out();
        // The probe supervisor receives this at once; if it is gone, the agent is stopping.
        drop(self.reloads.send(self.all()).await);
    }

    /// Handles signals and scans until asked to stop.
    ///
    /// # Errors
    /// When the signal handler cannot be installed.
    pub fn run(mut self, stop: CancellationToken) -> std::io::Result<impl Future<Output = ()>> {
        let mut hangup = signal(SignalKind::hangup())?;
        Ok(async move {
            let mut checked = false;
            // Signals do not delay the next scan, and a reload that turns discovery on starts one at once.
            let mut look_at = tokio::time::Instant::now();
            loop {
                if self.present.discovery.is_none() {
                    look_at = tokio::time::Instant::now() + IDLE;
                }
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = self.report_missing_files(), if !checked => checked = true,
                    _ = hangup.recv() => {
                        let discovered = self.present.discovery.is_some();
                        let result = self.reload().await;
                        self.metrics.reloads.get_or_create(&[("result", result)]).inc();
                        checked &= result != "ok";
                        if !discovered && self.present.discovery.is_some() {
                            look_at = tokio::time::Instant::now();
                        }
                    }
                    () = tokio::time::sleep_until(look_at) => {
                        let changed = tokio::select! {
                            biased;
                            () = stop.cancelled() => return,
                            changed = self.look() => changed,
                        };
                        if changed {
                            self.hand_over().await;
                        }
                        self.looked.cancel();
                        let interval = self.present.discovery.as_ref().map(|discovery| discovery.interval);
                        look_at = tokio::time::Instant::now() + interval.unwrap_or(IDLE);
                    }
                }
            }
        })
    }

    async fn reload(&mut self) -> &'static str {
        let load = Arc::clone(&self.load);
        let Some(loaded) = FILES.run(FILE_TIMEOUT, move || load()).await else {
            tracing::error!(
                "reading the configuration panicked, or took longer than {FILE_TIMEOUT:?}; the former one stays in force"
            );
            return "invalid";
        };
        let config = match loaded {
            Ok(config) => config,
            Err(error) => {
                for line in error.lines() {
                    tracing::error!("configuration: {line}");
                }
                tracing::error!(
                    mistakes = error.lines().len(),
                    "the configuration is wrong; the former one stays in force"
                );
                return "invalid";
            }
        };
        let before = ids(&self.all());
        let after = match config.discovery {
            Some(_) => ids(&self.with(&config.instances)),
            None => ids(&config.instances),
        };
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
        self.present.reload(config);
        match &self.present.discovery {
            Some(discovery) => self.discovered.configure(discovery),
            None => self.discovered = DiscoveredInstances::default(),
        }
        self.hand_over().await;
        "ok"
    }
}

/// Loads the state file if that is possible in time, because configured instances wait for it.
async fn load_discovered(discovery: DiscoveryConfig) -> DiscoveredInstances {
    let Some(file) = discovery.state_file.clone() else {
        return DiscoveredInstances::default();
    };
    let name = file.display().to_string();
    let read = move || {
        let mut discovered = DiscoveredInstances::default();
        let read = discovered.load(&discovery, &file, Instant::now());
        read.map(|()| discovered).map_err(|e| e.to_string())
    };
    let late = || Err(format!("not read within {RECALL_TIMEOUT:?}"));
    FILES
        .run(RECALL_TIMEOUT, read)
        .await
        .unwrap_or_else(late)
        .unwrap_or_else(|e| {
            tracing::warn!(file = name, "what was discovered before is not remembered: {e}");
            DiscoveredInstances::default()
        })
}

fn ids(instances: &[InstanceConfig]) -> BTreeSet<InstanceId> {
    instances
        .iter()
        .map(|instance| instance.identity.id.clone())
        .collect()
}

#[cfg(test)]
mod tests;
