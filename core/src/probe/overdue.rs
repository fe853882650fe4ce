//! When a PING is overdue, and what the kernel shows then. Silence alone proves nothing before `hang_after`; a
//! process that is ending does (`reference/redis.md` section 7.2).

use std::time::Duration;

use super::Sight;
use crate::time::Mono;

/// Overdue is this many times the usual latency.
const TIMES_USUAL: u32 = 4;
/// And at least so much: the scheduler alone may take that long.
const OVERDUE_MIN: Duration = Duration::from_millis(10);
/// A dying process closes its connections only when its memory is freed, 30 to 80 ms for each GB (measured). One that
/// is larger than this is looked at between its PINGs too.
const LARGE_BYTES: u64 = 1 << 30;
/// So many looks fit into the shortest time that freeing a GB was seen to take, 30 ms.
const PATROL_PER_GB: Duration = Duration::from_micros(7_500);
/// A look takes some 10 microseconds: 40 a second are 0.04 % of a CPU.
const PATROL_MIN: Duration = Duration::from_millis(25);

/// How often a process of this size is looked at between its PINGs; `None` where it is small.
pub(super) fn patrol(resident: u64) -> Option<Duration> {
    let gigabytes = u32::try_from(resident / LARGE_BYTES).unwrap_or(u32::MAX);
    (gigabytes > 0).then(|| PATROL_PER_GB.saturating_mul(gigabytes).max(PATROL_MIN))
}

/// Never: as far in the future as it can be told.
pub(super) const NEVER: Mono = Mono(u64::MAX);

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Suspicion {
    /// About the worst latency of late: rises at once, falls by a twentieth with each answer.
    usual: Duration,
    /// When to look at the process next.
    look_at: Mono,
    /// Delay until the look after that.
    pause: Duration,
    sight: Option<Sight>,
}

impl Default for Suspicion {
    fn default() -> Self {
        Self {
            usual: Duration::ZERO,
            look_at: NEVER,
            pause: Duration::ZERO,
            sight: None,
        }
    }
}

impl Suspicion {
    pub(super) fn look_at(&self) -> Mono {
        self.look_at
    }

    /// A PING went out. Where it is known to be hung already, nothing would follow from a look: it is DOWN, and its end
    /// ends the connection.
    pub(super) fn sent(&mut self, now: Mono, hung: bool) {
        self.pause = (self.usual * TIMES_USUAL).max(OVERDUE_MIN);
        self.look_at = if hung { NEVER } else { now + self.pause };
        self.sight = None;
    }

    /// It was answered.
    pub(super) fn answered(&mut self, latency: Duration, hang_after: Duration) {
        self.usual = latency
            .max(self.usual * 19 / 20)
            .min(hang_after / (2 * TIMES_USUAL));
        self.forget();
    }

    /// Nothing would follow from another look. What was seen last stays known.
    pub(super) fn rest(&mut self) {
        self.look_at = NEVER;
    }

    /// There is nothing to be suspicious of.
    pub(super) fn forget(&mut self) {
        self.look_at = NEVER;
        self.sight = None;
    }

    /// The process is looked at now; the next look comes later and later, up to once an interval.
    pub(super) fn look(&mut self, now: Mono, interval: Duration) {
        self.pause = (self.pause * 2).min(interval.max(OVERDUE_MIN));
        self.look_at = now + self.pause;
    }

    pub(super) fn seen(&mut self, sight: Sight) {
        self.sight = Some(sight);
    }

    /// What was seen, in words.
    pub(super) fn words(&self) -> &'static str {
        match self.sight {
            None => "its process was not looked at",
            Some(Sight::NotLocal) => "its process is not on this host or cannot be seen",
            Some(Sight::Running) => "its process runs",
            Some(Sight::Stopped) => "its process is stopped (state T)",
            Some(Sight::Uninterruptible) => "its process waits uninterruptibly, mostly for a disk (state D)",
            Some(Sight::Exiting) => "its process is ending (PF_EXITING)",
            Some(Sight::Zombie) => "its process is a zombie (state Z)",
            Some(Sight::Gone) => "its process is gone",
        }
    }
}
