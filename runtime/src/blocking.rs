//! Runs work that the kernel may block indefinitely: name look-ups, files, searches of `/proc`. It runs on other
//! threads than those that must not wait, in bounded number, and is abandoned after its time limit.

use std::time::Duration;

use tokio::sync::Semaphore;

/// A bounded pool for one kind of blocking work. Each running job occupies a thread, even after it was abandoned.
pub struct BlockingPool {
    under_way: Semaphore,
}

impl BlockingPool {
    /// Creates a pool for at most this many running jobs in the whole process.
    pub const fn new(at_once: usize) -> Self {
        Self {
            under_way: Semaphore::const_new(at_once),
        }
    }

    /// Runs the work; abandons it after `limit` and returns `None`.
    pub async fn run<T: Send + 'static>(
        &'static self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let done = async {
            // The semaphore is never closed.
            let permit = self.under_way.acquire().await.ok()?;
            let working = tokio::task::spawn_blocking(move || {
                let result = work();
                drop(permit);
                result
            });
            working.await.ok()
        };
        tokio::time::timeout(limit, done).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_is_begun_than_there_is_room_for() {
        static WORK: BlockingPool = BlockingPool::new(2);
        let limit = Duration::from_secs(5);
        assert_eq!(WORK.run(limit, || 1).await, Some(1));
        let (release, held) = std::sync::mpsc::channel::<()>();
        let held = std::sync::Arc::new(std::sync::Mutex::new(held));
        for _ in 0..2 {
            let held = std::sync::Arc::clone(&held);
            let work = move || held.lock().unwrap().recv().is_ok();
            assert_eq!(WORK.run(Duration::from_millis(20), work).await, None, "given up");
        }
        let begun = WORK.run(Duration::from_millis(20), || 1).await;
        assert_eq!(begun, None, "a third was begun");
        drop(release);
        assert_eq!(WORK.run(limit, || 1).await, Some(1));
    }
}
