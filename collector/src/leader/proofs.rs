//! The proofs that processes of other collectors have ended. The links to them write it (`peers`), the coordinator reads
//! it: a follower need not wait for the session of a leader that has provably ended.

use std::collections::BTreeSet;

use tokio::sync::watch;

/// Names of the candidate znodes of processes that have ended.
pub type Ended = BTreeSet<String>;
/// Write half.
pub type Sender = watch::Sender<Ended>;
/// Read half.
pub type Reader = watch::Receiver<Ended>;

/// Waits for a change. Never resolves where nobody links to others.
pub(super) async fn next(reader: &mut Reader) -> Ended {
    match reader.changed().await {
        Ok(()) => reader.borrow_and_update().clone(),
        Err(_) => std::future::pending().await,
    }
}
