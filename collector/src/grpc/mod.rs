//! The gRPC server: [`server`] binds and serves, [`agent`] takes agents' streams, [`status`] answers tools, [`peer`] is for
//! the other collectors, [`incoming`] accepts connections, [`errors`] is the one place where failures become gRPC codes.
//!
//! Handlers read the view and send commands; they never touch ZooKeeper.

pub mod agent;
pub mod errors;
pub mod incoming;
pub mod peer;
mod responses;
pub mod server;
pub mod status;
