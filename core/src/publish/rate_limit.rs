//! How often the status of one instance is written. The first changes are written at once; one that keeps changing
//! is flapping and is written once a second, with its newest state, until it is quiet.

use std::time::Duration;

use crate::{id_map::IdMap, ids::InstanceId, time::Mono};

/// Writes that are free: a crash and a restart, twice.
const FREE: u32 = 4;
/// Time that each write costs once they are used up.
const COST: Duration = Duration::from_secs(1);
/// After this long beyond what was paid the writes are free again.
const QUIET: Duration = Duration::from_secs(10);

/// How often the quiet ones are looked for: at a million instances that takes milliseconds.
const FORGET_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Pace {
    since: Mono,
    writes: u32,
}

impl Pace {
    /// When all writes so far have been paid for: the average is then one a second, the free ones included.
    fn paid_at(&self) -> Mono {
        self.since + COST * self.writes
    }
}

/// The writes of late. Bounded by the published instances; quiet ones are forgotten.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Paces {
    all: IdMap<Pace>,
    /// When the quiet ones were last forgotten.
    forgot: Mono,
}

impl Paces {
    /// When the instance may be written; `None` stands for now.
    pub(super) fn due(&self, (hash, id): (u64, &InstanceId), now: Mono) -> Option<Mono> {
        let pace = self.all.get_hashed(hash, id)?;
        (pace.writes >= FREE)
            .then(|| pace.paid_at())
            .filter(|due| *due > now)
    }

    pub(super) fn written(&mut self, id: &InstanceId, now: Mono) {
        let fresh = Pace {
            since: now,
            writes: 0,
        };
        let pace = self.all.get_or_insert_with(id, || fresh.clone());
        if now >= pace.paid_at() + QUIET {
            *pace = fresh;
        }
        pace.writes = pace.writes.saturating_add(1);
    }

    /// Instances whose writes are limited now.
    pub(super) fn flapping(&self, now: Mono) -> usize {
        let limited = |pace: &&Pace| pace.writes >= FREE && now < pace.paid_at() + QUIET;
        self.all.values().filter(limited).count()
    }

    /// Forgets the quiet ones, now and then.
    pub(super) fn forget_quiet(&mut self, now: Mono) {
        if now.since(self.forgot) < FORGET_INTERVAL {
            return;
        }
        self.forgot = now;
        self.all.retain(|pace| now < pace.paid_at() + QUIET);
    }
}
