//! The discovered instances, and when each was last found. An instance that is no longer found is kept, as DOWN, until
//! `forget_after` has passed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::Path,
    time::Instant,
};

use redkeeper_core::{ids::InstanceId, limits::AGENT_INSTANCES_MAX};

use crate::{
    config::{DiscoveryConfig, InstanceConfig},
    discovery::{Candidate, Rejection, state_file},
};

/// The discovered instances.
#[derive(Default)]
pub struct DiscoveredInstances {
    entries: BTreeMap<InstanceId, Entry>,
}

#[derive(Clone)]
struct Entry {
    config: InstanceConfig,
    seen: Instant,
}

impl DiscoveredInstances {
    /// Applies the result of a scan; `taken` holds the ids of configured instances. Returns whether something changed.
    pub fn update(
        &mut self,
        discovery: &DiscoveryConfig,
        found: &[Candidate],
        taken: &BTreeSet<InstanceId>,
        now: Instant,
    ) -> bool {
        let before = self.configs();
        let by_process = !discovery.settings.process_names.is_empty();
        let mut by_address: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
        for candidate in found {
            by_address.entry(&candidate.address).or_default().push(candidate);
        }
        self.entries.retain(|id, entry| {
            let address = &*entry.config.identity.address;
            // The id was configured for another server since: this instance is registered anew, with a longer id.
            if taken.contains(id) {
                return false;
            }
            let same = by_address.get(address).map_or(&[][..], Vec::as_slice);
            // Its server is monitored under another address, so it would be listed twice; or it should not be
            // monitored.
            let elsewhere = |c: &&Candidate| {
                matches!(
                    c.rejection,
                    Some(Rejection::Configured(_) | Rejection::Same(_) | Rejection::Unwanted(_))
                )
            };
            if same.iter().any(elsewhere) {
                return false;
            }
            // A candidate that is found but does not answer, such as a hung server, has not vanished. If processes are
            // inspected, being named in a file alone does not count.
            let there = same
                .iter()
                .any(|c| c.rejection.is_none() || c.process_alive || !by_process);
            entry.config.probe.vanished = !there;
            if there {
                entry.seen = now;
            }
            now.duration_since(entry.seen) < discovery.forget_after
        });
        let told = found.iter().filter(|candidate| candidate.identified);
        let told: BTreeSet<&str> = told.map(|candidate| candidate.address.as_str()).collect();
        let mut ids: BTreeMap<String, InstanceId> = self.ids();
        for candidate in found.iter().filter(|candidate| candidate.rejection.is_none()) {
            if !ids.contains_key(&candidate.address)
                && let Some(id) = self.register(discovery, candidate, (taken, &told), now)
            {
                ids.insert(candidate.address.clone(), id);
            }
        }
        self.configs() != before
    }

    /// Ids of all discovered instances, by address.
    pub fn ids(&self) -> BTreeMap<String, InstanceId> {
        let one =
            |(id, entry): (&InstanceId, &Entry)| (entry.config.identity.address.to_string(), id.clone());
        self.entries.iter().map(one).collect()
    }

    fn register(
        &mut self,
        discovery: &DiscoveryConfig,
        candidate: &Candidate,
        (taken, told): (&BTreeSet<InstanceId>, &BTreeSet<&str>),
        now: Instant,
    ) -> Option<InstanceId> {
        let address = &candidate.address;
        let is_free = |config: &InstanceConfig| {
            let id = &config.identity.id;
            !self.entries.contains_key(id) && !taken.contains(id)
        };
        let short = match discovery.instance(address) {
            Ok(config) => Some(config),
            Err(why) => {
                tracing::warn!(address, "discovered, but not probed: {why}");
                return None;
            }
        };
        // Another instance has the short id. Both must prove in this scan that they are different servers.
        let is_other = |config: &InstanceConfig| {
            let holder = self.entries.get(&config.identity.id);
            candidate.identified
                && holder.is_none_or(|holder| told.contains(&*holder.config.identity.address))
        };
        let proved = short.as_ref().is_some_and(is_other);
        let long = || {
            let config = discovery.instance_as(address, &discovery.long_id(address));
            config.ok().filter(|_| proved)
        };
        let Some(config) = short.filter(is_free).or_else(|| long().filter(is_free)) else {
            tracing::warn!(
                address,
                "discovered, but another instance has its id already; name one under [[instances]]"
            );
            return None;
        };
        let id = config.identity.id.clone();
        if self.entries.len() >= AGENT_INSTANCES_MAX {
            tracing::warn!(instance = %id, "discovered, but {AGENT_INSTANCES_MAX} instances are watched already");
            return None;
        }
        tracing::info!(instance = %id, address, by = candidate.source, "discovered");
        self.entries.insert(id.clone(), Entry { config, seen: now });
        Some(id)
    }

    /// Applies a new configuration to the known instances.
    pub fn configure(&mut self, discovery: &DiscoveryConfig) {
        for (id, entry) in &mut self.entries {
            if let Ok(mut config) = discovery.instance_as(&entry.config.identity.address, id.as_str()) {
                config.probe.vanished = entry.config.probe.vanished;
                entry.config = config;
            }
        }
    }

    fn configs(&self) -> Vec<InstanceConfig> {
        self.entries.values().map(|entry| entry.config.clone()).collect()
    }

    /// Returns the configuration of each, except those whose id or address is also that of one in `configured`.
    pub fn instances(&self, configured: &[InstanceConfig]) -> Vec<InstanceConfig> {
        let ids: BTreeSet<_> = configured.iter().map(|one| &one.identity.id).collect();
        let addresses: BTreeSet<_> = configured.iter().map(|one| &one.identity.address).collect();
        let rest = self
            .entries
            .iter()
            .filter(|(id, entry)| !ids.contains(id) && !addresses.contains(&entry.config.identity.address));
        rest.map(|(_, entry)| entry.config.clone()).collect()
    }

    /// Loads what a previous run of the agent had discovered, as if found now. A missing file counts as empty.
    ///
    /// # Errors
    /// When the file cannot be read, or is damaged.
    pub fn load(&mut self, discovery: &DiscoveryConfig, file: &Path, now: Instant) -> io::Result<()> {
        for one in state_file::read(file)?.into_iter().take(AGENT_INSTANCES_MAX) {
            if let Ok(config) = discovery.instance_as(&one.address, &one.id) {
                let id = config.identity.id.clone();
                self.entries.insert(id, Entry { config, seen: now });
            }
        }
        Ok(())
    }

    /// True if nothing was discovered or loaded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Serializes the instances in the format that [`load`](Self::load) reads.
    pub fn serialize(&self) -> String {
        state_file::serialize(self.ids())
    }
}

#[cfg(test)]
mod tests;
