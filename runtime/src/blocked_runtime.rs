//! Decides when a process with a stuck main runtime must end: a thread that blocks for ever blocks every task of its
//! runtime, and nothing inside the process can replace it. The service manager starts the process anew.

use std::time::Duration;

/// The process ends when the main runtime has not run for this time, plus at most 5 s, while another thread ran all the
/// time.
pub const STUCK_MAX: Duration = Duration::from_secs(15);
/// Time between two checks.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Watches the age of the main runtime's pulse. A late check proves that the whole process was stopped; that time does
/// not count against the runtime.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StuckWatch {
    stale_for: Duration,
}

impl StuckWatch {
    /// Records a check, `since_last` after the previous one; `fresh` tells whether the pulse is recent. Returns true
    /// when the process must end.
    pub fn look(&mut self, since_last: Duration, fresh: bool) -> bool {
        if fresh || since_last > LOOK_INTERVAL * 3 {
            self.stale_for = Duration::ZERO;
        } else {
            self.stale_for += since_last;
        }
        self.stale_for >= STUCK_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_runtime_that_alone_stands_still_is_stuck() {
        let looks = usize::try_from(STUCK_MAX.as_millis().div_ceil(LOOK_INTERVAL.as_millis())).unwrap();
        let mut watch = StuckWatch::default();
        assert!((1..looks).all(|_| !watch.look(LOOK_INTERVAL, false)));
        assert!(watch.look(LOOK_INTERVAL, false));
        // If the runtime runs again, or the whole process was stopped, counting starts anew.
        for (since_last, fresh) in [(LOOK_INTERVAL, true), (STUCK_MAX * 2, false)] {
            assert!(!watch.look(since_last, fresh));
            assert!((1..looks).all(|_| !watch.look(LOOK_INTERVAL, false)));
            assert!(watch.look(LOOK_INTERVAL, false));
        }
    }
}
