//! Decides when the leader hands over to a collector that hears far more agents directly than it does itself: the leader
//! is then the one that is cut off, and what it publishes takes a detour or is held.

use std::time::Duration;

use crate::time::Mono;

/// The other collector must hear at least so many agents more, so that a small fleet does not swing to and fro.
const MORE_MIN: usize = 3;
/// And the leader at most this share of what the other one hears, in percent.
const SHARE_MAX: usize = 80;
/// It must stay like this for so long: agents connect to one collector after the other.
pub const STEADY: Duration = Duration::from_secs(5);
/// Time between two hand-overs by the same collector, and between its claim and its first one.
pub const PAUSE: Duration = Duration::from_secs(30);

/// A collector that could lead, and how many agents it hears directly.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Heir {
    /// Its id.
    pub id: String,
    /// Number of agents.
    pub heard: usize,
}

/// What the leader has seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HandOver {
    /// The collector that is better connected, and since when.
    better: Option<(String, Mono)>,
    /// When this collector claimed, or handed over last.
    since: Option<Mono>,
}

/// Whether a collector hears far more agents than the leader.
fn is_far_better(heard: usize, own: usize) -> bool {
    heard >= own + MORE_MIN && own * 100 <= heard * SHARE_MAX
}

impl HandOver {
    /// Looks at the present numbers. `leads`: whether this collector leads; `own`: how many agents it hears directly.
    /// Returns the id of the collector to hand over to.
    pub fn step(&mut self, now: Mono, leads: bool, own: usize, heirs: &[Heir]) -> Option<String> {
        if !leads {
            *self = Self::default();
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let best = heirs.iter().filter(|heir| is_far_better(heir.heard, own));
        // The first of several that hear as many, so that the choice stays the same.
        let best = best.max_by(|a, b| a.heard.cmp(&b.heard).then_with(|| b.id.cmp(&a.id)));
        let Some(best) = best.map(|heir| heir.id.clone()) else {
            self.better = None;
            return None;
        };
        let better_since = match self.better.take() {
            Some((id, at)) if id == best => at,
            _ => now,
        };
        self.better = Some((best.clone(), better_since));
        if now.since(better_since) < STEADY || now.since(since) < PAUSE {
            return None;
        }
        (self.better, self.since) = (None, Some(now));
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heir(id: &str, heard: usize) -> Heir {
        Heir {
            id: id.to_owned(),
            heard,
        }
    }

    fn at(seconds: u64) -> Mono {
        Mono::from_millis(seconds * 1_000)
    }

    #[test]
    fn far_more_for_a_while_is_a_reason() {
        let (mut hand_over, some) = (HandOver::default(), [heir("b", 5), heir("c", 9), heir("d", 9)]);
        assert_eq!(hand_over.step(at(0), true, 9, &some), None);
        for seconds in 100..105 {
            assert_eq!(hand_over.step(at(seconds), true, 6, &some), None);
        }
        assert_eq!(hand_over.step(at(105), true, 6, &some).as_deref(), Some("c"));
        // Nobody took it: it is tried again later, not at once.
        for seconds in 106..135 {
            assert_eq!(hand_over.step(at(seconds), true, 6, &some), None);
        }
        assert_eq!(hand_over.step(at(135), true, 6, &some).as_deref(), Some("c"));
    }

    #[test]
    fn a_short_difference_a_small_one_and_that_of_a_new_leader_are_none() {
        let mut hand_over = HandOver::default();
        for seconds in 0..100 {
            // Heard by turns.
            let own = if seconds % 4 == 0 { 9 } else { 1 };
            assert_eq!(hand_over.step(at(seconds), true, own, &[heir("b", 9)]), None);
        }
        let mut hand_over = HandOver::default();
        for seconds in 0..100 {
            for (own, heard) in [(9, 11), (0, 2), (90, 100)] {
                assert_eq!(hand_over.step(at(seconds), true, own, &[heir("b", heard)]), None);
            }
        }
        let mut hand_over = HandOver::default();
        for seconds in 0..30 {
            assert_eq!(hand_over.step(at(seconds), true, 0, &[heir("b", 9)]), None);
        }
        assert_eq!(
            hand_over.step(at(30), true, 0, &[heir("b", 9)]).as_deref(),
            Some("b")
        );
        assert_eq!(hand_over.step(at(31), false, 0, &[heir("b", 9)]), None);
        assert_eq!(hand_over, HandOver::default());
    }

    proptest! {
        /// Whoever leads after a hand-over does not hand back for the same reason.
        #[test]
        fn nobody_hands_back(own in 0usize..2_000, heard in 0usize..2_000) {
            prop_assert!(!(is_far_better(heard, own) && is_far_better(own, heard)));
        }
    }
}
