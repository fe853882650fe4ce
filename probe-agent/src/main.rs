//! `redkeeper-agent`: probes the local Redis instances and reports to the collectors.

use std::process::ExitCode;

use clap::Parser;
use redkeeper_agent::{app, cli::Cli, config};
use redkeeper_runtime::{config::environment, exit, telemetry};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let config = match config::load(&cli, environment()) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("{error}");
            return exit::config();
        }
    };
    if cli.check_config {
        println!(
            "configuration ok: agent {}, {} instance(s)",
            config.id,
            config.instances.len()
        );
        return exit::OK;
    }
    if let Err(error) = telemetry::init(&config.log.filter, config.log.format) {
        eprintln!("error: log.filter: {error}");
        return exit::config();
    }
    match app::run(config) {
        Ok(()) => exit::OK,
        Err(error) => {
            tracing::error!("{error}");
            exit::failure()
        }
    }
}
