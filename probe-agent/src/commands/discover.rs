//! `redkeeper-agent discover`: prints what discovery finds, and why.

use std::{collections::BTreeMap, process::ExitCode, time::Instant};

use redkeeper_runtime::{config::ConfigError, exit, terminal};

use crate::{
    config::{Config, DiscoverySettings, PROCESS_NAMES},
    discovery::{self, Candidate, Known, registry::DiscoveredInstances},
};

/// Runs one discovery scan and prints the result.
pub fn main(loaded: Result<Config, ConfigError>, explain: bool) -> ExitCode {
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            terminal::problem(&error.to_string());
            return exit::config();
        }
    };
    let discovery = config.discovery_or(everywhere());
    let known = config.instances.iter().map(|instance| Known::new(instance, ""));
    let known = known.collect();
    let target = |address: &str| discovery.instance(address).map(|config| config.target);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            terminal::problem(&format!("error: cannot start: {e}"));
            return exit::failure();
        }
    };
    let Some(found) = runtime.block_on(discovery::find(discovery.settings.clone(), known, target)) else {
        terminal::problem("error: the search failed");
        return exit::failure();
    };
    if explain {
        // The ids that a running agent would assign to the same candidates.
        let mut discovered = DiscoveredInstances::default();
        let taken = config
            .instances
            .iter()
            .map(|one| one.identity.id.clone())
            .collect();
        discovered.update(&discovery, &found, &taken, Instant::now());
        let ids = discovered
            .ids()
            .into_iter()
            .map(|(address, id)| (address, id.to_string()));
        terminal::answer(&table(&found, &ids.collect()))
    } else {
        let taken = found.iter().filter(|candidate| candidate.rejection.is_none());
        let text: String = taken
            .map(|candidate| format!("{}\n", candidate.address))
            .collect();
        terminal::answer(&text)
    }
}

/// Discovery settings where nothing is configured: the usual places of the distributions' packages.
fn everywhere() -> DiscoverySettings {
    let files = ["/etc/redis/*.conf", "/etc/redis/**/*.conf", "/etc/valkey/*.conf"];
    DiscoverySettings {
        config_files: files.map(str::to_owned).to_vec(),
        process_names: PROCESS_NAMES.map(str::to_owned).to_vec(),
        ignore: Vec::new(),
    }
}

/// Formats the table of `discover --explain`. `ids` holds the ids of accepted candidates, by address.
fn table(found: &[Candidate], ids: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "{:<24} {:<6} {:<24} {:<44} {}\n",
        "ADDRESS", "TAKEN", "INSTANCE", "FOUND BY", "WHY NOT"
    );
    for candidate in found {
        let address = match candidate.address.as_str() {
            "" => "-",
            address => address,
        };
        let id = ids.get(address).filter(|_| candidate.rejection.is_none());
        let (taken, id, why) = match (&candidate.rejection, id) {
            (None, Some(id)) => ("yes", id.as_str(), String::new()),
            (None, None) => (
                "no",
                "-",
                "no instance can have this address; the log says why".to_owned(),
            ),
            (Some(left), _) => ("no", "-", left.to_string()),
        };
        let line = format!("{address:<24} {taken:<6} {id:<24} {:<44} {why}", candidate.source);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
