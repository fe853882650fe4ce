//! The allocator of the daemons, which reports how much is allocated: resident memory alone cannot distinguish a leak
//! from free memory that was not returned to the system.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tikv_jemalloc_ctl::{Access, AsName, epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Name of the statistic of memory cached by threads for their next allocations, in all arenas (4096 stands for them).
/// The allocator counts it as allocated, although the program has freed it; it depends on which thread did what last.
const TCACHE_BYTES: &[u8] = b"stats.arenas.4096.tcache_bytes\0";

/// Statistics of the allocator, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocated {
    /// Allocated by the program and not freed, without the threads' caches.
    pub allocated: usize,
    /// Pages of the allocator in physical memory, at most.
    pub resident: usize,
}

/// Reads the present statistics; `None` if the allocator does not report them.
pub fn allocated() -> Option<Allocated> {
    // The statistics are those of the last epoch, so advance it first.
    epoch::advance().ok()?;
    let cached: usize = TCACHE_BYTES.name().read().ok()?;
    Some(Allocated {
        allocated: stats::allocated::read().ok()?.saturating_sub(cached),
        resident: stats::resident::read().ok()?,
    })
}

/// More statistics of the allocator, in bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// Allocated by the program and not freed, without the threads' caches.
    pub allocated: usize,
    /// Pages in which something is allocated.
    pub active: usize,
    /// Pages in physical memory, at most.
    pub resident: usize,
    /// Taken from the system.
    pub mapped: usize,
    /// Given back to the system, except for the addresses.
    pub retained: usize,
    /// The allocator's own data.
    pub metadata: usize,
    /// Freed by the program, and kept by threads for their next allocations.
    pub thread_caches: usize,
    /// The arenas that are in use.
    pub arenas: Vec<Arena>,
}

/// Statistics of one arena, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arena {
    /// Its number.
    pub index: u32,
    /// Threads that allocate from it.
    pub threads: u32,
    /// Allocated in small pieces.
    pub small: usize,
    /// Allocated in large pieces.
    pub large: usize,
    /// Pages in which something is allocated.
    pub active: usize,
    /// Unused pages that may still be in physical memory.
    pub dirty: usize,
}

/// Reads all statistics; `None` if the allocator does not report them.
pub fn statistics() -> Option<Statistics> {
    let Allocated { allocated, resident } = allocated()?;
    let arenas: u32 = read("arenas.narenas")?;
    let page: usize = read("arenas.page")?;
    let arena = |index| {
        let of = |what: &str| format!("stats.arenas.{index}.{what}");
        let bytes = |what: &str| read::<usize>(&of(what));
        Some(Arena {
            index,
            threads: read(&of("nthreads"))?,
            small: bytes("small.allocated")?,
            large: bytes("large.allocated")?,
            active: bytes("pactive")? * page,
            dirty: bytes("pdirty")? * page,
        })
    };
    Some(Statistics {
        allocated,
        active: stats::active::read().ok()?,
        resident,
        mapped: stats::mapped::read().ok()?,
        retained: stats::retained::read().ok()?,
        metadata: stats::metadata::read().ok()?,
        thread_caches: TCACHE_BYTES.name().read().ok()?,
        arenas: (0..arenas).filter_map(arena).collect(),
    })
}

fn read<T: Copy>(name: &str) -> Option<T>
where
    tikv_jemalloc_ctl::Name: Access<T>,
{
    format!("{name}\0").as_bytes().name().read().ok()
}

/// Exports the statistics as metrics.
#[derive(Debug)]
pub(crate) struct MemoryMetrics;

impl Collector for MemoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(now) = allocated() else {
            return Ok(());
        };
        let mut gauge = |name, help, bytes: usize| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX)).encode(metric)
        };
        gauge(
            "redkeeper_memory_allocated_bytes",
            "Memory in use by the program",
            now.allocated,
        )?;
        gauge(
            "redkeeper_memory_resident_bytes",
            "Memory that the allocator took from the system",
            now.resident,
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    // A single test, because it measures the whole process; other tests in this process allocate little.
    #[test]
    fn what_is_taken_and_given_back_is_seen() {
        let before = allocated().unwrap().allocated;
        let block = vec![1u8; 64 << 20];
        let with = allocated().unwrap().allocated;
        assert!(with >= before + (63 << 20), "{before} {with}");
        drop(block);
        assert!(allocated().unwrap().allocated < with - (63 << 20));

        // Each thread caches some of what it freed, and lives until the statistics were read.
        let before = allocated().unwrap().allocated;
        let (given_back, looked) = (Barrier::new(17), Barrier::new(17));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    drop((0..20).map(|_| vec![1u8; 1 << 14]).collect::<Vec<_>>());
                    given_back.wait();
                    looked.wait();
                });
            }
            given_back.wait();
            let after = allocated().unwrap().allocated;
            looked.wait();
            let cached: usize = TCACHE_BYTES.name().read().unwrap();
            assert!(cached > 2 << 20, "{cached}");
            assert!(after < before + (1 << 20), "{before} {after}");
        });

        let statistics = statistics().unwrap();
        assert!(statistics.active >= statistics.allocated && statistics.mapped >= statistics.active);
        assert!(!statistics.arenas.is_empty());
        let in_arenas: usize = statistics
            .arenas
            .iter()
            .map(|arena| arena.small + arena.large)
            .sum();
        assert!(in_arenas >= statistics.allocated, "{statistics:?}");
    }
}
