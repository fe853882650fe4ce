//! The only place where the daemons read clocks for their cores.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redkeeper_core::time::{Mono, WallMs};
use tokio::time::Instant;

/// Pairs tokio's monotonic clock with [`Mono`]. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    anchor: Instant,
}

/// The anchor lies this long after `Mono(0)`, so that ages can be taken off an early instant.
const HEADROOM: Duration = Duration::from_secs(2 * 86_400);

impl Clock {
    /// A clock anchored now.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            anchor: Instant::now(),
        }
    }

    /// Monotonic time.
    pub fn now(&self) -> Mono {
        Mono(0) + HEADROOM + self.anchor.elapsed()
    }

    /// Wall-clock time, for people.
    pub fn wall(&self) -> WallMs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallMs(u64::try_from(since.as_millis()).unwrap_or(0))
    }

    /// The instant to sleep until.
    pub fn instant(&self, at: Mono) -> Instant {
        self.anchor + at.since(Mono(0) + HEADROOM)
    }
}
