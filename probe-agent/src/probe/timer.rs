//! One timer for all workers. A timer of tokio that is set to an earlier time than all others costs a system
//! call, and each PING sets one; here the runtime's timer moves once for all PINGs of a slot.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use redkeeper_core::time::Mono;
use redkeeper_runtime::clock::Clock;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Kind of the task that wakes the workers.
pub const ALARMS: &str = "alarms";

#[derive(Default)]
struct Table {
    /// One entry for each worker that waits, at most.
    due: BTreeMap<(Mono, u64), Waker>,
    next: u64,
}

impl Table {
    fn first(&self) -> Option<Mono> {
        self.due.first_key_value().map(|((at, _), _)| *at)
    }
}

/// Who is to be woken, and when. Clones are the same.
#[derive(Clone)]
pub struct Alarms {
    clock: Clock,
    table: Arc<Mutex<Table>>,
    /// The first entry has another time.
    moved: Arc<Notify>,
}

impl Alarms {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody is to be woken.
    pub fn new(clock: Clock) -> Self {
        Self {
            clock,
            table: Arc::default(),
            moved: Arc::default(),
        }
    }

    /// An alarm that is not set.
    pub fn alarm(&self) -> Alarm {
        let mut table = self.table();
        table.next += 1;
        Alarm {
            id: table.next,
            set: None,
            alarms: self.clone(),
        }
    }

    /// Wakes whoever is due, until asked to stop.
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

/// The alarm of one worker.
pub struct Alarm {
    id: u64,
    set: Option<Mono>,
    alarms: Alarms,
}

impl Alarm {
    /// Ready at `at`. What it was set to before no longer counts.
    pub fn poll(&mut self, at: Mono, context: &Context<'_>) -> Poll<()> {
        if self.alarms.clock.now() >= at {
            return Poll::Ready(());
        }
        let mut table = self.alarms.table();
        let before = table.first();
        if let Some(set) = self.set.filter(|set| *set != at) {
            table.due.remove(&(set, self.id));
        }
        table.due.insert((at, self.id), context.waker().clone());
        let moved = table.first() != before;
        drop(table);
        self.set = Some(at);
        if moved {
            self.alarms.moved.notify_one();
        }
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if let Some(set) = self.set {
            self.alarms.table().due.remove(&(set, self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn until(alarm: &mut Alarm, at: Mono) {
        std::future::poll_fn(|context| alarm.poll(at, context)).await;
    }

    #[allow(clippy::disallowed_methods)] // The test owns its tasks.
    #[tokio::test(start_paused = true)]
    async fn each_is_woken_at_its_time_and_none_stays_behind() {
        let clock = Clock::simulated();
        let (alarms, stop) = (Alarms::new(clock), CancellationToken::new());
        let running = tokio::spawn(alarms.clone().run(stop.clone()));
        let start = clock.now();
        let sleepers = (1..=50u64).map(|n| {
            let mut alarm = alarms.alarm();
            tokio::spawn(async move {
                // Set late, then early: only the last one counts.
                let late = start + Duration::from_secs(900);
                let gave_up =
                    tokio::time::timeout(Duration::from_millis(n % 3), until(&mut alarm, late)).await;
                assert!(gave_up.is_err());
                until(&mut alarm, start + Duration::from_millis(10 * n)).await;
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
        assert!(alarms.table().due.is_empty());
        stop.cancel();
        running.await.unwrap();
    }
}
