//! The collector. Data flows one way:
//!
//! ```text
//! grpc::ingest -> (commands) -> aggregator -> (view) -> publisher -> store
//!                                              |           ^
//!                                              v           | leadership
//!                                   grpc::status_service  coordinator
//! ```
//!
//! * [`config`], [`cli`], [`app`]: what to run, and how it starts and stops.
//! * [`aggregator`]: owns the fleet state, and tells streams by [`feedback`], while heartbeats wait in [`beats`]; [`view`]: the immutable picture that everybody reads, with its [`counts`].
//! * [`peers`]: asks the other collectors; [`warnings`]: what is wrong with the cluster, for all who tell it.
//! * [`grpc`]: streams from agents, queries from tools.
//! * [`coordinator`]: session and election, with `candidacy` for its requests and [`directory`] for what it tells; [`publisher`]: the leader's writing, with `published`
//!   for what it reads and `commits` for what it sends; [`layout`], [`znode`]: where
//!   and what; [`store`]: ZooKeeper behind a small trait.

pub mod aggregator;
pub mod app;
pub mod beats;
mod candidacy;
pub mod cli;
mod commits;
pub mod config;
pub mod coordinator;
pub mod counts;
pub mod directory;
pub mod feedback;
pub mod grpc;
pub mod layout;
pub mod metrics;
pub mod peers;
mod published;
pub mod publisher;
pub mod store;
pub mod view;
pub mod warnings;
pub mod znode;
