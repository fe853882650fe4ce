//! Reads what servers say and decides what it means: [`resp`] finds the end of an answer, [`reply`] gives its meaning,
//! [`info`] reads INFO, [`restrictions`] finds what a server refuses, [`server_conf`] reads a server's own
//! configuration file.

#[cfg(test)]
mod flavours;
pub mod info;
pub mod reply;
pub mod resp;
pub mod restrictions;
pub mod server_conf;
