//! A timer shared by all workers. A tokio timer that is set to an earlier time than all others costs a system call, and
//! each PING sets one; here the runtime's timer moves once for all PINGs of a slot.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use redkeeper_core::time::Mono;
use redkeeper_runtime::clock::Clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Task kind of the task that wakes the workers.
pub const TIMERS: &str = "timers";

#[derive(Default)]
struct Table {
    /// Wakers by due time; at most one entry for each worker.
    due: BTreeMap<(Mono, u64), Waker>,
    next: u64,
}

impl Table {
    fn first(&self) -> Option<Mono> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

/// Table of wakers by due time. Clones share state.
#[derive(Clone)]
pub struct Timers {
    clock: Clock,
    table: Arc<Mutex<Table>>,
    /// Notified when the earliest due time changes.
    moved: Arc<Notify>,
}

impl Timers {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the lock is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Creates an empty table.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            table: Arc::default(),
            moved: Arc::default(),
        }
    }

    /// Creates a timer that is not set.
    pub fn timer(&self) -> Timer {
        let mut table = self.table();
        table.next += 1;
        Timer {
            id: table.next,
            set: None,
            timers: self.clone(),
        }
    }

    /// Wakes the workers that are due, until asked to stop.
    pub async fn run(self, stop: CancellationToken) {
        loop {
            let first = self.table().first();
            let due = async {
                match first {
                    Some(at) => tokio::time::sleep_until(self.clock.instant(at)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.moved.notified() => {}
                () = due => self.wake(),
            }
        }
    }

    fn wake(&self) {
        let now = self.clock.now();
        let mut table = self.table();
        let later = table.due.split_off(&(now, u64::MAX));
        let due = std::mem::replace(&mut table.due, later);
        drop(table);
        due.into_values().for_each(Waker::wake);
    }
}

/// The timer of one worker.
pub struct Timer {
    id: u64,
    set: Option<Mono>,
    timers: Timers,
}

impl Timer {
    /// Ready at `at`, which replaces any earlier setting.
    pub fn poll(&mut self, at: Mono, context: &Context<'_>) -> Poll<()> {
        if self.timers.clock.now() >= at {
            return Poll::Ready(());
        }
        let mut table = self.timers.table();
        let before = table.first();
        if let Some(set) = self.set.filter(|set| *set != at) {
            table.due.remove(&(set, self.id));
        }
        table.due.insert((at, self.id), context.waker().clone());
        let moved = table.first() != before;
        drop(table);
        self.set = Some(at);
        if moved {
            self.timers.moved.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        if let Some(set) = self.set {
            self.timers.table().due.remove(&(set, self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn until(timer: &mut Timer, at: Mono) {
        std::future::poll_fn(|context| timer.poll(at, context)).await;
    }

    #[allow(clippy::disallowed_methods)] // The test owns its tasks.
    #[tokio::test(start_paused = true)]
    async fn each_is_woken_at_its_time_and_none_stays_behind() {
        let clock = Clock::simulated();
        let (timers, stop) = (Timers::new(clock), CancellationToken::new());
        let running = tokio::spawn(timers.clone().run(stop.clone()));
        let start = clock.now();
        let sleepers = (1..=50u64).map(|n| {
            let mut timer = timers.timer();
            tokio::spawn(async move {
                // Set late, then early: only the last setting counts.
                let late = start + Duration::from_secs(900);
                let gave_up =
                    tokio::time::timeout(Duration::from_millis(n % 3), until(&mut timer, late)).await;
                assert!(gave_up.is_err());
                until(&mut timer, start + Duration::from_millis(10 * n)).await;
                (n, clock.now().since(start))
            })
        });
        for sleeper in sleepers.collect::<Vec<_>>() {
            let (n, woken) = sleeper.await.unwrap();
            let due = Duration::from_millis(10 * n);
            assert!(
                woken >= due && woken <= due + Duration::from_millis(2),
                "{n}: {woken:?}"
            );
        }
        assert!(timers.table().due.is_empty());
        stop.cancel();
        running.await.unwrap();
    }
}
