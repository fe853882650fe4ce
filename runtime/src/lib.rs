//! What both daemons share. Knows neither the fleet nor the wire.
//!
//! * [`supervise`]: every task has a name and an owner, and its exit or panic is seen.
//! * [`admin`]: `/livez`, `/readyz`, `/metrics`, `/debug/tasks` on a thread of their own.
//! * [`stuck`]: when a blocked main runtime ends the process.
//! * [`config`]: file < environment < flags, unknown keys refused, all mistakes at once, with their place.
//! * [`memory`]: the allocator, and what it holds.
//! * [`log_limit`]: how many lines of a kind are logged.
//! * [`net`]: listeners with limits, a pause after errors, and metrics.
//! * [`daemon`]: what starting and stopping is for both.
//! * [`say`]: what commands print.
//! * [`telemetry`], [`signals`], [`clock`], [`errors`], [`exit`]: logs, shutdown requests, time, error
//!   texts, exit codes.

pub mod admin;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod errors;
pub mod exit;
mod exposition;
pub mod log_limit;
pub mod memory;
pub mod net;
pub mod say;
pub mod signals;
pub mod stuck;
pub mod supervise;
pub mod telemetry;
