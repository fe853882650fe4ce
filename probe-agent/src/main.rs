//! `redkeeper-agent`: probes the local Redis instances and reports to the collectors.

use std::{process::ExitCode, sync::Arc};

use clap::Parser;
use redkeeper_agent::{
    app,
    cli::{Cli, Command},
    commands::{acl, debug, discover, probe},
    config,
};
use redkeeper_runtime::{config::environment, daemon};

/// Reports wrong flags. The usual exit code 2 for wrong usage would mean DOWN for `redkeeper-agent probe`.
fn usage(error: &clap::Error) -> ExitCode {
    // If standard error is closed, nothing more can be done.
    drop(error.print());
    match error.exit_code() {
        0 => ExitCode::SUCCESS,
        _ if std::env::args_os().any(|word| word == "probe") => probe::USAGE.into(),
        _ => ExitCode::from(2),
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match &cli.command {
        Some(Command::Probe(args)) => probe::main(args),
        Some(Command::Debug(command)) => debug::main(command, config::load(&cli, environment())),
        Some(Command::Acl { user }) => acl::main(user),
        Some(Command::Discover { explain }) => discover::main(config::load(&cli, environment()), *explain),
        None => {
            let (first, check_only) = (config::load(&cli, environment()), cli.check_config);
            let again = Arc::new(move || config::load(&cli, environment()));
            daemon::main(first, check_only, |config| app::run(config, again))
        }
    }
}
