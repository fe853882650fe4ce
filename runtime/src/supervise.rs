//! The supervisor starts every task of a daemon. Each task has a kind, a name and an owner; it is counted while it
//! lives, and how it ended is recorded. The end of a critical task stops the process.

use std::{
    collections::BTreeMap,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use live_task::LiveTask;

mod live_task;

/// How a task ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Exit {
    /// It returned.
    Finished,
    /// It panicked.
    Panicked,
    /// Its owner aborted it.
    Aborted,
}

impl Exit {
    /// Name for metrics and pages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::Panicked => "panicked",
            Self::Aborted => "aborted",
        }
    }
}

#[derive(Default)]
struct Books {
    live: BTreeMap<u64, Arc<LiveTask>>,
    expected: BTreeMap<&'static str, usize>,
    exits: BTreeMap<(&'static str, Exit), u64>,
}

struct Inner {
    books: Mutex<Books>,
    next: AtomicU64,
    failed: watch::Sender<Option<String>>,
    stop: CancellationToken,
    changed: watch::Sender<usize>,
}

/// Owner of all tasks of a process. Clones are the same supervisor.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

/// Handle of a started task. Dropping it does not end the task; the owner of its kind does.
#[derive(Debug)]
pub struct Task {
    handle: tokio::task::JoinHandle<Exit>,
}

impl Task {
    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Waits for its end.
    pub async fn join(self) -> Exit {
        self.handle.await.unwrap_or(Exit::Aborted)
    }
}

impl Supervisor {
    /// Creates a supervisor whose tasks stop when `stop` is cancelled.
    pub fn new(stop: CancellationToken) -> Self {
        let inner = Inner {
            books: Mutex::default(),
            next: AtomicU64::new(0),
            failed: watch::Sender::new(None),
            stop,
            changed: watch::Sender::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// The request to stop.
    pub fn stop(&self) -> &CancellationToken {
        &self.inner.stop
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // Nothing can panic while the lock is held; even then the counts would stay usable.
        self.inner.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets how many tasks of a kind there should be, for `/debug/tasks`.
    pub fn expect(&self, kind: &'static str, count: usize) {
        self.books().expected.insert(kind, count);
    }

    /// Starts a task on the present runtime.
    pub fn spawn<F>(&self, kind: &'static str, name: impl Into<String>, future: F) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let future = self.supervised(kind, name.into(), future);
        #[allow(clippy::disallowed_methods)] // The only module that spawns tasks.
        let handle = tokio::spawn(future);
        Task { handle }
    }

    /// Starts a task whose end stops the process, unless a stop was requested.
    pub fn spawn_critical<F>(&self, kind: &'static str, name: impl Into<String>, future: F) -> Task
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let future = self.critical(kind, name.into(), future);
        #[allow(clippy::disallowed_methods)] // As above.
        let handle = tokio::spawn(future);
        Task { handle }
    }

    /// Wraps a future that runs elsewhere (a runtime on its own thread) as a critical task.
    pub fn critical<F>(
        &self,
        kind: &'static str,
        name: String,
        future: F,
    ) -> impl Future<Output = Exit> + use<F>
    where
        F: Future<Output = ()>,
    {
        let supervisor = self.clone();
        self.supervised(kind, name, future).map(move |exit| {
            if !supervisor.inner.stop.is_cancelled() {
                supervisor.fail(format!(
                    "task {kind} {} although nobody asked it to stop",
                    exit.as_str()
                ));
            }
            exit
        })
    }

    /// Reports a failure that must end the process.
    pub fn fail(&self, why: String) {
        tracing::error!("{why}; stopping");
        self.inner.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            if first {
                *failed = Some(why);
            }
            first
        });
        self.inner.stop.cancel();
    }

    /// The first failure, if any.
    pub fn failure(&self) -> Option<String> {
        self.inner.failed.borrow().clone()
    }

    fn supervised<F>(
        &self,
        kind: &'static str,
        name: String,
        future: F,
    ) -> impl Future<Output = Exit> + use<F>
    where
        F: Future<Output = ()>,
    {
        let id = self.inner.next.fetch_add(1, Ordering::Relaxed);
        let task = Arc::new(LiveTask::new(kind, name));
        self.books().live.insert(id, Arc::clone(&task));
        let mut guard = Guard {
            supervisor: self.clone(),
            id,
            exit: Exit::Aborted,
        };
        // Not an `async` block, which would store the future twice: as a captured variable and as the awaited value.
        let caught = AssertUnwindSafe(future).catch_unwind();
        live_task::observed(task, caught).map(move |result| {
            guard.ended(match result {
                Ok(()) => Exit::Finished,
                Err(_) => Exit::Panicked,
            })
        })
    }

    /// All live tasks.
    pub fn live(&self) -> Vec<Arc<LiveTask>> {
        self.books().live.values().cloned().collect()
    }

    /// Number of live tasks.
    pub fn count(&self) -> usize {
        self.books().live.len()
    }

    /// Numbers of live and expected tasks by kind; the latter is `None` for kinds without an expectation.
    pub fn by_kind(&self) -> BTreeMap<&'static str, (usize, Option<usize>)> {
        let books = self.books();
        let mut kinds: BTreeMap<_, _> = books
            .expected
            .iter()
            .map(|(kind, n)| (*kind, (0, Some(*n))))
            .collect();
        for task in books.live.values() {
            kinds.entry(task.kind).or_insert((0, None)).0 += 1;
        }
        kinds
    }

