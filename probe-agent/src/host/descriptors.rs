//! Limits the share of the process's descriptors that connections to instances may use. The rest is reserved for
//! streams to collectors, the admin port and files: otherwise too many instances would cut the agent off from
//! everything.

use std::sync::{
    OnceLock,
    atomic::{AtomicUsize, Ordering},
};

use nix::sys::resource::{Resource, getrlimit};

/// Descriptors that connections to instances must leave free: about 20 that an idle agent holds, 16 streams to
/// collectors, the share of the admin port, and files being read.
const RESERVED: usize = 96;

static OPEN: AtomicUsize = AtomicUsize::new(0);
static MAX: OnceLock<usize> = OnceLock::new();

/// Maximum number of connections to instances for a process with this many descriptors. With few descriptors, half of
/// them.
fn share(descriptors: usize) -> usize {
    descriptors.saturating_sub(RESERVED).max(descriptors / 2)
}

fn max() -> usize {
    *MAX.get_or_init(|| {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1_024, |(soft, _)| soft);
        share(usize::try_from(limit).unwrap_or(usize::MAX))
    })
}

/// Permission to open one connection to an instance; returned on drop.
#[derive(Debug)]
pub struct Permit(());

impl Permit {
    /// Takes a permit.
    ///
    /// # Errors
    /// When all are in use; the text says what to do.
    pub fn take() -> Result<Self, String> {
        let max = max();
        // Created before the check, so that drop returns it in every case.
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
