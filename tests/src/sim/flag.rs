//! A switch that tasks can wait for. Tasks wake in the order in which they began to wait, so that a run is repeatable.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// On or off.
#[derive(Debug)]
pub struct Flag {
    on: AtomicBool,
    changed: Notify,
}

impl Flag {
    /// Creates a switch.
    pub fn new(on: bool) -> Self {
        Self {
            on: AtomicBool::new(on),
            changed: Notify::new(),
        }
    }

    /// The present position.
    pub fn get(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Sets the position and wakes all waiting tasks.
    pub fn set(&self, on: bool) {
        if self.on.swap(on, Ordering::Relaxed) != on {
            self.changed.notify_waiters();
        }
    }

    /// Waits until the switch is in this position.
    pub async fn is(&self, on: bool) {
        loop {
            let changed = self.changed.notified();
            if self.get() == on {
                return;
            }
            changed.await;
        }
    }
}
