//! Times as people and programs read them, relative to now.

use std::time::Duration;

use redkeeper_core::time::{Mono, WallMs};
use redkeeper_runtime::{admin::short, clock::rfc3339};

/// From this time on, a duration is written with units instead of milliseconds.
const LONG: Duration = Duration::from_secs(60);

/// Seconds since `at`.
pub(super) fn seconds_ago(now: Mono, at: Mono) -> f64 {
    now.since(at).as_secs_f64()
}

/// Seconds until `at`; negative if that is past.
pub(super) fn seconds_until(now: Mono, at: Mono) -> f64 {
    at.since(now).as_secs_f64() - now.since(at).as_secs_f64()
}

/// The time since `at`, such as `3.204 s ago`.
pub(super) fn ago(now: Mono, at: Mono) -> String {
    format!("{} ago", duration(now.since(at)))
}

/// The time until `at`, such as `in 1.200 s`, or since it.
pub(super) fn until(now: Mono, at: Mono) -> String {
    if at < now {
        ago(now, at)
    } else {
        format!("in {}", duration(at.since(now)))
    }
}

/// A duration such as `3.204 s` or `2m 5s`.
pub(super) fn duration(time: Duration) -> String {
    if time < LONG {
        format!("{:.3} s", time.as_secs_f64())
    } else {
        short(time)
    }
}

/// The wall-clock time at `at`, from that of now.
pub(super) fn wall_clock(now: Mono, wall: WallMs, at: Mono) -> String {
    let age = u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
    rfc3339(WallMs(wall.0.saturating_sub(age)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_relative_to_now() {
        let at = Mono::from_millis;
        assert_eq!(ago(at(5_000), at(1_796)), "3.204 s ago");
        assert_eq!(ago(at(500_000), at(0)), "8m 20s ago");
        assert_eq!(until(at(1_000), at(2_200)), "in 1.200 s");
        assert_eq!(until(at(2_200), at(1_000)), "1.200 s ago");
        assert_eq!(seconds_until(at(2_500), at(1_000)), -1.5);
        assert_eq!(seconds_until(at(1_000), at(2_500)), 1.5);
        assert_eq!(
            wall_clock(at(9_000), WallMs(86_400_000), at(4_000)),
            "1970-01-01T23:59:55Z"
        );
    }
}
