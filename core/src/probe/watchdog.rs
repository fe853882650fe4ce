//! Decides which workers have stopped. Completed rounds prove that a worker makes progress; being scheduled does not.

use std::time::Duration;

use crate::{backoff::Backoff, time::Mono};

/// Time within which a worker must complete a round: three intervals and one time-out.
pub fn progress_limit(interval: Duration, timeout: Duration) -> Duration {
    interval * 3 + timeout
}

/// Time without a completed round after which a collector treats the instance as stalled: the agent's own limit, plus
/// the second heartbeat that may still be in transit and half a second for the network.
pub fn freshness_limit(progress_limit: Duration, heartbeat_interval: Duration) -> Duration {
    progress_limit + heartbeat_interval * 2 + Duration::from_millis(500)
}

/// Whether a worker must be replaced at `now`, where `last` is its last round or its start. `paused` is the last time
/// at which the agent itself resumed from a pause, which never counts against a worker.
pub fn is_stalled(now: Mono, last: Mono, paused: Option<Mono>, limit: Duration) -> bool {
    now.since(last.max(paused.unwrap_or_default())) > limit
}

/// Between replacements of a worker that fails in a row.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
/// A worker that lived for this long did not fail in a row.
const STABLE_AFTER: Duration = Duration::from_secs(60);

/// When a failed worker is replaced: at once the first time, and later each time that its replacement fails soon too.
#[derive(Clone, Copy, Default, Debug)]
pub struct Replacements {
    in_a_row: u32,
    due: Option<Mono>,
}

impl Replacements {
    /// The worker makes progress again by itself.
    pub fn recovered(&mut self) {
        self.due = None;
    }

    /// Whether the worker that was started at `since` and failed is replaced at `now`. Asked again until it is.
    pub fn is_due(&mut self, now: Mono, since: Mono) -> bool {
        let due = *self.due.get_or_insert_with(|| {
            if now.since(since) >= STABLE_AFTER {
                self.in_a_row = 0;
            }
            match self.in_a_row.checked_sub(1) {
                Some(attempt) => now + BACKOFF.base(attempt),
                None => now,
            }
        });
        if now < due {
            return false;
        }
        self.due = None;
        self.in_a_row = self.in_a_row.saturating_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_seen_and_pauses_are_not_blamed() {
        let limit = progress_limit(Duration::from_millis(500), Duration::from_secs(1));
        assert_eq!(limit, Duration::from_millis(2500));
        assert!(!is_stalled(
            Mono::from_millis(3_500),
            Mono::from_millis(1_000),
            None,
            limit
        ));
        assert!(is_stalled(
            Mono::from_millis(3_501),
            Mono::from_millis(1_000),
            None,
            limit
        ));
        assert!(!is_stalled(
            Mono::from_millis(9_000),
            Mono::from_millis(1_000),
            Some(Mono::from_millis(8_000)),
            limit
        ));
    }

    #[test]
    fn a_worker_that_fails_in_a_row_is_replaced_later_and_later() {
        let mut replacements = Replacements::default();
        let at = Mono::from_millis;
        let mut waits = Vec::new();
        let (mut now, mut since) = (1_000, 0);
        while waits.len() < 9 {
            let failed = now;
            while !replacements.is_due(at(now), at(since)) {
                now += 100;
            }
            waits.push(now - failed);
            since = now;
            now += 200;
        }
        assert_eq!(
            waits,
            [0, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
        );
        // One that recovers by itself is not replaced, and owes nothing later.
        assert!(!replacements.is_due(at(now), at(since)));
        replacements.recovered();
        // One that lived long is replaced at once.
        assert!(replacements.is_due(at(since + 60_000), at(since)));
    }
}
