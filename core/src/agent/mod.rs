//! The agent's decisions: [`prober`] judges one instance, [`reply`] says what an answer means, [`resp`]
//! finds the end of an answer, [`info`] reads INFO, [`schedule`] shares wake-ups, [`outbox`] decides what
//! goes to one collector next, [`watchdog`] tells which worker has stopped.

#[cfg(test)]
mod flavours;
pub mod health;
pub mod info;
pub mod outbox;
pub mod prober;
pub mod reply;
pub mod resp;
pub mod schedule;
pub mod server_conf;
pub mod watchdog;
