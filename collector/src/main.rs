//! `redkeeper-collector`: holds the view of the fleet, answers tools, and publishes to ZooKeeper when elected.

use std::process::ExitCode;

use clap::Parser;
use redkeeper_collector::{app, cli::Cli, config};
use redkeeper_runtime::{config::environment, daemon};

fn main() -> ExitCode {
    let cli = Cli::parse();
    daemon::main(config::load(&cli, environment()), cli.check_config, app::run)
}
