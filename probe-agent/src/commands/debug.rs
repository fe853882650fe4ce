//! `redkeeper-agent debug`: asks the running agent for its debug pages.

use std::{process::ExitCode, time::Duration};

use redkeeper_runtime::{
    config::ConfigError,
    debug_client::{self, DebugCommand},
    exit, terminal,
};

use crate::config::Config;

/// The default `admin_listen`, for when the configuration cannot be read.
const DEFAULT_ADDRESS: &str = "127.0.0.1:7420";
/// How long an answer may take, unless the request needs longer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Asks the agent at the address that the command names, or else the one that the configuration names.
pub fn main(command: &DebugCommand, config: Result<Config, ConfigError>) -> ExitCode {
    let address = config.map_or_else(
        |_| DEFAULT_ADDRESS.to_owned(),
        |config| config.admin_listen.to_string(),
    );
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.to_string()),
    };
    let done = runtime.block_on(debug_client::run(command, &address, TIMEOUT, false));
    // Does not wait for a name look-up that hangs in the system's resolver.
    runtime.shutdown_background();
    match done {
        Ok(text) => terminal::answer(&text),
        Err(e) => failed(&e.to_string()),
    }
}

fn failed(why: &str) -> ExitCode {
    terminal::problem(&format!("error: {why}"));
    exit::failure()
}
