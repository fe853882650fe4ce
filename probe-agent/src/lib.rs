//! The agent: probes local instances, decides nothing about the fleet. Data flows one way:
//!
//! ```text
//! probe::worker (with redis, host) -> instances -> report -> collectors
//!      ^
//! probe (supervisor of the workers) <- reload <- config, discovery
//! ```
//!
//! * [`config`], [`cli`]: what to probe and whom to tell; [`app`] binds, builds, starts, stops.
//! * `check_config`: what `--check-config` warns of, from the configuration and a look of discovery.
//! * [`probe`]: one task for each instance, around `core::probe`, and their supervisor.
//! * [`redis`]: one connection to a server, I/O only.
//! * [`host`]: processes, sockets and limits of this machine.
//! * [`instances`]: the table of verdicts; the source of everything that is sent.
//! * [`report`]: one task for each collector, around `core::outbox`.
//! * [`discovery`]: looks for instances; [`reload`]: takes what it finds, and the configuration on SIGHUP.
//! * [`commands`]: `probe`, `discover` and `acl`.
//! * [`metrics`]: what `/metrics` shows.

pub use redkeeper_runtime::blocking;

pub mod app;
mod check_config;
pub mod cli;
pub mod commands;
pub mod config;
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
