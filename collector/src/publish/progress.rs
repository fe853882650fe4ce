//! Tells others what the term does: the metric of pending statuses, and the record for debug pages.

use redkeeper_core::publish::Publisher;

use super::{LeaderTerm, Stage};
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
        let (stage, publisher) = match &self.stage {
            Stage::Reading(_) => ("reading", None),
            Stage::Writing(publisher) => ("writing", Some(&**publisher)),
            Stage::Resolving(publisher, ..) => ("resolving", Some(&**publisher)),
        };
        let few_pending = |publisher: &Publisher| {
            let ids = publisher.pending_ids(NAMED_MAX)?;
            Some((ids, publisher.oldest_pending()))
        };
        self.setup.diagnostics.publishing(Publishing {
            stage,
            on_hold: self.paused,
            seen: self.cursor.seen(),
            pending: self.pending(),
            few_pending: publisher.and_then(few_pending),
            refused: publisher.map_or_else(Vec::new, |publisher| publisher.quarantined_ids(NAMED_MAX)),
            writes_in_flight: self.commits.len(),
            audit_reading: self.audit.as_ref().map(|(bucket, _)| *bucket),
            audit_position: publisher.map(Publisher::audit_position),
        });
    }
}
