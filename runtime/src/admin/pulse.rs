//! The pulse of the main runtime: a task that runs there each second and proves that it does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::supervise::Supervisor;

/// Each pulse wakes the process, so pulses are infrequent.
pub(super) const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// When the main runtime last ran.
pub(super) struct Pulse {
    started: Instant,
    /// Milliseconds after `started` at which the main runtime last ran the pulse.
    last: AtomicU64,
}

impl Pulse {
    /// Starts the task on the present runtime.
    pub(super) fn start(supervisor: &Supervisor) -> Arc<Self> {
        let pulse = Arc::new(Self {
            started: Instant::now(),
            last: AtomicU64::new(0),
        });
        let (beating, stop) = (Arc::clone(&pulse), supervisor.stop().clone());
        let _owned_by_supervisor = supervisor.spawn_critical("pulse", "", async move {
            while !stop.is_cancelled() {
                let millis = u64::try_from(beating.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                beating.last.store(millis, Ordering::Relaxed);
                tokio::select! { () = tokio::time::sleep(PULSE_INTERVAL) => (), () = stop.cancelled() => () }
            }
        });
        pulse
    }

    /// Time since the main runtime last ran.
    pub(super) fn age(&self) -> Duration {
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last)
    }
}
