//! The decision logic of redkeeper, without any I/O.
//!
//! No module here reads a clock, draws a random number or does I/O; Cargo enforces it (no runtime among the
//! dependencies) and this crate's `clippy.toml` bans the routes through `std`. A shell drives each core, always through
//! these two methods:
//!
//! ```text
//! fn step(&mut self, now: Mono, input: Input, out: &mut Vec<Effect>)
//! fn next_deadline(&self) -> Option<Mono>
//! ```
//!
//! The shell waits for an input or for the deadline, calls `step`, and carries out the effects in order.
//!
//! * [`probe`]: the verdict on one instance; [`redis`]: what a server's answers mean.
//! * [`outbox`]: what an agent sends to one collector next.
//! * [`fleet`]: what a collector knows of all instances: order of messages, time-outs, take-over, conflicts.
//! * [`election`]: who may write to ZooKeeper.
//! * [`peer_link`]: what the link to another collector proves of it.
//! * [`relay_plan`]: which agents are asked of which other collector.
//! * [`publish`]: what to write, in which batches.
//! * [`status`], [`ids`], [`id_map`], [`time`], [`limits`], [`backoff`], [`hosts`]: the types and bounds that they
//!   share.

//!
//! # The crates of redkeeper
//!
//! | crate | what it is | depends on |
//! |---|---|---|
//! | `redkeeper_core` | decisions, no I/O | nothing of redkeeper |
//! | `redkeeper_proto` | the wire: generated messages, conversion to the core's types, texts of gRPC errors | core |
//! | `redkeeper_runtime` | what both daemons share: configuration, supervisor, admin pages, listeners, log, clock | core |
//! | `redkeeper_collector` | the collector: shells around `fleet`, `election` and `publish` | core, proto, runtime |
//! | `redkeeper_agent` | the agent: shells around `probe` and `outbox` | core, proto, runtime |
//! | `redkeeper` (folder `ctl`) | the command for operators | core, proto |
//! | `redkeeper_tests` | end-to-end tests, simulation and their harness; `tests/bench` measures | all |
//!
//! A folder of the core and the folder of the same name in a daemon belong together: the core decides, the daemon does
//! the I/O. `ARCHITECTURE.md` has the picture, `docs/glossary.md` the terms.

pub mod backoff;
pub mod election;
pub mod fleet;
pub mod hand_over;
pub mod hosts;
pub mod id_map;
pub mod ids;
pub mod limits;
pub mod outbox;
pub mod peer_link;
pub mod probe;
pub mod publish;
pub mod redis;
pub mod relay_plan;
pub mod status;
pub mod time;
