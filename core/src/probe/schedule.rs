//! Decides when to probe. Probes of one agent share wake-ups: a timer for each instance cost three times as much as
//! phases rounded to common slots (measured).

use std::time::Duration;

use crate::{ids::InstanceId, time::Mono};

/// Distance of the common wake-ups: half of the interval, between 10 and 500 ms. Fewer wake-ups with more work each
/// cost less: with 200 instances and an interval of 1 s, slots of 100 ms took 1.5 times the CPU of slots of 500 ms.
pub fn slot(interval: Duration) -> Duration {
    (interval / 2)
        .clamp(Duration::from_millis(10), Duration::from_millis(500))
        .min(interval)
}

/// Position within the interval at which an instance is probed: a slot chosen by its name, so that the load is even and
/// a restart changes nothing.
pub fn phase(id: &InstanceId, interval: Duration) -> Duration {
    let slot = slot(interval);
    let slots = u32::try_from((interval.as_micros() / slot.as_micros().max(1)).max(1)).unwrap_or(u32::MAX);
    let hash = id
        .as_str()
        .bytes()
        .fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    slot * (hash % slots)
}

/// Position of an instance's less frequent work, such as INFO, within the interval of that work, in 65,536ths. Any
/// position is possible, so that the load of all instances is even.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread(pub u16);

impl Spread {
    /// Chosen by the name, so that a restart changes nothing.
    pub fn of(id: &InstanceId) -> Self {
        // FNV-1a, whose high bits differ for names that differ in a digit once they are folded.
        let hash = id.as_str().bytes().fold(0x811c_9dc5u32, |h, b| {
            (h ^ u32::from(b)).wrapping_mul(0x0100_0193)
        });
        Self((hash ^ (hash >> 16)) as u16)
    }

    /// First instant after `now` for work with this interval.
    pub fn next(self, now: Mono, interval: Duration) -> Mono {
        next(now, interval, interval.mul_f64(f64::from(self.0) / 65_536.0))
    }
}

/// First instant after `now` that lies `phase` into a multiple of `interval`.
pub fn next(now: Mono, interval: Duration, phase: Duration) -> Mono {
    let interval = u64::try_from(interval.as_micros()).unwrap_or(u64::MAX).max(1);
    let phase = u64::try_from(phase.as_micros()).unwrap_or(0) % interval;
    let base = now.0 / interval * interval + phase;
    Mono(if base > now.0 {
        base
    } else {
        base.saturating_add(interval)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn neighbours_are_spread_evenly() {
        let mut tenths = [0; 10];
        for port in 6_000..7_000 {
            let spread = Spread::of(&InstanceId::new(&format!("db01:{port}")).unwrap());
            tenths[usize::from(spread.0) * 10 / 65_536] += 1;
        }
        assert!(tenths.iter().all(|n| (60..=140).contains(n)), "{tenths:?}");
    }

    proptest! {
        #[test]
        fn next_is_soon_and_never_past(now in 0u64..1 << 50, interval in 1_000u64..10_000_000, phase in 0u64..10_000_000) {
            let at = next(Mono(now), Duration::from_micros(interval), Duration::from_micros(phase));
            prop_assert!(at > Mono(now));
            prop_assert!(at.since(Mono(now)) <= Duration::from_micros(interval));
        }

        #[test]
        fn rare_work_comes_within_its_interval(now in 0u64..1 << 50, millis in 1u64..100_000, spread: u16) {
            let (now, interval) = (Mono(now), Duration::from_millis(millis));
            let at = Spread(spread).next(now, interval);
            prop_assert!(at > now && at.since(now) <= interval);
        }

        #[test]
        fn phases_fall_on_slots(port in 1u16.., millis in 10u64..10_000) {
            let interval = Duration::from_millis(millis);
            let phase = phase(&InstanceId::new(&format!("h:{port}")).unwrap(), interval);
            prop_assert!(phase < interval);
            prop_assert_eq!(phase.as_micros() % slot(interval).as_micros(), 0);
        }
    }
}
