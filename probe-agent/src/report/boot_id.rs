//! The boot id names the present life of the agent in its messages. All uplinks share it. It is created at the start,
//! and again when a collector has meanwhile accepted another agent with the same id, because a superseded boot never
//! becomes valid again.

use redkeeper_core::ids::BootId;
use tokio::sync::watch;

/// The boot id in force.
#[derive(Debug)]
pub struct Boot(watch::Sender<BootId>);

impl Boot {
    /// Creates a random boot id; `None` if none could be created, which its own test excludes.
    pub fn new() -> Option<Self> {
        random().map(|id| Self(watch::Sender::new(id)))
    }

    /// Subscribes to changes of the boot id.
    pub fn subscribe(&self) -> watch::Receiver<BootId> {
        self.0.subscribe()
    }

    /// Replaces the boot id, unless it has already changed since `superseded`.
    pub fn renew(&self, superseded: &BootId) {
        self.0.send_if_modified(|id| {
            let next = random().filter(|_| id == superseded);
            next.map(|next| *id = next).is_some()
        });
    }
}

fn random() -> Option<BootId> {
    let digits = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    BootId::new(&digits).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superseded_boot_is_renewed_once() {
        let boot = Boot::new().unwrap();
        let mut follower = boot.subscribe();
        let first = follower.borrow_and_update().clone();
        boot.renew(&first);
        let second = follower.borrow_and_update().clone();
        assert_ne!(first, second);
        // Another collector rejects the same first boot.
        boot.renew(&first);
        assert!(!follower.has_changed().unwrap());
        assert_eq!(*follower.borrow(), second);
    }
}
