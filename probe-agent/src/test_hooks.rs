//! Test hooks: let a test make one worker panic or block, and plant leaks. Compiled only with the feature `test-hooks`.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use redkeeper_runtime::supervise::Supervisor;
use tokio::sync::mpsc;

/// Directory named by `REDKEEPER_TEST_HOOK`, in which a test places `panic-<id>`, `block-<id>`, `spin-<id>`, `leak-tasks`
/// or `leak-memory`.
fn directory() -> Option<PathBuf> {
    std::env::var_os("REDKEEPER_TEST_HOOK").map(PathBuf::from)
}

/// Panics, waits for ever, or blocks the thread for ever if the test asks for it; once for each file.
pub async fn apply(id: &str) {
    let Some(directory) = directory() else { return };
    if std::fs::remove_file(directory.join(format!("panic-{id}"))).is_ok() {
        panic!("asked for by a test");
    }
    if std::fs::remove_file(directory.join(format!("block-{id}"))).is_ok() {
        std::future::pending::<()>().await;
    }
    if std::fs::remove_file(directory.join(format!("spin-{id}"))).is_ok() {
        loop {
            std::thread::park();
        }
    }
}

/// Interval of the planted leaks.
const LEAK_INTERVAL: Duration = Duration::from_millis(20);

/// Leaks while a test asks for it: tasks that wait for ever on a full channel, or memory in a map that only grows.
pub async fn leak(supervisor: Supervisor) {
    let Some(directory) = directory() else { return };
    // Nobody reads the channel, as in the daemon that redkeeper replaces.
    let (sender, _unread) = mpsc::channel::<u32>(1);
    let mut map = BTreeMap::new();
    for n in 0.. {
        tokio::select! {
            () = supervisor.stop().cancelled() => return,
            () = tokio::time::sleep(LEAK_INTERVAL) => {}
        }
        if directory.join("leak-tasks").exists() {
            let (sender, stop) = (sender.clone(), supervisor.stop().clone());
            let waits = async move {
                tokio::select! {
                    _ = sender.send(n) => {}
                    () = stop.cancelled() => {}
                }
            };
            let _never_ends = supervisor.spawn("status-writer", format!("write {n}"), waits);
        }
        if directory.join("leak-memory").exists() {
            remember_for_ever(&mut map, n);
        }
    }
}

/// The function that a heap profile must name.
#[inline(never)]
fn remember_for_ever(map: &mut BTreeMap<u32, Vec<u8>>, n: u32) {
    map.insert(n, vec![1; 256 * 1024]);
}
