//! Batches heartbeats. Most messages are heartbeats, and waking the aggregator for each costs more than applying it. A
//! heartbeat therefore waits for the next command, for the next tick, or until 32 are waiting. Its time of arrival is
//! kept, so that nothing is judged later than it was heard.

use std::sync::{Mutex, MutexGuard, PoisonError};

use redkeeper_core::{fleet::Message, ids::Seq, time::Mono};
use tokio::sync::Notify;

/// A heartbeat of a stream, with its time of arrival.
#[derive(Debug)]
pub struct QueuedHeartbeat {
    /// Number of the stream.
    pub stream: u64,
    /// Sequence of the message.
    pub seq: Seq,
    /// Content of the message.
    pub message: Message,
    /// Time of arrival.
    pub received: Mono,
}

/// Capacity of the queue: one heartbeat of each of 2,000 agents, twice. Any more go through the command channel and
/// wait there.
pub const QUEUED_MAX: usize = 4_096;
/// Wake the aggregator once this many are waiting: an eighth of what it takes at once.
const MANY: usize = 32;

/// Queue of heartbeats not yet applied.
#[derive(Debug, Default)]
pub struct HeartbeatQueue {
    waiting: Mutex<Vec<QueuedHeartbeat>>,
    many: Notify,
}

impl HeartbeatQueue {
    fn waiting(&self) -> MutexGuard<'_, Vec<QueuedHeartbeat>> {
        // Nothing panics while the lock is held.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a heartbeat to the queue.
    ///
    /// # Errors
    /// The heartbeat itself, if the queue is full.
    pub fn push(&self, beat: QueuedHeartbeat) -> Result<(), Box<QueuedHeartbeat>> {
        let mut waiting = self.waiting();
        if waiting.len() >= QUEUED_MAX {
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

    /// Moves all waiting heartbeats, in order of arrival, into `into`, which is empty before.
    pub fn take(&self, into: &mut Vec<QueuedHeartbeat>) {
        std::mem::swap(&mut *self.waiting(), into);
    }

    /// Completes when enough heartbeats are waiting to wake the aggregator.
    pub async fn batch_ready(&self) {
        self.many.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn beat(seq: u64) -> QueuedHeartbeat {
        QueuedHeartbeat {
            stream: 1,
            seq: Seq(seq),
            message: Message::Heartbeat(Vec::new(), Default::default()),
            received: Mono(seq),
        }
    }

    #[test]
    fn many_wake_and_too_many_are_given_back() {
        let heartbeats = HeartbeatQueue::default();
        for seq in 1..MANY as u64 {
            assert!(heartbeats.push(beat(seq)).is_ok());
        }
        assert!(heartbeats.batch_ready().now_or_never().is_none());
        for seq in MANY as u64..=QUEUED_MAX as u64 {
            assert!(heartbeats.push(beat(seq)).is_ok());
        }
        assert!(heartbeats.batch_ready().now_or_never().is_some());
        assert!(heartbeats.push(beat(0)).is_err());
        let mut taken = Vec::new();
        heartbeats.take(&mut taken);
        assert!(taken.iter().map(|beat| beat.seq.0).eq(1..=QUEUED_MAX as u64));
        assert!(heartbeats.push(beat(1)).is_ok());
    }
}