    /// Numbers of ended tasks by kind and exit.
    pub fn exits(&self) -> BTreeMap<(&'static str, Exit), u64> {
        self.books().exits.clone()
    }

    /// Waits until no task lives, at most `limit`, and logs once a second which still do. Returns whether all ended.
    /// Tasks of the kinds in `but` are ignored.
    pub async fn all_ended(&self, but: &[&str], limit: Duration) -> bool {
        self.ended(|kind| !but.contains(&kind), limit).await
    }

    /// As [`all_ended`](Self::all_ended), for tasks of these kinds only.
    pub async fn kinds_ended(&self, kinds: &[&str], limit: Duration) -> bool {
        self.ended(|kind| kinds.contains(&kind), limit).await
    }

    async fn ended(&self, concerns: impl Fn(&str) -> bool, limit: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + limit;
        let mut changed = self.inner.changed.subscribe();
        loop {
            let left: Vec<_> = self
                .live()
                .into_iter()
                .filter(|t| concerns(t.kind))
                .map(|t| format!("{} {}", t.kind, t.name))
                .collect();
            if left.is_empty() {
                return true;
            }
            let now = tokio::time::Instant::now();
            if now >= deadline {
                tracing::error!(?left, "tasks did not end in time");
                return false;
            }
            let next = deadline.min(now + Duration::from_secs(1));
            tokio::select! {
                _ = changed.changed() => (),
                () = tokio::time::sleep_until(next) => tracing::info!(?left, "still running"),
            }
        }
    }
}

struct Guard {
    supervisor: Supervisor,
    id: u64,
    exit: Exit,
}

impl Guard {
    fn ended(&mut self, exit: Exit) -> Exit {
        self.exit = exit;
        exit
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut books = self.supervisor.books();
        let Some(task) = books.live.remove(&self.id) else {
            return;
        };
        *books.exits.entry((task.kind, self.exit)).or_default() += 1;
        let left = books.live.len();
        drop(books);
        self.supervisor.inner.changed.send_replace(left);
        if self.exit == Exit::Panicked {
            tracing::error!(kind = task.kind, name = task.name, "task panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_exit_is_seen() {
        let supervisor = Supervisor::new(CancellationToken::new());
        let done = supervisor.spawn("a", "1", async {});
        let panics = supervisor.spawn("a", "2", async { panic!("planted") });
        let stuck = supervisor.spawn("b", "3", std::future::pending());
        assert_eq!(done.join().await, Exit::Finished);
        assert_eq!(panics.join().await, Exit::Panicked);
        assert_eq!(supervisor.by_kind()["b"], (1, None));
        stuck.abort();
        assert_eq!(stuck.join().await, Exit::Aborted);
        assert!(supervisor.all_ended(&[], Duration::from_secs(5)).await);
        let exits = supervisor.exits();
        assert_eq!(
            (
                exits[&("a", Exit::Finished)],
                exits[&("a", Exit::Panicked)],
                exits[&("b", Exit::Aborted)]
            ),
            (1, 1, 1)
        );
        assert_eq!(supervisor.failure(), None);
    }

    #[tokio::test]
    async fn the_end_of_a_critical_task_stops_the_process() {
        let supervisor = Supervisor::new(CancellationToken::new());
        supervisor.spawn_critical("heart", "", async {}).join().await;
        assert!(supervisor.stop().is_cancelled());
        assert!(supervisor.failure().is_some_and(|why| why.contains("heart")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_named_and_left_behind() {
        let supervisor = Supervisor::new(CancellationToken::new());
        let _stuck = supervisor.spawn("a", "stuck", std::future::pending());
        assert!(!supervisor.all_ended(&[], Duration::from_secs(3)).await);
    }
}
