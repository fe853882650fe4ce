//! Work that the kernel may hold up for as long as it likes: names that are looked up, files, searches of `/proc`. It is
//! done beside the threads that must not wait, a bounded number at a time, and given up after its limit.

use std::time::Duration;

use tokio::sync::Semaphore;

/// A kind of such work. Each under way occupies a thread, however long ago it was given up.
pub struct Bounded {
    under_way: Semaphore,
}

impl Bounded {
    /// At most so many under way in the whole process.
    pub const fn new(at_once: usize) -> Self {
        Self {
            under_way: Semaphore::const_new(at_once),
        }
    }

    /// Does the work, or gives it up after `limit`: `None`.
    pub async fn run<T: Send + 'static>(
        &'static self,
        limit: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let done = async {
            // It is never closed.
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
        static WORK: Bounded = Bounded::new(2);
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
