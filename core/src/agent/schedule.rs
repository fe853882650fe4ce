//! When to probe. Probes of one agent share wake-ups: a timer per instance was measured to cost three
//! times as much as phases rounded to common slots.

use std::time::Duration;

use crate::{ids::InstanceId, time::Mono};

/// Distance of the common wake-ups: half of the interval, 10 to 500 ms. Fewer and fuller ones cost less: with 200
/// instances and an interval of 1 s, slots of 100 ms took 1.5 times the CPU of slots of 500 ms.
pub fn slot(interval: Duration) -> Duration {
    (interval / 2)
        .clamp(Duration::from_millis(10), Duration::from_millis(500))
        .min(interval)
}

/// Where in the interval an instance is probed: a slot chosen by its name, so that the load is even and a
/// restart changes nothing.
pub fn phase(id: &InstanceId, interval: Duration) -> Duration {
    let slot = slot(interval);
    let slots = u32::try_from((interval.as_micros() / slot.as_micros().max(1)).max(1)).unwrap_or(u32::MAX);
    let hash = id
        .as_str()
        .bytes()
        .fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    slot * (hash % slots)
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

    proptest! {
        #[test]
        fn next_is_soon_and_never_past(now in 0u64..1 << 50, interval in 1_000u64..10_000_000, phase in 0u64..10_000_000) {
            let at = next(Mono(now), Duration::from_micros(interval), Duration::from_micros(phase));
            prop_assert!(at > Mono(now));
            prop_assert!(at.since(Mono(now)) <= Duration::from_micros(interval));
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
