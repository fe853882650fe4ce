//! The gRPC server: [`server`] binds and serves, [`agent`] accepts agents' streams, [`status`] answers tools,
//! [`admin`] does what administrators ask for, [`peer_link`] the other collectors, [`incoming`] accepts connections, [`layers`] wraps every call, `health` reports
//! whether this collector serves and leads, and [`errors`] is the one place where failures become gRPC codes.
//!
//! Handlers read the view and send commands; they never touch ZooKeeper.

pub mod admin;
pub mod agent;
pub mod errors;
mod health;
pub mod incoming;
pub mod layers;
pub mod peer_link;
mod responses;
pub mod server;
pub mod status;

#[cfg(test)]
mod tests_links;
#[cfg(test)]
mod tests_relayed;
#[cfg(test)]
mod tests_server;
