//! Tells others what the term does: the metric of pending statuses, and the record for debug pages.

use super::LeaderTerm;
use crate::store::{
    Store,
    diagnostics::{NAMED_MAX, Publishing},
};

impl<S: Store> LeaderTerm<S> {
    /// Updates the metric at once, so that it is true whenever it is read.
    pub(super) fn note_pending(&self) {
        let pending = i64::try_from(self.pending()).unwrap_or(i64::MAX);
        self.setup.metrics.pending.set(pending);
    }

    /// Records what the term does now.
    pub(super) fn note_progress(&self) {
        let stage = match (&self.resolving, &self.takeover) {
            (Some(_), _) => "resolving",
            (None, Some(_)) => "taking over",
            (None, None) => "writing",
        };
        let publisher = &self.publisher;
        let few_pending = publisher.pending_ids(NAMED_MAX);
        self.setup.diagnostics.publishing(Publishing {
            stage,
            on_hold: self.paused,
            seen: self.cursor.seen(),
            pending: self.pending(),
            few_pending: few_pending.map(|ids| (ids, publisher.oldest_pending())),
            refused: publisher.quarantined_ids(NAMED_MAX),
            writes_in_flight: self.commits.len(),
            audit_reading: self.audit.as_ref().map(|(bucket, _)| *bucket),
            audit_position: Some(publisher.audit_position()),
        });
    }
}
