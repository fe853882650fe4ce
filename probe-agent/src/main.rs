//! `redkeeper-agent`: probes the local Redis instances and reports to the collectors.

use std::process::ExitCode;

use clap::Parser;
use redkeeper_agent::{app, cli::Cli, config};
use redkeeper_runtime::{config::environment, daemon};

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::main(config::load(&cli, environment()), cli.check_config, app::run)
}
