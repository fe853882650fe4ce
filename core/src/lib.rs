//! The decisions of redkeeper, and nothing else.
//!
//! No module here reads a clock, draws a random number or does I/O; Cargo enforces it (no runtime among
//! the dependencies) and this crate's `clippy.toml` bans the routes through `std`. The shells that drive
//! the cores all have one shape:
//!
//! ```text
//! fn step(&mut self, now: Mono, input: Input, out: &mut Vec<Effect>)
//! fn next_deadline(&self) -> Option<Mono>
//! ```
//!
//! wait for an input or for the deadline, call `step`, carry out the effects in order.
//!
//! * [`agent`]: one instance's prober, reply classification, schedule, outbox.
//! * [`fleet`]: what a collector knows of all instances, with [`dedupe`] and time-outs.
//! * [`election`]: who may write to ZooKeeper.
//! * [`hearing`]: which agents the leader does not hear.
//! * [`publish`]: what to write, in which batches.
//! * [`status`], [`ids`], [`id_map`], [`time`], [`limits`], [`backoff`], [`hosts`]: the words that they share.

pub mod agent;
pub mod backoff;
pub mod dedupe;
pub mod election;
pub mod fleet;
pub mod hearing;
pub mod hosts;
pub mod id_map;
pub mod ids;
pub mod lease;
pub mod limits;
pub mod publish;
pub mod run_id;
pub mod status;
pub mod time;
