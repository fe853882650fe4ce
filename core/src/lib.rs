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
//! * [`probe`]: the judge of one instance; [`redis`]: what a server's answers mean.
//! * [`outbox`]: what an agent sends to one collector next.
//! * [`fleet`]: what a collector knows of all instances: order of messages, time-outs, take-over, conflicts.
//! * [`election`]: who may write to ZooKeeper.
//! * [`publish`]: what to write, in which batches.
//! * [`status`], [`ids`], [`id_map`], [`time`], [`limits`], [`backoff`], [`hosts`]: the words that they share.

pub mod backoff;
pub mod election;
pub mod fleet;
pub mod hosts;
pub mod id_map;
pub mod ids;
pub mod limits;
pub mod outbox;
pub mod probe;
pub mod publish;
pub mod redis;
pub mod status;
pub mod time;
