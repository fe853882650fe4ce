//! What is known of a task while it lives: how often it was polled, when last, and how long its longest poll took. The
//! thread that polls the task writes these numbers, so they are plain stores; the clock is the kernel's coarse one, which
//! costs some 5 ns and steps by 1 to 10 ms.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, future::try_join3};
use nix::time::{ClockId, clock_gettime};

/// How long the longest poll is remembered, in milliseconds.
const LATE_MILLIS: u64 = 60_000;

/// One live task.
#[derive(Debug)]
pub struct LiveTask {
    /// Kind, common to all tasks of one purpose.
    pub kind: &'static str,
    /// Name that distinguishes it from others of its kind.
    pub name: String,
    /// When it was started.
    pub started: Instant,
    polls: AtomicU64,
    /// Polls that have ended: one less than `polls` while one runs.
    ended_polls: AtomicU64,
    /// When the last poll began, in milliseconds of the coarse clock.
    polled_at: AtomicU64,
    /// Milliseconds that the longest poll of late took.
    longest_poll: AtomicU64,
    /// When that poll ended, in milliseconds of the coarse clock.
    longest_at: AtomicU64,
}

impl LiveTask {
    pub(super) fn new(kind: &'static str, name: String) -> Self {
        Self {
            kind,
            name,
            started: Instant::now(),
            polls: AtomicU64::new(0),
            ended_polls: AtomicU64::new(0),
            polled_at: AtomicU64::new(coarse_millis()),
            longest_poll: AtomicU64::new(0),
            longest_at: AtomicU64::new(0),
        }
    }

    /// How often it was polled: about once each time that something it waited for happened.
    pub fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    /// Time since its last poll began; since its start if it was never polled. A task that waits is not polled.
    pub fn idle(&self) -> Duration {
        Duration::from_millis(coarse_millis().saturating_sub(self.polled_at.load(Ordering::Relaxed)))
    }

    /// The longest time that one poll of the last minute took, in steps of the coarse clock. A long poll holds up all other
    /// tasks of its thread.
    pub fn longest_poll(&self) -> Duration {
        let is_of_late =
            coarse_millis().saturating_sub(self.longest_at.load(Ordering::Relaxed)) <= LATE_MILLIS;
        let longest = self.longest_poll.load(Ordering::Relaxed);
        let ended = Duration::from_millis(if is_of_late { longest } else { 0 });
        ended.max(self.running_poll().unwrap_or_default())
    }

    /// How long its present poll has lasted; `None` if no poll runs.
    pub fn running_poll(&self) -> Option<Duration> {
        (self.ended_polls.load(Ordering::Relaxed) != self.polls()).then(|| self.idle())
    }

    fn poll_begins(&self) {
        // One thread at a time polls a task, so nothing is lost between load and store.
        self.polls.store(self.polls() + 1, Ordering::Relaxed);
        self.polled_at.store(coarse_millis(), Ordering::Relaxed);
    }

    fn poll_ended(&self) {
        self.ended_polls.store(self.polls(), Ordering::Relaxed);
        let now = coarse_millis();
        let took = now.saturating_sub(self.polled_at.load(Ordering::Relaxed));
        // Most polls take no step of the clock.
        if took == 0 {
            return;
        }
        let is_old = now.saturating_sub(self.longest_at.load(Ordering::Relaxed)) > LATE_MILLIS;
        if is_old || took > self.longest_poll.load(Ordering::Relaxed) {
            self.longest_poll.store(took, Ordering::Relaxed);
            self.longest_at.store(now, Ordering::Relaxed);
        }
    }
}

/// Milliseconds of a clock that never goes back.
fn coarse_millis() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from);
    // The clock exists on every Linux; without it, ages would read zero.
    u64::try_from(time.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

/// Runs a task's future and records its polls. This is no `async` block, which would store the future twice: as a captured
/// variable and as the awaited value. Three futures are polled in this order each time: one that notes the beginning, the task's, one that notes the
/// end. The task's ends all three, as an error ends `try_join3`.
pub(super) fn observed<T>(task: Arc<LiveTask>, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let ended = Arc::clone(&task);
    let begin = poll_fn(move |_| {
        task.poll_begins();
        Poll::<Result<Infallible, T>>::Pending
    });
    let end = poll_fn(move |_| {
        ended.poll_ended();
        Poll::<Result<Infallible, T>>::Pending
    });
    try_join3(begin, future.map(Err::<Infallible, T>), end).map(|done| match done {
        Ok((never, ..)) => match never {},
        Err(result) => result,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Arc<LiveTask> {
        Arc::new(LiveTask::new("a", "1".to_owned()))
    }

    #[tokio::test]
    async fn polls_are_counted_and_a_long_one_is_seen() {
        let task = task();
        let blocking = async {
            tokio::task::yield_now().await;
            std::thread::sleep(Duration::from_millis(40));
            tokio::task::yield_now().await;
            7
        };
        assert_eq!(observed(Arc::clone(&task), blocking).await, 7);
        assert_eq!(task.polls(), 3);
        // The coarse clock steps by up to 10 ms.
        assert!(task.longest_poll() >= Duration::from_millis(30), "{task:?}");

        // After a minute it is forgotten, and a shorter one takes its place.
        let minute_ago = coarse_millis().saturating_sub(LATE_MILLIS + 1);
        task.longest_at.store(minute_ago, Ordering::Relaxed);
        assert_eq!(task.longest_poll(), Duration::ZERO);
        task.polled_at.store(coarse_millis() - 20, Ordering::Relaxed);
        task.poll_ended();
        let longest = task.longest_poll();
        assert!(
            longest >= Duration::from_millis(20) && longest < Duration::from_secs(10),
            "{task:?}"
        );
    }

    #[test]
    fn a_task_that_is_not_polled_grows_idle() {
        let task = task();
        let deadline = Instant::now() + Duration::from_secs(10);
        while task.idle() < Duration::from_millis(20) {
            assert!(Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert_eq!(task.running_poll(), None);
        task.poll_begins();
        assert!(task.running_poll().is_some());
        assert!(task.idle() <= Duration::from_secs(1), "{task:?}");
    }
}
