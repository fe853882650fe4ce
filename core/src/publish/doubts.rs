//! What follows from batches whose outcome is unknown again and again: perhaps ZooKeeper cuts the connection because of
//! them, as for a request beyond its `jute.maxbuffer`. Sent again unchanged, they would cut it for ever, for everybody.

use std::time::Duration;

use crate::{backoff::Backoff, ids::InstanceId, time::Mono};

/// Operations of the smallest batch: one status and its bucket.
const ROOM_MIN: usize = 2;
/// One unknown outcome is what any reconnection leaves behind. More without an applied batch between them are suspect.
const SUSPECT: u32 = 2;
/// A status that was sent alone so often without an outcome is left out.
const ALONE_MAX: u32 = 3;
/// Between batches that are suspect.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Applied batches after which twice as large ones are tried: a minute of steady writing or more.
const GROW_AFTER: u32 = 256;

/// How large batches may be, and when the next one may go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Doubts {
    /// Unknown outcomes without an applied batch between them.
    in_a_row: u32,
    /// Half of the largest batch that was suspect.
    ceiling: usize,
    applied: u32,
    not_before: Option<Mono>,
    alone: Option<(InstanceId, u32)>,
}

impl Default for Doubts {
    fn default() -> Self {
        Self {
            in_a_row: 0,
            ceiling: usize::MAX,
            applied: 0,
            not_before: None,
            alone: None,
        }
    }
}

impl Doubts {
    /// Operations that a batch may have, of the usual number.
    pub(super) fn room(&self, usual: usize) -> usize {
        usual.min(self.ceiling)
    }

    /// Whether batches go one at a time, so that it is known which of them is at fault.
    pub(super) fn one_at_a_time(&self) -> bool {
        self.in_a_row >= SUSPECT
    }

    /// When the next batch may go, if not now.
    pub(super) fn wait(&self, now: Mono) -> Option<Mono> {
        self.not_before.filter(|at| *at > now)
    }

    /// A batch was applied.
    pub(super) fn applied(&mut self) {
        (self.in_a_row, self.not_before, self.alone) = (0, None, None);
        if self.ceiling < usize::MAX {
            self.applied += 1;
            if self.applied >= GROW_AFTER {
                self.applied = 0;
                self.ceiling = self.ceiling.saturating_mul(2);
            }
        }
    }

    /// The outcome of everything in flight is unknown: the largest batch had so many operations, and where it was the
    /// only one, it wrote these statuses. Returns a status that must be left out.
    pub(super) fn unknown(&mut self, now: Mono, largest: usize, ids: &[&InstanceId]) -> Option<InstanceId> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.applied = 0;
        if self.in_a_row < SUSPECT || largest == 0 {
            return None;
        }
        self.ceiling = (largest / 2).max(ROOM_MIN);
        self.not_before = Some(now + PAUSE.base(self.in_a_row - SUSPECT));
        let [id] = ids else {
            return None;
        };
        let before = self
            .alone
            .take()
            .filter(|(former, _)| former == *id)
            .map_or(0, |(_, n)| n);
        if before + 1 < ALONE_MAX {
            self.alone = Some(((*id).clone(), before + 1));
            return None;
        }
        Some((*id).clone())
    }
}
