//! Which share of the process's descriptors connections to instances may use. The rest is for streams to collectors,
//! the admin port and files: without them, too many instances would cut the agent off from everybody.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use nix::sys::resource::{Resource, getrlimit};

/// What connections to instances leave: about 20 that an agent holds at rest, 16 streams to collectors, the share of
/// the admin port, and files under way.
const RESERVED: usize = 96;

static OPEN: AtomicUsize = AtomicUsize::new(0);
static MAX: OnceLock<usize> = OnceLock::new();

/// Connections to instances that a process with so many descriptors may open. With few, half of them.
fn share(descriptors: usize) -> usize {
    descriptors.saturating_sub(RESERVED).max(descriptors / 2)
}

fn max() -> usize {
    *MAX.get_or_init(|| {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
        share(usize::try_from(limit).unwrap_or(usize::MAX))
    })
}

/// Leave to open one connection to an instance. Given back when it is dropped.
#[derive(Debug)]
pub struct Permit(());

impl Permit {
    /// One more.
    ///
    /// # Errors
    /// Says that all are in use, and what to do.
    pub fn take() -> Result<Self, String> {
        let max = max();
        // Made at once, so that it is given back whatever follows.
        let permit = Self(());
        if OPEN.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(format!(
                "all {max} descriptors that the agent has for instances are in use; raise its limit (LimitNOFILE)"
            ));
        }
        Ok(permit)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        OPEN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_for_the_rest() {
        for descriptors in 16..70_000 {
            let share = share(descriptors);
            assert!(share >= descriptors / 2 && share + RESERVED.min(descriptors / 2) <= descriptors);
        }
    }
}
