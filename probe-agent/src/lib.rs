//! The agent: probes local instances, decides nothing about the fleet.
//!
//! * [`config`], [`cli`]: what to probe and whom to tell.
//! * [`app`]: binds, builds, starts, stops.
//! * [`board`]: the table of verdicts; the source of everything that is sent.
//! * [`redis`]: one connection, I/O only, with [`tls`] where it is spoken. [`worker`]: one instance's task around `core::agent::prober`.
//! * [`alarm`]: the one timer of all workers.
//! * [`descriptors`]: how many of them connections to instances may use.
//! * [`process`]: the server's process as `/proc` shows it.
//! * [`owner`]: whose server listens somewhere, and whether it may have a password.
//! * [`overseer`]: owns the workers, replaces one that panicked or stopped.
//! * [`reload`] the configuration on SIGHUP, and [`roster`]: what was discovered.
//! * [`uplink`]: one task for each collector around `core::agent::outbox`.
//! * [`diagnose`], [`acl`], [`discover`]: the commands `probe`, `acl` and `discover`; [`discovery`] looks for instances.
//! * [`metrics`]: what `/metrics` shows.

pub use redkeeper_runtime::blocking;

pub mod acl;
pub mod alarm;
pub mod app;
pub mod board;
pub mod boot;
pub mod cli;
pub mod config;
pub mod descriptors;
pub mod diagnose;
pub mod discover;
pub mod discovery;
pub mod metrics;
pub mod overseer;
pub mod owner;
pub mod process;
pub mod redis;
pub mod reload;
pub mod roster;
#[cfg(feature = "test-hooks")]
pub mod test_hooks;
pub mod tls;
pub mod uplink;
pub mod worker;
