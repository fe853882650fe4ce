//! What the worker of an instance tells of its work. Written by the worker, read by everyone else.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use redkeeper_core::{
    probe::{ProbeSnapshot, Prober},
    time::Mono,
};

/// Time at which an instance's worker last completed a round, and its prober. Clones share both.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    last_round: AtomicU64,
    /// The prober of the present worker.
    prober: Mutex<Option<SharedProber>>,
}

/// A prober that debug pages can look at. Its worker locks it for each step, and a page for one copy: some microseconds
/// each. A copy after each step instead took 8 % more CPU with 200 instances (`./bench agent-cost`).
#[derive(Clone, Debug)]
pub struct SharedProber(Arc<Mutex<Prober>>);

impl SharedProber {
    /// Shares a prober.
    pub fn new(prober: Prober) -> Self {
        Self(Arc::new(Mutex::new(prober)))
    }

    /// Locks it. Must not be held across an await.
    pub fn lock(&self) -> MutexGuard<'_, Prober> {
        // A step that panicked ends its worker; the page may still show what the prober held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
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

    /// Records that a worker begins with this prober.
    pub fn begins(&self, prober: &SharedProber) {
        *self.lock() = Some(prober.clone());
    }

    /// What the prober holds; `None` if no worker was ever started.
    pub fn snapshot(&self) -> Option<ProbeSnapshot> {
        let prober = self.lock().clone()?;
        let snapshot = prober.lock().snapshot();
        Some(snapshot)
    }

    fn lock(&self) -> MutexGuard<'_, Option<SharedProber>> {
        // Nothing panics while the lock is held.
        self.0.prober.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
