//! The collector. Data flows one way:
//!
//! ```text
//! grpc::agent -> (commands) -> fleet::aggregator -> (view) -> publish -> store
//!                                                     |         ^
//!                                                     v         | leadership
//!                                               grpc::status   leader
//! ```
//!
//! * [`config`], [`cli`], [`app`]: what to run, and how it starts; [`components`]: how the parts are joined.
//! * [`fleet`]: what is known of all instances; [`grpc`]: agents' streams and tools' queries.
//! * [`leader`]: the ZooKeeper session and the election; [`publish`]: what the leader writes; [`store`]: ZooKeeper
//!   behind a small trait, with the paths and records in it.
//! * [`peers`]: polls the other collectors, and derives what is wrong with the cluster.
//! * `http`: readiness and the human-readable page; [`metrics`]: what `/metrics` shows.
//! * `shutdown`: the steps of stopping.

pub mod app;
pub mod cli;
pub mod components;
pub mod config;
pub mod fleet;
pub mod grpc;
mod http;
pub mod leader;
pub mod metrics;
pub mod peers;
pub mod publish;
mod shutdown;
pub mod store;
