//! The clock of the daemons. All time that their cores see is read here.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};
use redkeeper_core::time::{Mono, WallMs};
use tokio::time::Instant;

/// Monotonic clock that continues while the machine is suspended (`CLOCK_BOOTTIME`), so that the cores see a suspension
/// as a pause, and a lease expires during it. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    Boot(Duration),
    Tokio(Instant),
}

/// The anchor is this long after `Mono(0)`, so that ages can be subtracted from an early instant.
const HEADROOM: Duration = Duration::from_secs(2 * 86_400);

impl Clock {
    /// Creates a clock anchored at the present time.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Self {
            source: Source::Boot(boot_time()),
        }
    }

    /// Creates a clock that follows tokio's, which a simulation can control.
    pub fn simulated() -> Self {
        Self {
            source: Source::Tokio(Instant::now()),
        }
    }

    /// Monotonic time.
    pub fn now(&self) -> Mono {
        let elapsed = match self.source {
            Source::Boot(anchor) => boot_time().saturating_sub(anchor),
            Source::Tokio(anchor) => anchor.elapsed(),
        };
        Mono(0) + HEADROOM + elapsed
    }

    /// Wall-clock time, for display only.
    pub fn wall(&self) -> WallMs {
        let since = match self.source {
            Source::Boot(_) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            Source::Tokio(anchor) => anchor.elapsed(),
        };
        WallMs(u64::try_from(since.as_millis()).unwrap_or(0))
    }

    /// Converts `at` to a tokio instant to sleep until.
    pub fn instant(&self, at: Mono) -> Instant {
        Instant::now() + at.since(self.now())
    }
}

/// Formats a wall-clock time as RFC 3339, to the second.
pub fn rfc3339(at: WallMs) -> String {
    let at = UNIX_EPOCH + Duration::from_millis(at.0);
    humantime::format_rfc3339_seconds(at).to_string()
}

fn boot_time() -> Duration {
    // Fails only for an unknown clock, and Linux has had this one since 2.6.39.
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}
