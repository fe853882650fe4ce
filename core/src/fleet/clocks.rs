//! Corrects times by the wall clocks of other hosts. No decision compares such clocks, but `since` is shown to users,
//! and a clock that is off by hours would make it useless. It is corrected by the offset that the agent's messages
//! show.

use std::time::Duration;

use crate::{status::Verdict, time::WallMs};

/// Smallest offset that is corrected: a message may take that long, and corrected times move with each message.
pub const OFFSET_MIN: Duration = Duration::from_secs(5);
const OFFSET_MIN_MS: i64 = 5_000;
/// Smallest change of the clock that changes a corrected offset.
const STEP_MS: u64 = 2_000;

/// How far an agent's clock is ahead of this collector's, in milliseconds; 0 if it is near enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockOffset {
    ahead: i64,
    /// The offset before its last change: the agent keeps reporting earlier times as it read them then.
    before: i64,
}

impl ClockOffset {
    /// Takes a reading of both clocks; zero stands for an agent that does not send its time. Returns whether the offset
    /// changed.
    pub(super) fn observe(&mut self, theirs: WallMs, ours: WallMs) -> bool {
        if theirs == WallMs::default() {
            return false;
        }
        let signed = |time: WallMs| i64::try_from(time.0).unwrap_or(i64::MAX);
        let ahead = signed(theirs).saturating_sub(signed(ours));
        let new = if ahead.abs() < OFFSET_MIN_MS {
            0
        } else if self.ahead != 0 && ahead.abs_diff(self.ahead) < STEP_MS {
            self.ahead
        } else {
            ahead
        };
        let changed = new != self.ahead;
        if changed {
            self.before = std::mem::replace(&mut self.ahead, new);
        }
        changed
    }

    /// Milliseconds by which the agent's clock is ahead; negative if it is behind.
    pub fn ahead_ms(self) -> i64 {
        self.ahead
    }

    /// Brings the times of a new verdict in line with this collector's clock, and with what is remembered of the same
    /// instance: of two beginnings of the same state, the earlier one is right.
    pub(super) fn settle(self, verdict: &mut Verdict, former: Option<&Verdict>) {
        let told = verdict.since;
        verdict.since = correct(told, self.ahead);
        if let Some(former) = former.filter(|former| former.reason == verdict.reason) {
            let was_corrected = (self.ahead, self.before) != (0, 0);
            let is_same = |ahead| is_near(former.since, correct(told, ahead));
            let same =
                verdict.since_is_bound || (was_corrected && (is_same(self.ahead) || is_same(self.before)));
            if keep_earlier(verdict, former.since, same) {
                verdict.since_is_bound = former.since_is_bound;
            }
        }
    }
}

/// Converts a time of a clock that is `ahead` to this collector's clock.
fn correct(time: WallMs, ahead: i64) -> WallMs {
    if time == WallMs::default() {
        return time;
    }
    WallMs(time.0.saturating_add_signed(ahead.saturating_neg()))
}

/// Whether two times may be the same one, seen through clocks that were corrected.
pub(super) fn is_near(a: WallMs, b: WallMs) -> bool {
    u128::from(a.0.abs_diff(b.0)) <= OFFSET_MIN.as_millis()
}

