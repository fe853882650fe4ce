//! Detects commands that a server refuses, by its own counters (`errorstat_…` of INFO): they show restrictions of
//! clients where PING and everything else in INFO looks healthy.

use std::time::Duration;

use crate::{
    redis::{info::Health, restrictions::Refused},
    time::Mono,
};

/// How long refusals restrict an instance after the counter last rose: nothing else shows that they have ended.
const REFUSED_FOR: Duration = Duration::from_secs(60);
/// Number of INFOs that must show a rise. A single one may be a moment, such as late eviction; a second one shows that
/// the refusals last.
const RISES: u32 = 2;

/// One counter.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Rising {
    counted: Option<u64>,
    rose_at: Option<Mono>,
    /// INFOs that showed a rise, none of them later than [`REFUSED_FOR`] after the one before.
    rises: u32,
}

impl Rising {
    fn count(&mut self, now: Mono, value: u64) {
        let lapsed = !self.is_recent(now);
        if lapsed {
            self.rises = 0;
        }
        // The counter begins at zero with each start and each CONFIG RESETSTAT.
        if self.counted.is_some_and(|before| value > before) {
            self.rose_at = Some(now);
            self.rises = self.rises.saturating_add(1);
        }
        self.counted = Some(value);
    }

    fn is_recent(&self, now: Mono) -> bool {
        self.rose_at.is_some_and(|at| now.since(at) < REFUSED_FOR)
    }

    fn lasts(&self, now: Mono) -> bool {
        self.is_recent(now) && self.rises >= RISES
    }
}

/// The counters that restrict.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Refusals {
    memory: Rising,
    persistence: Rising,
    read_only: Rising,
    replicas: Rising,
    /// Number of good replicas, too few, when the counter last rose.
    too_few: u64,
}

impl Refusals {
    /// Takes the counters of one INFO.
    pub(super) fn count(&mut self, now: Mono, health: &Health) {
        self.memory.count(now, health.refused_for_memory);
        self.persistence.count(now, health.refused_for_persistence);
        self.read_only.count(now, health.refused_as_replica);
        let before = self.replicas.rises;
        self.replicas.count(now, health.refused_for_replicas);
        if let Some(good) = health.good_replicas.filter(|_| self.replicas.rises > before) {
            self.too_few = good;
        }
    }

    /// The refusals that continue, as far as can be known.
    pub(super) fn last(&self, now: Mono, health: &Health) -> Refused {
        Refused {
            memory: self.memory.lasts(now),
            persistence: self.persistence.lasts(now),
            read_only: self.read_only.lasts(now),
            // A minimum of replicas is refused reliably or not at all, so the first count is enough.
            replicas: self.replicas.is_recent(now)
                && health.good_replicas.is_some_and(|good| good <= self.too_few),
        }
    }

    /// Whether something was refused recently; the next INFO shows whether that lasts.
    pub(super) fn are_recent(&self, now: Mono) -> bool {
        [&self.memory, &self.persistence, &self.read_only]
            .iter()
            .any(|rising| rising.is_recent(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(n: u64) -> Mono {
        Mono::from_millis(n * 1_000)
    }

    #[test]
    fn two_rises_last_a_minute_and_one_does_not() {
        let mut rising = Rising::default();
        // Refusals before the first INFO are past.
        rising.count(second(0), 1_000);
        assert!(!rising.is_recent(second(0)));
        rising.count(second(10), 1_001);
        assert!(rising.is_recent(second(10)) && !rising.lasts(second(10)));
        rising.count(second(11), 1_002);
        assert!(rising.lasts(second(11)) && rising.lasts(second(70)) && !rising.lasts(second(71)));
        // Later rises are counted from the start.
        rising.count(second(80), 1_003);
        assert!(!rising.lasts(second(80)));
        // A reset of the counters is no refusal.
        rising.count(second(81), 0);
        assert_eq!(rising.rises, 1);
        rising.count(second(82), 1);
        assert!(rising.lasts(second(82)));
    }
}
