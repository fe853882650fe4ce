//! Delays between attempts.

use std::time::Duration;

/// Exponential delay between `min` and `max`, with jitter.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
}

impl Backoff {
    /// Delays from `min` to `max`. A `max` below `min` is taken as `min`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        let max = if max.as_nanos() < min.as_nanos() { min } else { max };
        Self { min, max }
    }

    /// Delay without jitter before attempt `attempt` (the first retry is 0): doubles each time up to `max`.
    pub fn base(&self, attempt: u32) -> Duration {
        let factor = 2u32.checked_pow(attempt).unwrap_or(u32::MAX);
        self.min.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }

    /// Delay for `attempt`, spread evenly over the upper half of [`base`](Self::base) by `random` in [0, 1), so that
    /// the members of a fleet do not all reconnect at the same instant.
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let random = if random.is_finite() {
            random.clamp(0.0, 1.0)
        } else {
            0.5
        };
        self.base(attempt).mul_f64(0.5 + random / 2.0).max(self.min / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn stays_within_bounds(min in 1u64..10_000, span in 0u64..100_000, attempt: u32, random in 0.0f64..1.0) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + span));
            let backoff = Backoff::new(min, max);
            prop_assert!(backoff.base(attempt) >= min && backoff.base(attempt) <= max);
            prop_assert!(backoff.base(attempt) <= backoff.base(attempt.saturating_add(1)));
            prop_assert!(backoff.delay(attempt, random) >= min / 2 && backoff.delay(attempt, random) <= max);
        }
    }
}
