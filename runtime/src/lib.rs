//! The library that both daemons share. It knows neither the fleet nor the protocol.
//!
//! * [`supervise`]: every task has a name and an owner, and its exit or panic is seen.
//! * [`admin`]: `/livez`, `/readyz`, `/metrics` and the pages below `/debug/`, on a thread of their own.
//! * [`blocked_runtime`]: decides when a blocked main runtime ends the process.
//! * [`config`]: file < environment < flags, unknown keys refused, all mistakes at once, with their position.
//! * [`memory`]: the allocator and its statistics.
//! * [`log_limit`]: limits the number of log lines of one kind.
//! * [`net`]: listeners with limits, a pause after errors, and metrics.
//! * [`profile`]: profiles of memory and CPU.
//! * [`daemon`]: start and stop of a daemon.
//! * [`debug_client`]: the command that asks a daemon for its debug pages.
//! * [`terminal`]: output of commands.
//! * [`log_filter`]: the log filter, which can be changed for a time.
//! * [`log_tail`]: the last log lines.
//! * [`telemetry`], [`signals`], [`clock`], [`errors`], [`exit`]: logs, shutdown requests, time, error
//!   texts, exit codes.

pub mod admin;
pub mod blocked_runtime;
pub mod blocking;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod debug_client;
pub mod errors;
pub mod exit;
mod exposition;
pub mod log_filter;
pub mod log_limit;
pub mod log_tail;
pub mod memory;
pub mod net;
pub mod profile;
pub mod signals;
pub mod supervise;
pub mod telemetry;
pub mod terminal;
