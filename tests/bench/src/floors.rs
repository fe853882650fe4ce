//! Floors: the same thing done as directly as it can be. Each runs as a process of its own, `bench floor-NAME`.

use std::{path::Path, process::ExitCode};

use redkeeper_tests::{
    Sandbox,
    ports::{Port, port},
    process::Process,
};

use crate::rig::{listens, runtime};

mod chain;
mod daemon;
mod services;

/// Starts a floor's process; its end is the caller's to make.
pub(crate) fn start(sandbox: &Sandbox, name: &str, rest: &[String]) -> Process {
    start_with_log(sandbox, name, rest, &format!("floor-{name}.log"))
}

/// The floors of the gRPC scenarios, once they listen, and where.
pub(crate) async fn services(sandbox: &Sandbox) -> (Process, Port, String) {
    let port = port();
    let address = format!("127.0.0.1:{}", port.number);
    let process = start(sandbox, "services", std::slice::from_ref(&address));
    listens(port.number).await;
    (process, port, address)
}

/// The same, where what it prints goes to a file of this name.
pub(crate) fn start_with_log(sandbox: &Sandbox, name: &str, rest: &[String], log: &str) -> Process {
    let mut command = sandbox.command("bench");
    command.arg(format!("floor-{name}")).args(rest);
    Process::start(command, &sandbox.path(log))
}

/// Runs a floor's process.
pub(crate) fn main(name: &str, rest: &[String]) -> ExitCode {
    let words: Vec<_> = rest.iter().map(String::as_str).collect();
    let ran = runtime().and_then(|runtime| {
        runtime.block_on(async {
            match (name, words.as_slice()) {
                ("agent", [collector, instances @ ..]) => chain::agent(collector, instances).await,
                ("collector", [listen, zookeeper, bytes]) => chain::collector(listen, zookeeper, bytes).await,
                ("services", [listen]) => services::serve(listen).await,
                ("daemon", [zookeeper, statuses, bytes]) => daemon::run(zookeeper, statuses, bytes).await,
                ("fleet", [collector, agents, instances, every]) => {
                    crate::fleet::report_for_ever(collector, agents, instances, every).await
                }
                _ => Err(format!("there is no floor {name:?} with {rest:?}")),
            }
        })
    });
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let own = std::env::args().next().unwrap_or_default();
            eprintln!("{}: {error}", Path::new(&own).display());
            ExitCode::from(2)
        }
    }
}
