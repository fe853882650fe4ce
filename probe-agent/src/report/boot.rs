//! The boot id: which life of the agent its messages belong to. All uplinks share it. It is made at the start, and anew
//! when a collector has taken another agent of the same id in its place meanwhile, because what is superseded never
//! returns.

use redkeeper_core::ids::BootId;
use tokio::sync::watch;

/// The boot id in force.
#[derive(Debug)]
pub struct Boot(watch::Sender<BootId>);

impl Boot {
    /// A new life; `None` where no id could be made, which its own test excludes.
    pub fn new() -> Option<Self> {
        random().map(|id| Self(watch::Sender::new(id)))
    }

    /// Follows it.
    pub fn subscribe(&self) -> watch::Receiver<BootId> {
        self.0.subscribe()
    }

    /// Begins another life, unless that has been done since `superseded` was in force.
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
        // Another collector says the same of the first one.
        boot.renew(&first);
        assert!(!follower.has_changed().unwrap());
        assert_eq!(*follower.borrow(), second);
    }
}
