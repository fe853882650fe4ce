//! Time as a plain value: the shell reads the clocks and passes the time in as an argument.

use std::time::Duration;

/// An instant of one process's monotonic clock, in microseconds since an anchor that the shell chose.
/// Instants of two processes are never compared.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// The instant `millis` milliseconds after the anchor.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1000)
    }

    /// Time from `earlier` to `self`; zero where `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// `self` moved back by `age`, at the earliest to the anchor.
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(micros(age)))
    }
}

impl std::ops::Add<Duration> for Mono {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(micros(rhs)))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Wall-clock time in milliseconds since the Unix epoch. Only displayed: never compared with another clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WallMs(pub u64);
/// A known wall-clock time, which is not zero, so that an `Option` of it takes no more memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownWallMs(std::num::NonZeroU64);

impl KnownWallMs {
    /// `None` for zero, which stands for a time that is not known.
    pub fn new(time: WallMs) -> Option<Self> {
        std::num::NonZeroU64::new(time.0).map(Self)
    }
}

impl From<KnownWallMs> for WallMs {
    fn from(time: KnownWallMs) -> Self {
        Self(time.0.get())
    }
}
