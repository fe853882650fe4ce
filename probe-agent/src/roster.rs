//! What was discovered, and when it was last found. An instance that is found no more stays, and is DOWN, until it
//! is forgotten.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    time::Instant,
};

use redkeeper_core::{ids::InstanceId, limits::AGENT_INSTANCES_MAX};
use serde::{Deserialize, Serialize};

use crate::{
    config::{DiscoveryConfig, InstanceConfig},
    discovery::Candidate,
};

/// The discovered instances.
#[derive(Default)]
pub struct Roster {
    entries: BTreeMap<InstanceId, Entry>,
}

#[derive(Clone)]
struct Entry {
    config: InstanceConfig,
    seen: Instant,
}

/// The file in which addresses outlive the agent.
#[derive(Serialize, Deserialize)]
struct Memory {
    discovered: Vec<String>,
}

/// Largest memory that is read: 5,000 addresses of 256 bytes, and quotes.
const MEMORY_BYTES_MAX: u64 = 2 * 1024 * 1024;

impl Roster {
    /// Takes what a look found. Says whether something changed.
    pub fn update(&mut self, discovery: &DiscoveryConfig, found: &[Candidate], now: Instant) -> bool {
        let before = self.configs();
        let by_process = !discovery.settings.process_names.is_empty();
        for entry in self.entries.values_mut() {
            let address = &*entry.config.identity.address;
            let mut same = found.iter().filter(|candidate| candidate.address == address);
            // One that is listed but does not answer, such as a hung one, is not gone. A file that names it proves
            // less, where processes are looked at.
            let there = same.any(|c| c.left.is_none() || c.lives || !by_process);
            entry.config.probe.vanished = !there;
            if there {
                entry.seen = now;
            }
        }
        for candidate in found.iter().filter(|candidate| candidate.left.is_none()) {
            self.take(discovery, candidate, now);
        }
        self.entries
            .retain(|_, entry| now.duration_since(entry.seen) < discovery.forget_after);
        self.configs() != before
    }

    fn take(&mut self, discovery: &DiscoveryConfig, candidate: &Candidate, now: Instant) {
        let config = match discovery.instance(&candidate.address) {
            Ok(config) => config,
            Err(why) => {
                tracing::warn!(address = candidate.address, "discovered, but not probed: {why}");
                return;
            }
        };
        let id = config.identity.id.clone();
        let other = self
            .entries
            .get(&id)
            .filter(|e| e.config.identity.address != config.identity.address);
        if other.is_some() {
            tracing::warn!(
                instance = %id, address = candidate.address,
                "discovered, but another server has this id already; name one under [[instances]]"
            );
            return;
        }
        if self.entries.len() >= AGENT_INSTANCES_MAX && !self.entries.contains_key(&id) {
            tracing::warn!(instance = %id, "discovered, but {AGENT_INSTANCES_MAX} instances are watched already");
            return;
        }
        if self
            .entries
            .insert(id.clone(), Entry { config, seen: now })
            .is_none()
        {
            tracing::info!(instance = %id, by = candidate.source, "discovered");
        }
    }

    /// Probes what is known in the way that a new configuration says.
    pub fn configure(&mut self, discovery: &DiscoveryConfig) {
        for entry in self.entries.values_mut() {
            if let Ok(mut config) = discovery.instance(&entry.config.identity.address) {
                config.probe.vanished = entry.config.probe.vanished;
                entry.config = config;
            }
        }
    }

    fn configs(&self) -> Vec<InstanceConfig> {
        self.entries.values().map(|entry| entry.config.clone()).collect()
    }

    /// How to probe each, but not those whose id is among `taken`.
    pub fn instances(&self, taken: &BTreeSet<InstanceId>) -> impl Iterator<Item = &InstanceConfig> {
        let rest = self.entries.iter().filter(|(id, _)| !taken.contains(*id));
        rest.map(|(_, entry)| &entry.config)
    }

    /// Reads what a former agent had discovered, as if it had been seen now. A file that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn recall(&mut self, discovery: &DiscoveryConfig, file: &Path, now: Instant) -> io::Result<()> {
        let text = match fs::metadata(file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e),
            Ok(metadata) if metadata.len() > MEMORY_BYTES_MAX => {
                return Err(io::Error::other("is too large to be what an agent wrote"));
            }
            Ok(_) => fs::read_to_string(file)?,
        };
        let memory: Memory = serde_json::from_str(&text)?;
        for address in memory.discovered.into_iter().take(AGENT_INSTANCES_MAX) {
            if let Ok(config) = discovery.instance(&address) {
                let id = config.identity.id.clone();
                self.entries.insert(id, Entry { config, seen: now });
            }
        }
        Ok(())
    }

    /// What [`recall`](Self::recall) reads.
    pub fn memory(&self) -> String {
        let addresses = self
            .entries
            .values()
            .map(|entry| entry.config.identity.address.to_string());
        let memory = Memory {
            discovered: addresses.collect(),
        };
        serde_json::to_string(&memory).unwrap_or_default()
    }
}

/// Writes the memory so that it is whole at any time.
///
/// # Errors
/// When the folder is missing or may not be written to.
pub fn write(file: &Path, memory: &str) -> io::Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, memory)?;
    fs::rename(new, file)
}
