//! Limits on batches after repeated unknown outcomes: ZooKeeper may cut the connection because of the batches, as for a
//! request beyond its `jute.maxbuffer`. Sent again unchanged, they would cut it for ever, and hold up all statuses.

use std::time::Duration;

use crate::{backoff::Backoff, ids::InstanceId, time::Mono};

/// Operations of the smallest batch: one status and its bucket.
const ROOM_MIN: usize = 2;
/// Unknown outcomes, without an applied batch between them, from which on batches are suspect. Any reconnection may
/// leave one behind.
const SUSPECT: u32 = 2;
/// A status that was sent alone this many times without an outcome is left out.
const ALONE_MAX: u32 = 3;
/// Delay between suspect batches.
const PAUSE: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// Applied batches after which the size limit is doubled: a minute of steady writing or more.
const GROW_AFTER: u32 = 256;

/// How large batches may be, and when the next one may be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct UnknownOutcomes {
    /// Unknown outcomes without an applied batch between them.
    in_a_row: u32,
    /// Largest number of operations: half of the largest suspect batch.
    ceiling: usize,
    applied: u32,
    not_before: Option<Mono>,
    alone: Option<(InstanceId, u32)>,
}

impl Default for UnknownOutcomes {
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

impl UnknownOutcomes {
    /// Number of operations that a batch may have, where `usual` is the number without suspicion.
    pub(super) fn room(&self, usual: usize) -> usize {
        usual.min(self.ceiling)
    }

    /// Whether batches are sent one at a time, which shows which of them is at fault.
    pub(super) fn one_at_a_time(&self) -> bool {
        self.in_a_row >= SUSPECT
    }

    /// When the next batch may be sent, if not now.
    pub(super) fn wait(&self, now: Mono) -> Option<Mono> {
        self.not_before.filter(|at| *at > now)
    }

    /// Records that a batch was applied.
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

    /// Records that the outcome of everything in flight is unknown. `largest` is the number of operations of the
    /// largest batch; if it was the only one, it wrote the statuses `ids`. Returns a status that must be left out.
    pub(super) fn unknown(&mut self, now: Mono, largest: usize, ids: &[&InstanceId]) -> Option<InstanceId> {
        if largest == 0 {
            // Only `publisher` was written, which is never too large.
            return None;
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.applied = 0;
        if self.in_a_row < SUSPECT {
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
