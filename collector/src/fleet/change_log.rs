//! The newest changes of the fleet, numbered by revision, for everybody who follows it.

use std::sync::Arc;

use imbl::Vector;
use redkeeper_core::{fleet::message_order::Origin, ids::Revision, status::Status, time::WallMs};

/// Number of changes kept for watchers, the publisher and `ListTransitions`. In the worst case, 3,000 instances dying
/// in one second, they leave a slow reader 20 s. About 100 bytes each beyond the status itself.
pub const CHANGES_MAX: usize = 65_536;

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Revision of this change.
    pub revision: Revision,
    /// Status after the change; for a removal, the last one.
    pub status: Arc<Status>,
    /// Message that caused the change; for a removal, the last one.
    pub origin: Origin,
    /// Status before the change; `None` if the instance is new. Shared with the change that brought it.
    pub previous: Option<Arc<Status>>,
    /// True if the instance is no longer known.
    pub removed: bool,
    /// Wall-clock time of the change, for display only.
    pub time: WallMs,
}

impl Change {
    /// True for a transition: the instance came or went, or its state, reason or role changed.
    pub fn is_transition(&self) -> bool {
        let same = |former: &Arc<Status>| !self.status.is_transition_from(former);
        self.removed || !self.previous.as_ref().is_some_and(same)
    }
}

/// The reader has not seen changes that are no longer kept: it must compare everything.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lagged;

/// The newest changes, in order and without gaps. Clones share their structure.
#[derive(Clone, Debug, Default)]
pub struct ChangeLog {
    changes: Vector<Change>,
}

impl ChangeLog {
    /// Adds the newest change, and drops the oldest if there are too many.
    pub fn push(&mut self, change: Change) {
        if self.changes.len() >= CHANGES_MAX {
            self.changes.pop_front();
        }
        self.changes.push_back(change);
    }

    /// Revision of the oldest change that is kept.
    pub fn oldest(&self) -> Option<u64> {
        self.changes.front().map(|change| change.revision.0)
    }

    /// Changes before `revision`, newest first.
    pub fn before(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let kept = revision.saturating_sub(self.oldest().unwrap_or(0));
        let kept = usize::try_from(kept)
            .unwrap_or(usize::MAX)
            .min(self.changes.len());
        self.changes.focus().narrow(..kept).into_iter().rev()
    }

    /// Changes after `revision` up to `newest`, the revision of the view that holds this log, oldest first.
    ///
    /// # Errors
    /// When some of them are no longer kept, or this process never issued `revision`.
    pub fn after(
        &self,
        revision: Revision,
        newest: Revision,
    ) -> Result<impl Iterator<Item = &Change>, Lagged> {
        let oldest = self.oldest().unwrap_or(newest.0 + 1);
        if revision.0 + 1 < oldest || revision > newest {
            return Err(Lagged);
        }
        let skip = usize::try_from(revision.0 + 1 - oldest).unwrap_or(usize::MAX);
        let skip = skip.min(self.changes.len());
        // Narrowing to a range avoids a search in the log for each entry.
        Ok(self.changes.focus().narrow(skip..).into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeeper_core::{
        ids::{AgentId, InstanceId},
        status::{Identity, Reason, Stage, Verdict},
    };

    fn log(revisions: std::ops::RangeInclusive<u64>) -> ChangeLog {
        let status = Arc::new(Status {
            identity: Identity {
                id: InstanceId::new("a").unwrap(),
                cluster: None,
                address: "x:1".into(),
                labels: Arc::default(),
            },
            agent: AgentId::new("h").unwrap(),
            verdict: Verdict::blank(Reason::Ok, Stage::Reply, "", WallMs(0)),
        });
        let mut log = ChangeLog::default();
        for n in revisions {
            log.push(Change {
                revision: Revision(n),
                status: status.clone(),
                origin: Origin::default(),
                previous: None,
                removed: false,
                time: WallMs(0),
            });
        }
        log
    }

    #[test]
    fn older_changes_are_found_by_their_number() {
        let log = log(5..=9);
        let before = |n| log.before(n).map(|c| c.revision.0).collect::<Vec<_>>();
        assert_eq!(before(u64::MAX), [9, 8, 7, 6, 5]);
        assert_eq!(before(7), [6, 5]);
        assert_eq!(before(5), [0; 0]);
        assert_eq!(before(0), [0; 0]);
    }

    #[test]
    fn changes_are_complete_or_refused() {
        let log = log(5..=9);
        let after = |n| {
            let changes = log.after(Revision(n), Revision(9));
            changes.map(|c| c.map(|c| c.revision.0).collect::<Vec<_>>())
        };
        assert_eq!(after(9), Ok(vec![]));
        assert_eq!(after(6), Ok(vec![7, 8, 9]));
        assert_eq!(after(4), Ok(vec![5, 6, 7, 8, 9]));
        assert_eq!(after(3), Err(Lagged));
        assert_eq!(after(10), Err(Lagged));
    }
}
