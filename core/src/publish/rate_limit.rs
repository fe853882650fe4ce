//! Limits how often the status of one instance is written. The first changes are written at once; an instance that
//! keeps changing is flapping and is written once a second, with its newest state, until it is quiet.

use std::time::Duration;

use crate::{id_map::IdMap, ids::InstanceId, time::Mono};

/// Writes before the limit applies: enough for a crash and a restart, twice.
const FREE: u32 = 4;
/// Time per write once the limit applies.
const COST: Duration = Duration::from_secs(1);
/// The limit is lifted when nothing was written for this long after the next write was allowed.
const QUIET: Duration = Duration::from_secs(10);

/// How often quiet instances are removed: with a million instances that takes milliseconds.
const FORGET_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, Eq, Debug)]
struct RateLimit {
    since: Mono,
    writes: u32,
}

impl RateLimit {
    /// When the next write is allowed: the average is then one a second, including the first writes.
    fn next_allowed(&self) -> Mono {
        self.since + COST * self.writes
    }
}

/// Recent writes. Bounded by the published instances; quiet ones are removed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct RateLimits {
    all: IdMap<RateLimit>,
    /// When quiet instances were last removed.
    forgot: Mono,
}

impl RateLimits {
    /// When the instance may be written; `None` means now.
    pub(super) fn due(&self, (hash, id): (u64, &InstanceId), now: Mono) -> Option<Mono> {
        let pace = self.all.get_hashed(hash, id)?;
        (pace.writes >= FREE)
            .then(|| pace.next_allowed())
            .filter(|due| *due > now)
    }

    pub(super) fn written(&mut self, id: &InstanceId, now: Mono) {
        let fresh = RateLimit {
            since: now,
            writes: 0,
        };
        let pace = self.all.get_or_insert_with(id, || fresh.clone());
        if now >= pace.next_allowed() + QUIET {
            *pace = fresh;
        }
        pace.writes = pace.writes.saturating_add(1);
    }

    /// Number of instances whose writes are limited now.
    pub(super) fn flapping(&self, now: Mono) -> usize {
        let limited = |pace: &&RateLimit| pace.writes >= FREE && now < pace.next_allowed() + QUIET;
        self.all.values().filter(limited).count()
    }

    /// Removes quiet instances, at most once per `FORGET_INTERVAL`.
    pub(super) fn forget_quiet(&mut self, now: Mono) {
        if now.since(self.forgot) < FORGET_INTERVAL {
            return;
        }
        self.forgot = now;
        self.all.retain(|pace| now < pace.next_allowed() + QUIET);
    }
}
