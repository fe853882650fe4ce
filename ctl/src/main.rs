//! `redkeeper`: queries any collector. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 `cluster` reports a fault.

mod args;
mod client;
mod commands;
mod error;
mod identify_server;
mod output;
mod text;
mod unknown_values;

use std::process::ExitCode;

use clap::Parser;

use error::Error;

fn main() -> ExitCode {
    let args = args::Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&Error::Output(e)),
    };
    let done = runtime.block_on(commands::run(args));
    // Does not wait for a name look-up that hangs in the system's resolver.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of the output has closed it; that is not a failure.
        Err(Error::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Prints an error on one line, and a hint if there is one. All errors are printed here.
fn fail(error: &Error) -> ExitCode {
    output::complain(&format!("redkeeper: {error}"));
    if let Some(hint) = error.hint() {
        output::complain(&format!("hint: {hint}"));
    }
    ExitCode::from(match error {
        Error::Usage(_) => 2,
        Error::Faults(_) => 3,
        _ => 1,
    })
}
