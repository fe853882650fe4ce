//! Decides when a PING is overdue and its process is checked. Silence alone proves nothing before `hang_after`; a
//! process that is ending does (`docs/replies.md`, PROCESS_GONE).

use std::time::Duration;

use super::ProcessState;
use crate::time::Mono;

/// A PING is overdue after this many times the usual latency.
const TIMES_USUAL: u32 = 4;
/// A PING is never overdue before this time: the scheduler alone may take that long.
const OVERDUE_MIN: Duration = Duration::from_millis(10);
/// Size from which a process is also checked between its PINGs. A dying process closes its connections only when its
/// memory is freed, which takes 30 to 80 ms for each GB (measured).
const LARGE_BYTES: u64 = 1 << 30;
/// Interval of the checks for each GB: a quarter of 30 ms, the shortest time measured for freeing one.
const CHECK_INTERVAL_PER_GB: Duration = Duration::from_micros(7_500);
/// Shortest interval of the checks. A check takes some 10 microseconds: 40 a second are 0.04 % of a CPU.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(25);

/// Interval at which a process of this size is checked between its PINGs; `None` if it is small.
pub(super) fn process_check_interval(resident: u64) -> Option<Duration> {
    let gigabytes = u32::try_from(resident / LARGE_BYTES).unwrap_or(u32::MAX);
    (gigabytes > 0).then(|| {
        CHECK_INTERVAL_PER_GB
            .saturating_mul(gigabytes)
            .max(CHECK_INTERVAL_MIN)
    })
}

/// A deadline that never comes.
pub(super) const NEVER: Mono = Mono(u64::MAX);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct OverdueCheck {
    /// About the worst recent latency: rises at once, falls by a twentieth with each answer.
    usual: Duration,
    /// When to check the process next.
    check_at: Mono,
    /// Delay until the check after that.
    pause: Duration,
    process: Option<ProcessState>,
}

impl Default for OverdueCheck {
    fn default() -> Self {
        Self {
            usual: Duration::ZERO,
            check_at: NEVER,
            pause: Duration::ZERO,
            process: None,
        }
    }
}

impl OverdueCheck {
    /// About the worst recent latency.
    pub(super) fn usual(&self) -> Duration {
        self.usual
    }

    pub(super) fn check_at(&self) -> Mono {
        self.check_at
    }

    /// Records that a PING was sent. If the server is known to hang, the process is not checked: the instance is DOWN
    /// already, and the end of the process ends the connection.
    pub(super) fn sent(&mut self, now: Mono, hung: bool) {
        self.pause = (self.usual * TIMES_USUAL).max(OVERDUE_MIN);
        self.check_at = if hung { NEVER } else { now + self.pause };
        self.process = None;
    }

    /// Records that PING was answered.
    pub(super) fn answered(&mut self, latency: Duration, hang_after: Duration) {
        self.usual = latency
            .max(self.usual * 19 / 20)
            .min(hang_after / (2 * TIMES_USUAL));
        self.reset();
    }

    /// Stops the checks, because nothing would follow from another one. The last result stays known.
    pub(super) fn stop(&mut self) {
        self.check_at = NEVER;
    }

    /// Resets after an answer or a new connection.
    pub(super) fn reset(&mut self) {
        self.check_at = NEVER;
        self.process = None;
    }

    /// Records a check of the process. The delay until the next one doubles, up to one interval.
    pub(super) fn checked(&mut self, now: Mono, interval: Duration) {
        self.pause = (self.pause * 2).min(interval.max(OVERDUE_MIN));
        self.check_at = now + self.pause;
    }

    pub(super) fn seen(&mut self, state: ProcessState) {
        self.process = Some(state);
    }

    /// Human-readable description of the last check.
    pub(super) fn describe(&self) -> &'static str {
        match self.process {
            None => "its process was not looked at",
            Some(ProcessState::NotLocal) => "its process is not on this host or cannot be seen",
            Some(ProcessState::Running) => "its process runs",
            Some(ProcessState::Stopped) => "its process is stopped (state T)",
            Some(ProcessState::Uninterruptible) => {
                "its process waits uninterruptibly, mostly for a disk (state D)"
            }
            Some(ProcessState::Exiting) => "its process is ending (PF_EXITING)",
            Some(ProcessState::Zombie) => "its process is a zombie (state Z)",
            Some(ProcessState::Gone) => "its process is gone",
        }
    }
}
