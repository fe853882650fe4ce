//! Probing: one task for each instance, which drives `core::probe` ([`worker`]), and the task that owns all of them and
//! replaces one that failed ([`supervisor`]). One [`timer`] wakes all workers. Verdicts go to the table of instances.

mod certificate;
mod progress_page;
pub mod supervisor;
pub mod timer;
pub mod worker;
mod worker_connection;

pub use progress_page::progress_page;
