//! Test hooks: let a test make one worker panic or block. Compiled only with the feature `test-hooks`.

use std::path::PathBuf;

/// Directory named by `REDKEEPER_TEST_HOOK`, in which a test places `panic-<id>`, `block-<id>` or `spin-<id>`.
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
