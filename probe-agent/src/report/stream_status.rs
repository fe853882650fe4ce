//! What an uplink tells of its stream. Written by the task of the uplink, read by debug pages.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redkeeper_core::{ids::Seq, outbox::Outbox, time::Mono};

/// What an uplink does at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Phase {
    /// It has not begun: the first discovery scan is not done.
    #[default]
    NotStarted,
    /// It connects or awaits `Welcome`, since this time.
    Connecting(Mono),
    /// The stream is open since this time.
    Open(Mono),
    /// The stream has ended, and the next attempt begins at this time.
    Waiting(Mono),
}

/// What `Welcome` said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Welcomed {
    /// Id of the collector.
    pub collector_id: String,
    /// Time between heartbeats.
    pub heartbeat_interval: Duration,
    /// Time without a message after which the collector calls this agent silent.
    pub silent_after: Duration,
}

/// How a stream, or an attempt to open one, ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StreamEnd {
    /// When.
    pub at: Mono,
    /// Why, in words.
    pub text: String,
    /// The collector refuses this agent as it is now.
    pub is_refusal: bool,
}

/// The state of an uplink and of its present stream, or of the last one if there is none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StreamState {
    /// What the uplink does at present.
    pub phase: Phase,
    /// Attempts since the last stream that lasted, the present one included.
    pub attempts: u32,
    /// What `Welcome` said; `None` before it came.
    pub welcomed: Option<Welcomed>,
    /// The last message that was sent, and when.
    pub last_sent: Option<(Seq, Mono)>,
    /// The last message that was acknowledged.
    pub last_acked: Option<Seq>,
    /// When the collector last answered.
    pub answered_at: Option<Mono>,
    /// Messages without an acknowledgement.
    pub unacked: usize,
    /// When the oldest of them was sent.
    pub oldest_unacked: Option<Mono>,
    /// How the last stream ended.
    pub last_end: Option<StreamEnd>,
}

/// The state of one uplink. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct StreamStatus(Arc<Mutex<StreamState>>);

impl StreamStatus {
    /// A copy of the present state.
    pub fn get(&self) -> StreamState {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, StreamState> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An attempt begins. What is known of the former stream does not apply to the next one.
    pub(super) fn connecting(&self, now: Mono, attempt: u32) {
        let mut state = self.lock();
        *state = StreamState {
            phase: Phase::Connecting(now),
            attempts: attempt.saturating_add(1),
            last_end: state.last_end.take(),
            ..StreamState::default()
        };
    }

    /// `Welcome` came.
    pub(super) fn welcomed(&self, now: Mono, welcomed: Welcomed) {
        let mut state = self.lock();
        state.phase = Phase::Open(now);
        state.answered_at = Some(now);
        state.welcomed = Some(welcomed);
    }

    /// A message was passed to the stream.
    pub(super) fn sent(&self, now: Mono, seq: Seq) {
        self.lock().last_sent = Some((seq, now));
    }

    /// Everything up to `seq` was acknowledged.
    pub(super) fn acked(&self, now: Mono, seq: Seq) {
        let mut state = self.lock();
        state.last_acked = Some(seq);
        state.answered_at = Some(now);
    }

    /// What is not acknowledged now.
    pub(super) fn awaits(&self, outbox: &Outbox) {
        let mut state = self.lock();
        state.unacked = outbox.unacked();
        state.oldest_unacked = outbox.oldest_unacked();
    }

    /// The stream has ended, and the next attempt begins after `pause`.
    pub(super) fn ended(&self, end: StreamEnd, pause: Duration) {
        let mut state = self.lock();
        state.phase = Phase::Waiting(end.at + pause);
        state.last_end = Some(end);
    }
}
