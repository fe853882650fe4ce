//! The lease: how long a leader may say that it leads. Writes to ZooKeeper do not depend on it, because they are
//! fenced; answers to "who leads?" and other effects outside ZooKeeper do (`docs/protocol.md`, "Lease and
//! verification").

use std::time::Duration;

use crate::time::Mono;

/// Ends two thirds of the session time-out after an acknowledged request was sent. The server counts the time-out from
/// when it heard the request, which is never before it was sent, so until then nobody else leads by an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    time: Duration,
    until: Option<Mono>,
}

impl Lease {
    /// A lease that is not held yet, for a session with this time-out.
    pub fn new(session_timeout: Duration) -> Self {
        Self {
            time: session_timeout * 2 / 3,
            until: None,
        }
    }

    /// Renews the lease: a request that was sent at `sent`, while leading, was acknowledged.
    pub fn renewed(&mut self, sent: Mono) {
        self.until = self.until.max(Some(sent + self.time));
    }

    /// Ends the lease: leadership is in doubt or over.
    pub fn ended(&mut self) {
        self.until = None;
    }

    /// When the lease expires, or has expired.
    pub fn ends(&self) -> Option<Mono> {
        self.until
    }

    /// Whether the lease is held.
    pub fn holds(&self, now: Mono) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_from_the_sending_and_is_never_shortened() {
        let mut lease = Lease::new(Duration::from_secs(3));
        let at = Mono::from_millis;
        assert!(!lease.holds(at(0)));
        lease.renewed(at(1_000));
        // An answer to an older request arrives late.
        lease.renewed(at(500));
        assert!(lease.holds(at(2_999)));
        assert!(!lease.holds(at(3_000)));
        lease.renewed(at(3_000));
        assert!(lease.holds(at(4_999)));
        assert_eq!(lease.ends(), Some(at(5_000)));
        lease.ended();
        assert!(!lease.holds(at(4_000)));
        assert_eq!(lease.ends(), None);
    }
}
