//! `redkeeper-agent discover`: what discovery finds, and why.

use std::{process::ExitCode, time::Instant};

use redkeeper_runtime::{config::ConfigError, exit};

use crate::{
    config::Config,
    discovery::{self, Known, PROCESS_NAMES, Settings},
    roster::Roster,
};

/// Looks once and prints.
pub fn main(loaded: Result<Config, ConfigError>, explain: bool) -> ExitCode {
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
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
            eprintln!("error: cannot start: {e}");
            return exit::failure();
        }
    };
    let Some(found) = runtime.block_on(discovery::find(discovery.settings.clone(), known, target)) else {
        eprintln!("error: the search failed");
        return exit::failure();
    };
    if explain {
        // The ids that an agent gives which finds the same.
        let mut roster = Roster::default();
        let taken = config
            .instances
            .iter()
            .map(|one| one.identity.id.clone())
            .collect();
        roster.update(&discovery, &found, &taken, Instant::now());
        let ids = roster
            .ids()
            .into_iter()
            .map(|(address, id)| (address, id.to_string()));
        print!("{}", discovery::explain(&found, &ids.collect()));
    } else {
        found
            .iter()
            .filter(|c| c.left.is_none())
            .for_each(|c| println!("{}", c.address));
    }
    exit::OK
}

/// Where servers of the distributions stand, where nothing is configured.
fn everywhere() -> Settings {
    let files = ["/etc/redis/*.conf", "/etc/redis/**/*.conf", "/etc/valkey/*.conf"];
    Settings {
        config_files: files.map(str::to_owned).to_vec(),
        process_names: PROCESS_NAMES.map(str::to_owned).to_vec(),
        ignore: Vec::new(),
    }
}
