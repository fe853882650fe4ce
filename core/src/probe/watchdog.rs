//! Which workers have stopped. A worker that lives proves it by completed rounds; being scheduled is no proof.

use std::time::Duration;

use crate::time::Mono;

/// Time within which a worker must complete a round: three intervals and one time-out.
pub fn progress_limit(interval: Duration, timeout: Duration) -> Duration {
    interval * 3 + timeout
}

/// Time without a completed round after which a collector calls the instance stalled: the agent's own limit,
/// plus the second heartbeat that may still be on its way and half a second for the network.
pub fn freshness_limit(progress_limit: Duration, heartbeat_interval: Duration) -> Duration {
    progress_limit + heartbeat_interval * 2 + Duration::from_millis(500)
}

/// Whether a worker is to be replaced at `now`, its last round (or its start) having been at `last`.
/// `paused` is the latest instant at which the agent itself resumed from a pause: no worker is blamed for that.
pub fn is_stalled(now: Mono, last: Mono, paused: Option<Mono>, limit: Duration) -> bool {
    now.since(last.max(paused.unwrap_or_default())) > limit
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
}
