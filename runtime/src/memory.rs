//! The allocator of the daemons, which can tell what is allocated: resident memory alone cannot tell a leak from free
//! memory that was not given back.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
};
use tikv_jemalloc_ctl::{Access, AsName, epoch, stats};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What the threads keep in stock for their next allocations, in all arenas (4096 stands for them). The allocator counts
/// it as allocated, although the program gave it back; it depends on which thread did what last.
const STOCK: &[u8] = b"stats.arenas.4096.tcache_bytes\0";

/// What the allocator holds, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocated {
    /// Asked for by the program and not given back, without what threads keep in stock.
    pub allocated: usize,
    /// Taken from the system for it.
    pub resident: usize,
}

/// Reads what is allocated now; `None` where the allocator does not tell.
pub fn allocated() -> Option<Allocated> {
    // Its figures are those of the last epoch.
    epoch::advance().ok()?;
    let stock: usize = STOCK.name().read().ok()?;
    Some(Allocated {
        allocated: stats::allocated::read().ok()?.saturating_sub(stock),
        resident: stats::resident::read().ok()?,
    })
}

/// The same as metrics.
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

    // One test, because both look at the whole process; other tests of it take little.
    #[test]
    fn what_is_taken_and_given_back_is_seen() {
        let before = allocated().unwrap().allocated;
        let block = vec![1u8; 64 << 20];
        let with = allocated().unwrap().allocated;
        assert!(with >= before + (63 << 20), "{before} {with}");
        drop(block);
        assert!(allocated().unwrap().allocated < with - (63 << 20));

        // Each thread keeps some of what it gave back, and stays until that was looked at.
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
