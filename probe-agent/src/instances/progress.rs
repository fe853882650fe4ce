//! What the worker of an instance tells of its work. Written by the worker, read by everyone else.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use redkeeper_core::{probe::ProbeSnapshot, time::Mono};

/// Time at which an instance's worker last completed a round, and a copy of what its prober held after its last step.
/// Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last_round: AtomicU64,
    /// Locked only to copy it in or out, so that a debug page never waits for a step, and a step never for a page.
    snapshot: Mutex<Option<ProbeSnapshot>>,
}

impl Progress {
    /// Records a completed round.
    pub fn completed(&self, now: Mono) {
        self.0.last_round.store(now.0, Ordering::Relaxed);
    }

    /// Time of the last completed round, if there was one.
    pub fn last(&self) -> Option<Mono> {
        Some(Mono(self.0.last_round.load(Ordering::Relaxed))).filter(|at| at.0 > 0)
    }

    /// Records what the prober holds after a step.
    pub fn stepped(&self, snapshot: ProbeSnapshot) {
        *self.lock() = Some(snapshot);
    }

    /// What the prober held after its last step; `None` if no worker was ever started.
    pub fn snapshot(&self) -> Option<ProbeSnapshot> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<ProbeSnapshot>> {
        // Nothing panics while the lock is held.
        self.0.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
