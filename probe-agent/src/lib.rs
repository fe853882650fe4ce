//! The agent probes local instances and decides nothing about the fleet. Data flows one way:
//!
//! ```text
//! probe::worker (with redis, host) -> instances -> report -> collectors
//!      ^
//! probe (supervisor of the workers) <- reload <- config, discovery
//! ```
//!
//! * [`config`], [`cli`]: what to probe and which collectors to report to; [`app`] binds, builds, starts, stops.
//! * `check_config`: the warnings of `--check-config`, from the configuration and a discovery scan.
//! * [`probe`]: one task for each instance, which runs `core::probe`, and the supervisor of these tasks.
//! * [`redis`]: one connection to a server, I/O only.
//! * [`host`]: processes, sockets and limits of this machine.
//! * [`instances`]: the table of verdicts, from which all messages are composed.
//! * [`report`]: one task for each collector, which runs `core::outbox`.
//! * [`discovery`]: finds instances; [`reload`]: applies what it finds, and the configuration on SIGHUP.
//! * [`debug`]: its own pages below `/debug/`.
//! * [`commands`]: `probe`, `discover`, `acl` and `debug`.
//! * [`metrics`]: what `/metrics` shows.

pub use redkeeper_runtime::blocking;

pub mod app;
mod check_config;
pub mod cli;
pub mod commands;
pub mod config;
pub mod debug;
pub mod discovery;
pub mod host;
pub mod instances;
pub mod metrics;
pub mod probe;
pub mod redis;
pub mod reload;
pub mod report;
#[cfg(feature = "test-hooks")]
pub mod test_hooks;
#[cfg(test)]
mod tests_log;
