//! Exit codes of the daemons.

use std::process::ExitCode;

/// The daemon stopped as requested.
pub const OK: ExitCode = ExitCode::SUCCESS;
/// Something failed; the last lines of the log say what.
pub fn failure() -> ExitCode {
    ExitCode::from(1)
}
/// The configuration is wrong (`EX_CONFIG`).
pub fn config() -> ExitCode {
    ExitCode::from(78)
}
