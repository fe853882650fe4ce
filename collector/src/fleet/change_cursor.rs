//! A position in the change log, and the only way to follow the fleet's changes: the publisher and each watch stream
//! hold one. A cursor never misses a change silently: if changes were dropped before it reached them, it reports that
//! it lagged, and its owner compares everything.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use redkeeper_core::ids::Revision;
use tokio_stream::{Stream, StreamExt, wrappers::WatchStream};

use super::{
    change_log::{Change, Lagged},
    view::{View, ViewHandle},
};

/// Position of one reader in the change log.
pub struct ChangeCursor {
    /// The last change that was read.
    seen: Revision,
    news: WatchStream<Revision>,
}

/// The aggregator has stopped: there will be no more changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoMoreChanges;

impl ChangeCursor {
    /// Creates a cursor positioned after the change `seen`.
    pub fn new(view: &ViewHandle, seen: Revision) -> Self {
        Self {
            seen,
            news: WatchStream::from_changes(view.revisions()),
        }
    }

    /// The last change that was read.
    pub fn seen(&self) -> Revision {
        self.seen
    }

    /// Moves the cursor past everything up to `seen`, which its owner has taken from a whole view.
    pub fn skip_to(&mut self, seen: Revision) {
        self.seen = seen;
    }

    /// At most `max` changes of `view` that were not read yet, oldest first. Afterwards the cursor is past them; if it
    /// lagged, past the newest.
    ///
    /// # Errors
    /// When some of them are no longer kept.
    pub fn some<'v>(
        &mut self,
        view: &'v View,
        max: usize,
    ) -> Result<impl Iterator<Item = &'v Change> + use<'v>, Lagged> {
        let seen = std::mem::replace(&mut self.seen, view.revision);
        let changes = view.log.after(seen, view.revision)?;
        // Revisions have no gaps.
        self.seen = Revision(view.revision.0.min(seen.0.saturating_add(max as u64)));
        Ok(changes.take(max))
    }

    /// Reads changes of `view` one by one until `wanted` returns a value for one. `None`: there are no more.
    ///
    /// # Errors
    /// When some of them are no longer kept.
    pub fn find<T>(
        &mut self,
        view: &View,
        mut wanted: impl FnMut(&Change) -> Option<T>,
    ) -> Result<Option<T>, Lagged> {
        for change in view.log.after(self.seen, view.revision)? {
            self.seen = change.revision;
            if let Some(found) = wanted(change) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Waits until there may be changes. Safe to cancel.
    ///
    /// # Errors
    /// When there will be no more.
    pub async fn changed(&mut self) -> Result<(), NoMoreChanges> {
        self.news.next().await.map(drop).ok_or(NoMoreChanges)
    }

    /// Returns whether there may be changes since the last call. If there are none, the next one wakes the task.
    ///
    /// # Errors
    /// When there will be no more.
    pub fn poll_changed(&mut self, context: &mut Context<'_>) -> Result<bool, NoMoreChanges> {
        let mut changed = false;
        // Polled until it is pending, so that the next change wakes the task.
        while let Poll::Ready(news) = Pin::new(&mut self.news).poll_next(context) {
            news.ok_or(NoMoreChanges)?;
            changed = true;
        }
        Ok(changed)
    }
}
