//! Floors: the same thing done as directly as it can be. Each runs as a process of its own, `bench floor-NAME`.

use std::process::ExitCode;

/// Runs a floor's process.
pub(crate) fn main(name: &str, _rest: &[String]) -> ExitCode {
    eprintln!("error: there is no floor {name:?}");
    ExitCode::from(2)
}
