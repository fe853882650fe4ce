//! Heartbeats on their way to the aggregator. Most messages are heartbeats, and waking the aggregator for each costs more
//! than what it does then; so they wait here for the next command, for the regular step, or until there are many. When
//! each came is kept, so that nothing is judged later than it was heard.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redkeeper_core::{fleet::Message, ids::Seq, time::Mono};
use tokio::sync::Notify;

/// A heartbeat of a stream, and when it came.
#[derive(Debug)]
pub struct Beat {
    /// The stream.
    pub stream: u64,
    /// The message's number.
    pub seq: Seq,
    /// What it says.
    pub message: Message,
    /// When it came.
    pub received: Mono,
}

/// Heartbeats that may wait: one of each of 2,000 agents, twice. More go the way of other messages, and wait there.
pub const BEATS_MAX: usize = 4_096;
/// So many wake the aggregator: an eighth of what it takes in one go.
const MANY: usize = 32;

/// Those that wait.
#[derive(Debug, Default)]
pub struct Beats {
    waiting: Mutex<Vec<Beat>>,
    many: Notify,
}

impl Beats {
    fn waiting(&self) -> MutexGuard<'_, Vec<Beat>> {
        // Nothing panics while it is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one; gives it back where too many wait.
    ///
    /// # Errors
    /// The heartbeat that found no room.
    pub fn push(&self, beat: Beat) -> Result<(), Box<Beat>> {
        let mut waiting = self.waiting();
        if waiting.len() >= BEATS_MAX {
            return Err(Box::new(beat));
        }
        waiting.push(beat);
        let many = waiting.len() == MANY;
        drop(waiting);
        if many {
            self.many.notify_one();
        }
        Ok(())
    }

    /// Gives all that wait, in the order in which they came; `into` is empty before.
    pub fn take(&self, into: &mut Vec<Beat>) {
        std::mem::swap(&mut *self.waiting(), into);
    }

    /// Ready when there are many.
    pub async fn many(&self) {
        self.many.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn beat(seq: u64) -> Beat {
        Beat {
            stream: 1,
            seq: Seq(seq),
            message: Message::Heartbeat(Vec::new(), Default::default()),
            received: Mono(seq),
        }
    }

    #[test]
    fn many_wake_and_too_many_are_given_back() {
        let beats = Beats::default();
        for seq in 1..MANY as u64 {
            assert!(beats.push(beat(seq)).is_ok());
        }
        assert!(beats.many().now_or_never().is_none());
        for seq in MANY as u64..=BEATS_MAX as u64 {
            assert!(beats.push(beat(seq)).is_ok());
        }
        assert!(beats.many().now_or_never().is_some());
        assert!(beats.push(beat(0)).is_err());
        let mut taken = Vec::new();
        beats.take(&mut taken);
        assert!(taken.iter().map(|beat| beat.seq.0).eq(1..=BEATS_MAX as u64));
        assert!(beats.push(beat(1)).is_ok());
    }
}
