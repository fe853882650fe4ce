//! Detects whether a state changes repeatedly.

use std::{collections::VecDeque, time::Duration};

use crate::time::Mono;

/// Number of state changes within [`WINDOW`] that is flapping: one death and one recovery are two.
const CHANGES: usize = 6;
const WINDOW: Duration = Duration::from_secs(600);

/// The newest changes of state, at most [`CHANGES`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Flapping {
    changes: VecDeque<Mono>,
}

impl Flapping {
    pub(super) fn changed(&mut self, now: Mono) {
        if self.changes.len() == CHANGES {
            self.changes.pop_front();
        }
        self.changes.push_back(now);
    }

    pub(super) fn is_flapping(&self, now: Mono) -> bool {
        self.changes.len() == CHANGES
            && self
                .changes
                .front()
                .is_some_and(|first| now.since(*first) < WINDOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn six_changes_within_ten_minutes_flap() {
        let mut flapping = Flapping::default();
        for minute in 0..6 {
            assert!(!flapping.is_flapping(Mono::from_millis(minute * 60_000)));
            flapping.changed(Mono::from_millis(minute * 60_000));
        }
        assert!(flapping.is_flapping(Mono::from_millis(599_999)));
        assert!(!flapping.is_flapping(Mono::from_millis(600_000)));
        flapping.changed(Mono::from_millis(600_000));
        assert!(flapping.is_flapping(Mono::from_millis(659_999)));
    }
}
