//! Waits for a state, with a deadline.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

/// Longest wait: far beyond any tested bound, but short enough that a failed test ends.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Waits until `probe` gives a value that `good` accepts, and returns it.
///
/// # Panics
/// When that does not happen within [`LIMIT`]; shows the last value.
pub async fn eventually<T, F, Fut>(what: &str, mut probe: F, good: impl Fn(&T) -> bool) -> T
where
    T: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = T>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        let value = probe().await;
        if good(&value) {
            return value;
        }
        assert!(
            Instant::now() < deadline,
            "not within {LIMIT:?}: {what}; last seen: {value:?}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Observes for `time` that `probe` keeps giving what `good` accepts.
///
/// # Panics
/// At the first value that is not accepted.
pub async fn holds_for<T, F, Fut>(what: &str, time: Duration, mut probe: F, good: impl Fn(&T) -> bool)
where
    T: Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = T>,
{
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        let value = probe().await;
        assert!(good(&value), "broken: {what}; seen: {value:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
