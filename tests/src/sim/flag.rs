//! A switch that tasks wait for. Wakes in the order of waiting, so that a run can be repeated.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// On or off.
#[derive(Debug)]
pub struct Flag {
    on: AtomicBool,
    changed: Notify,
}

impl Flag {
    /// A switch.
    pub fn new(on: bool) -> Self {
        Self {
            on: AtomicBool::new(on),
            changed: Notify::new(),
        }
    }

    /// How it stands.
    pub fn get(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Turns it and wakes all who wait.
    pub fn set(&self, on: bool) {
        if self.on.swap(on, Ordering::Relaxed) != on {
            self.changed.notify_waiters();
        }
    }

    /// Waits until it stands so.
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
