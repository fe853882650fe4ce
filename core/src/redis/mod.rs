//! What servers say and what it means: [`resp`] finds the end of an answer, [`reply`] says what it means, [`info`] reads INFO,
//! [`restrictions`] says what a server refuses to do, [`server_conf`] reads a server's own configuration file.

#[cfg(test)]
mod flavours;
pub mod info;
pub mod reply;
pub mod resp;
pub mod restrictions;
pub mod server_conf;
