//! What this collector knows of the fleet.
//!
//! [`aggregator`] is the one task that owns the state (`core::fleet`) and changes it. Agents' streams and the leader's
//! session loop send it commands and [`heartbeats`]; it tells a stream by [`progress`] what is applied, and publishes an
//! immutable [`view`] with [`counts`] that everybody reads. Nothing here talks to the network or to ZooKeeper.

pub mod aggregator;
pub mod counts;
pub mod heartbeats;
pub mod progress;
pub mod view;
