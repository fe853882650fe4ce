//! Probing: one task for each instance, which drives `core::probe` ([`worker`]) through a [`shell`] of connections, and
//! the task that owns all of them and replaces one that failed ([`supervisor`]). One [`timer`] wakes all workers.
//! Verdicts go to the table of instances.

mod certificate;
mod connection;
mod server_process;
pub mod shell;
pub mod supervisor;
pub mod timer;
pub mod worker;