/// Uses `earlier` as the beginning of the verdict, if it is an earlier or exact reading of the `same` time. Returns
/// whether it did.
pub(super) fn keep_earlier(verdict: &mut Verdict, earlier: WallMs, same: bool) -> bool {
    let keep =
        same && earlier != WallMs::default() && (earlier.0 < verdict.since.0 || !verdict.since_is_bound);
    if keep {
        verdict.since = earlier;
    }
    keep
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Reason, Stage};

    const NOW: WallMs = WallMs(1_700_000_000_000);
    const HOUR: u64 = 3_600_000;

    fn offset(theirs: u64) -> ClockOffset {
        let mut offset = ClockOffset::default();
        offset.observe(WallMs(theirs), NOW);
        offset
    }

    fn verdict(since: u64, bound: bool) -> Verdict {
        let mut verdict = Verdict::blank(Reason::Ok, Stage::Reply, "", WallMs(since));
        verdict.since_is_bound = bound;
        verdict
    }

    #[test]
    fn clocks_that_are_near_are_left_alone_and_others_corrected() {
        for near in [0, 1, 4_999] {
            assert_eq!(offset(NOW.0 + near).ahead_ms(), 0);
            assert_eq!(offset(NOW.0 - near).ahead_ms(), 0);
        }
        let fast = offset(NOW.0 + HOUR);
        assert_eq!(correct(WallMs(NOW.0 + HOUR - 10), fast.ahead), WallMs(NOW.0 - 10));
        let slow = offset(NOW.0 - 400 * 24 * HOUR);
        assert_eq!(correct(WallMs(NOW.0 - 400 * 24 * HOUR), slow.ahead), NOW);
        // An implausible time stays a time, and an unknown time stays unknown.
        assert_eq!(correct(WallMs(u64::MAX), offset(1).ahead), WallMs(u64::MAX));
        assert_eq!(correct(WallMs(1), offset(u64::MAX).ahead), WallMs(0));
        assert_eq!(correct(WallMs(0), fast.ahead), WallMs(0));
    }

    #[test]
    fn an_offset_does_not_tremble() {
        let mut offset = ClockOffset::default();
        assert!(offset.observe(WallMs(NOW.0 + HOUR), NOW));
        for late in [1, 20, 1_500] {
            assert!(!offset.observe(WallMs(NOW.0 + HOUR - late), NOW));
        }
        assert!(!offset.observe(WallMs(0), NOW), "an older agent does not tell");
        assert!(offset.observe(WallMs(NOW.0), NOW));
        assert_eq!(offset.ahead_ms(), 0);
    }

    /// The agent reports `since` as it read it, by the clock that was wrong then.
    #[test]
    fn a_clock_that_is_set_right_moves_no_time() {
        for wrong in [NOW.0 + HOUR, NOW.0 - 400 * 24 * HOUR] {
            let mut clock = offset(wrong);
            let told = verdict(wrong - 60_000, false);
            let mut first = told.clone();
            clock.settle(&mut first, None);
            assert_eq!(first.since.0, NOW.0 - 60_000);
            let later = WallMs(NOW.0 + 30_000);
            assert!(clock.observe(later, later));
            let mut again = told.clone();
            clock.settle(&mut again, Some(&first));
            assert_eq!(again.since, first.since);
            // What begins after that is reported by the right clock.
            let mut new = verdict(NOW.0 + 40_000, false);
            clock.settle(&mut new, Some(&first));
            assert_eq!(new.since.0, NOW.0 + 40_000);
        }
    }

    #[test]
    fn who_remembers_longest_is_right() {
        let none = ClockOffset::default();
        let since = |offset: ClockOffset, new: Verdict, former: &Verdict| {
            let mut new = new;
            offset.settle(&mut new, Some(former));
            new.since.0
        };
        // A new boot of the agent knows only since when it has probed; its later reports say the same.
        assert_eq!(since(none, verdict(500, true), &verdict(100, false)), 100);
        assert_eq!(since(none, verdict(500, true), &verdict(100, true)), 100);
        // The agent itself saw that the state ended and began again between two reports.
        assert_eq!(since(none, verdict(500, false), &verdict(100, false)), 500);
        // What is remembered may be later than what the agent knows.
        assert_eq!(since(none, verdict(100, true), &verdict(500, true)), 100);
        let mut down = verdict(100, false);
        down.reason = Reason::ReplyTimeout;
        assert_eq!(since(none, verdict(500, true), &down), 500);
        // Corrected times of one moment count as one time.
        let fast = offset(NOW.0 + HOUR);
        let former = verdict(NOW.0 - 60_000, false);
        assert_eq!(
            since(fast, verdict(NOW.0 + HOUR - 59_000, false), &former),
            NOW.0 - 60_000
        );
        assert_eq!(
            since(fast, verdict(NOW.0 + HOUR - 10_000, false), &former),
            NOW.0 - 10_000
        );
    }
}
