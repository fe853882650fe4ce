//! What this collector knows of the fleet.
//!
//! [`aggregator`] is the one task that owns the state (`core::fleet`) and changes it. Agents' streams and the leader's
//! session loop send it commands and [`heartbeats`]. It reports to each stream by [`stream_status`] what is applied, and
//! publishes an immutable [`view`] with [`counts`] and a [`change_log`] that everybody reads; each reader that follows
//! the changes holds a [`change_cursor`]; [`conflicts`] remembers who else claims an instance; [`open_streams`] has the
//! streams of agents, and [`relay_tap`] passes what comes on them to another collector. Nothing here talks to the network
//! or to ZooKeeper.

pub mod aggregator;
pub mod change_cursor;
pub mod change_log;
pub mod command;
pub mod conflicts;
pub mod counts;
pub mod heartbeats;
pub mod open_streams;
pub mod relay_tap;
pub mod stream_status;
mod transition_log;
mod update_view;
pub mod view;

#[cfg(test)]
mod tests;
