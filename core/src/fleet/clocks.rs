//! Wall clocks of other hosts. They are never compared for a decision; but `since` is a time that people read, and a clock
//! that is off by hours would make it nonsense. It is corrected by the offset that the agent's messages show.

use std::time::Duration;

use crate::{status::Verdict, time::WallMs};

/// Clocks this near each other are not corrected: a message takes that long at times, and times that are corrected move
/// with each message.
pub const OFFSET_MIN: Duration = Duration::from_secs(5);
const OFFSET_MIN_MS: i64 = 5_000;
/// A corrected offset follows the clock only where it moved by more than this.
const STEP_MS: u64 = 2_000;

/// How far an agent's clock is ahead of this collector's, in milliseconds; 0 where it is near enough.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ClockOffset {
    ahead: i64,
    /// What it was before its last change: times that the agent took then, it tells as it took them.
    before: i64,
}

impl ClockOffset {
    /// Takes a reading of both clocks; zero stands for an agent that does not tell. True where the offset changed.
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

    /// Milliseconds ahead; negative: behind.
    pub fn ahead_ms(self) -> i64 {
        self.ahead
    }

    /// Brings the times of a new verdict in line with this collector's clock, and with what it remembers of the same
    /// instance: who remembers longest is right about since when a state lasts.
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

/// A time by a clock that is so far ahead, by this collector's.
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

/// Takes `earlier` for the beginning of the verdict, where that is what is remembered of the `same` time. Says whether.
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
        // Nonsense stays a time, and a time that is not known stays unknown.
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

    /// The agent tells `since` as it took it, by the clock that was wrong then.
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
            // What begins after that is told by the right clock.
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
        // A new boot of the agent knows only since when it looks; later reports of it say the same.
        assert_eq!(since(none, verdict(500, true), &verdict(100, false)), 100);
        assert_eq!(since(none, verdict(500, true), &verdict(100, true)), 100);
        // It saw itself that the state ended and began again between two reports.
        assert_eq!(since(none, verdict(500, false), &verdict(100, false)), 500);
        // What is remembered may be later than what the agent knows.
        assert_eq!(since(none, verdict(100, true), &verdict(500, true)), 100);
        let mut down = verdict(100, false);
        down.reason = Reason::ReplyTimeout;
        assert_eq!(since(none, verdict(500, true), &down), 500);
        // Corrected times of one moment are one time.
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
