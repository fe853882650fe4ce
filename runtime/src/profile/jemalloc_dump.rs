//! Reads the heap profile as jemalloc writes it (`heap_v2`): for each stack a line `@ 0x1 0x2` with return addresses, the
//! innermost first, and then a line for all threads and lines for each one:
//!
//! ```text
//!   t*: 3: 1572864 [7: 3670016]
//! ```
//!
//! Those are the sampled allocations in use and their bytes, and in brackets all since the start.

use super::{Stack, Unit};

/// The stacks with their estimated bytes, in use or [`Allocated`](Unit::Allocated).
///
/// # Errors
/// When the text is not such a profile; says where.
pub(super) fn parse(text: &str, unit: Unit) -> Result<Vec<Stack>, String> {
    let mut lines = text.lines().enumerate();
    let (_, first) = lines.next().ok_or("it is empty")?;
    let rate: f64 = first
        .strip_prefix("heap_v2/")
        .and_then(|rate| rate.parse().ok())
        .filter(|rate| *rate > 0.0)
        .ok_or_else(|| format!("it begins with {first:?}"))?;
    let (mut stacks, mut addresses) = (Vec::new(), None);
    for (n, line) in lines {
        let wrong = || format!("line {} is {line:?}", n + 1);
        let line = line.trim_start();
        if let Some(stack) = line.strip_prefix('@') {
            addresses = Some(stack_of(stack).ok_or_else(wrong)?);
        } else if let Some(counts) = line.strip_prefix("t*:")
            && let Some(addresses) = addresses.take()
        {
            let (count, bytes) = counts_of(counts, unit).ok_or_else(wrong)?;
            let weight = estimate(count, bytes, rate);
            // A stack of which everything was freed.
            if weight >= 1.0 {
                stacks.push(Stack { addresses, weight });
            }
        }
    }
    Ok(stacks)
}

fn stack_of(text: &str) -> Option<Vec<usize>> {
    let address = |word: &str| usize::from_str_radix(word.strip_prefix("0x")?, 16).ok();
    // The call is before the return address.
    text.split_whitespace()
        .map(|word| Some(address(word)?.saturating_sub(1)))
        .collect()
}

fn counts_of(text: &str, unit: Unit) -> Option<(f64, f64)> {
    let (in_use, total) = text.split_once('[')?;
    let counts = match unit {
        Unit::Allocated => total.split_once(']')?.0,
        Unit::InUse | Unit::Cpu => in_use,
    };
    let (count, bytes) = counts.split_once(':')?;
    Some((count.trim().parse().ok()?, bytes.trim().parse().ok()?))
}

/// Bytes that the sampled ones stand for. An allocation is sampled with a probability of 1 - e^(-size/rate), as jemalloc's
/// own `jeprof` computes it; the size is the mean of this stack.
fn estimate(count: f64, bytes: f64, rate: f64) -> f64 {
    if count < 1.0 {
        return 0.0;
    }
    bytes / (1.0 - (-bytes / count / rate).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "heap_v2/524288\n  t*: 9: 99 [9: 99]\n  t1: 9: 99 [9: 99]\n@ 0x10 0x20\n  t*: 1: 524288 [3: 1572864]\n  \
                        t1: 1: 524288 [3: 1572864]\n@ 0x30\n  t*: 0: 0 [2: 1048576]\n\nMAPPED_LIBRARIES:\n0-1 r-xp t*: [\n";

    #[test]
    fn stacks_are_read_with_what_is_in_use_or_was_allocated() {
        let weights = |unit| {
            let stacks = parse(TEXT, unit).unwrap();
            stacks
                .into_iter()
                .map(|s| (s.addresses, s.weight.round()))
                .collect::<Vec<_>>()
        };
        // One in 1 - 1/e.
        assert_eq!(weights(Unit::InUse), [(vec![0xf, 0x1f], 829_411.0)]);
        assert_eq!(
            weights(Unit::Allocated),
            [(vec![0xf, 0x1f], 2_488_234.0), (vec![0x2f], 1_658_823.0)]
        );
    }

    #[test]
    fn large_allocations_are_always_sampled_and_small_ones_rarely() {
        assert_eq!(estimate(1.0, 1e9, 524_288.0), 1e9);
        let small = estimate(10.0, 640.0, 524_288.0);
        assert!((small - 10.0 * 524_288.0).abs() < 1_000.0, "{small}");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "x",
            "heap_v2/0\n",
            "heap_v2/-1\n",
            "heap_v2/524288\n@ 0xzz\n",
            "heap_v2/1\n@ 0x1\n t*: 1\n",
        ] {
            assert!(parse(text, Unit::InUse).is_err(), "{text:?}");
        }
    }
}
