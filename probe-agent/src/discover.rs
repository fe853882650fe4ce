//! `redkeeper-agent discover`: what discovery finds, and why.

use std::{collections::BTreeMap, process::ExitCode};

use redkeeper_runtime::{config::ConfigError, exit};

use crate::{
    config::Config,
    discovery::{self, Known, PROCESS_NAMES, Settings},
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
    let settings = config
        .discovery
        .as_ref()
        .map_or_else(everywhere, |discovery| discovery.settings.clone());
    let addresses = config.instances.iter().map(|i| i.identity.address.to_string());
    let known = Known {
        addresses: addresses.collect(),
        run_ids: BTreeMap::new(),
    };
    let target = |address: &str| config.target(address);
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("error: cannot start: {e}");
            return exit::failure();
        }
    };
    let Some(found) = runtime.block_on(discovery::find(settings, &known, target)) else {
        eprintln!("error: the search failed");
        return exit::failure();
    };
    if explain {
        print!("{}", discovery::explain(&found));
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
    }
}
