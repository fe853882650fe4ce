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
const STOCK: &[u8] = b"stats.arenas.4096.tcache_bytes\0";

/// Statistics of the allocator, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocated {
    /// Allocated by the program and not freed, without the threads' caches.
    pub allocated: usize,
    /// Taken from the system by the allocator.
    pub resident: usize,
}

/// Reads the present statistics; `None` if the allocator does not report them.
pub fn allocated() -> Option<Allocated> {
    // The statistics are those of the last epoch, so advance it first.
    epoch::advance().ok()?;
    let stock: usize = STOCK.name().read().ok()?;
    Some(Allocated {
        allocated: stats::allocated::read().ok()?.saturating_sub(stock),
        resident: stats::resident::read().ok()?,
    })
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
            let stock: usize = STOCK.name().read().unwrap();
            assert!(stock > 2 << 20, "{stock}");
            assert!(after < before + (1 << 20), "{before} {after}");
        });
    }
}
