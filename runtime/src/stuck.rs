//! When a process whose main runtime is stuck must end: a thread that blocks for ever takes every task of its runtime
//! with it, and nothing inside can replace it. Who started the process starts it anew.

use std::time::Duration;

/// The main runtime has not run for so long, and at most 5 s more, while another thread ran all the time.
pub const STUCK_MAX: Duration = Duration::from_secs(15);
/// How often that is looked at.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Looks at the age of the main runtime's pulse. A look that comes late proves that the whole process was stopped, and
/// blames nobody for that time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct StuckWatch {
    stale_for: Duration,
}

impl StuckWatch {
    /// Takes a look, `since_last` after the former one; `fresh` where the pulse is. True when the process must end.
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
        // It runs again, or everything was stopped: from the beginning.
        for (since_last, fresh) in [(LOOK_INTERVAL, true), (STUCK_MAX * 2, false)] {
            assert!(!watch.look(since_last, fresh));
            assert!((1..looks).all(|_| !watch.look(LOOK_INTERVAL, false)));
            assert!(watch.look(LOOK_INTERVAL, false));
        }
    }
}
