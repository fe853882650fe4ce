//! `redkeeper-agent`: probes the local Redis instances and reports to the collectors.

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use redkeeper_agent::{
    acl, app,
    cli::{Cli, Command},
    config, diagnose, discover,
};
use redkeeper_runtime::{config::environment, daemon};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match &cli.command {
        Some(Command::Probe(probe)) => diagnose::main(probe),
        Some(Command::Acl { user }) => acl::main(user),
        Some(Command::Discover { explain }) => discover::main(config::load(&cli, environment()), *explain),
        None => {
            let (first, check_only) = (config::load(&cli, environment()), cli.check_config);
            let again = Arc::new(move || config::load(&cli, environment()));
            daemon::main(first, check_only, |config| app::run(config, again))
        }
    }
}
