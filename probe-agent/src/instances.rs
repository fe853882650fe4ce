//! The table of instances and their verdicts. All messages to collectors are composed from it, so a slow collector
//! costs no memory. Its lock is held only for short sections that never wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redkeeper_core::{
    fleet::Report,
    ids::{Handle, InstanceId, Seq},
    outbox::Next,
    status::{Identity, Reason, Verdict},
    time::Mono,
};
use redkeeper_proto::{convert, v1};
use redkeeper_runtime::clock::Clock;
use tokio::sync::Notify;

pub use progress::{Progress, SharedProber};

mod progress;

/// One row of the table.
#[derive(Clone, Debug)]
pub struct InstanceRow {
    /// Id, cluster and address.
    pub identity: Identity,
    /// The verdict in force.
    pub verdict: Verdict,
    /// What its worker tells: the last completed round, and what the prober holds.
    pub progress: Progress,
    /// Sent with the verdict, for the collector's own time-out.
    pub freshness_limit: Duration,
    changed: u64,
}

/// One row in short, for lists.
#[derive(Clone, Debug)]
pub struct InstanceSummary {
    /// Id of the instance.
    pub id: InstanceId,
    /// Reason of the verdict in force.
    pub reason: Reason,
    /// Time of the last completed round.
    pub last_round: Option<Mono>,
}

/// Changes after a generation.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Instances that changed or were added.
    pub handles: Vec<Handle>,
    /// All handles, if an instance was added or removed.
    pub all: Option<BTreeSet<Handle>>,
    /// The present generation.
    pub generation: u64,
}

#[derive(Default)]
struct Rows {
    entries: BTreeMap<Handle, InstanceRow>,
    /// Counts changes of the rows.
    generation: u64,
    /// Generation in which an instance was last added or removed.
    membership: u64,
    /// Next free handle; handles are never reused.
    next_handle: u32,
    /// Sequence of the last message, across all streams.
    seq: u64,
}

/// The table of instances and their verdicts, shared by workers and uplinks.
pub struct InstanceTable {
    rows: Mutex<Rows>,
    changed: Notify,
    clock: Clock,
}

impl InstanceTable {
    /// Creates an empty table.
    pub fn new(clock: Clock) -> Self {
        Self {
            rows: Mutex::default(),
            changed: Notify::new(),
            clock,
        }
    }

    /// Adds an instance.
    pub fn add(&self, identity: Identity, verdict: Verdict, freshness_limit: Duration) -> (Handle, Progress) {
        self.change(|rows| {
            rows.next_handle += 1;
            rows.membership = rows.generation;
            let (handle, progress) = (Handle(rows.next_handle), Progress::default());
            let entry = InstanceRow {
                identity,
                verdict,
                progress: progress.clone(),
                freshness_limit,
                changed: rows.generation,
            };
            rows.entries.insert(handle, entry);
            (handle, progress)
        })
    }

    /// Replaces an instance's identity and freshness limit; its verdict is kept.
    pub fn update(&self, handle: Handle, identity: Identity, freshness_limit: Duration) {
        self.change(|rows| {
            let generation = rows.generation;
            if let Some(entry) = rows.entries.get_mut(&handle) {
                (entry.identity, entry.freshness_limit, entry.changed) =
                    (identity, freshness_limit, generation);
            }
        });
    }

    /// Removes an instance.
    pub fn remove(&self, handle: Handle) {
        self.change(|rows| {
            rows.membership = rows.generation;
            rows.entries.remove(&handle);
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Rows) -> T) -> T {
        let mut rows = self.rows();
        rows.generation += 1;
        let result = change(&mut rows);
        drop(rows);
        self.changed.notify_waiters();
        result
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        // Nothing panics while the lock is held.
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All instances.
    pub fn entries(&self) -> BTreeMap<Handle, InstanceRow> {
        self.rows().entries.clone()
    }

    /// All instances in short. Copies no texts, so that the lock is held for microseconds.
    pub fn summaries(&self) -> Vec<InstanceSummary> {
        let rows = self.rows();
        let one = |entry: &InstanceRow| InstanceSummary {
            id: entry.identity.id.clone(),
            reason: entry.verdict.reason,
            last_round: entry.progress.last(),
        };
        rows.entries.values().map(one).collect()
    }

    /// The row of the instance with this id.
    pub fn find(&self, id: &str) -> Option<InstanceRow> {
        let rows = self.rows();
        let is_it = |entry: &&InstanceRow| entry.identity.id.as_str() == id;
        rows.entries.values().find(is_it).cloned()
    }

    /// The verdict of one instance.
    pub fn verdict(&self, handle: Handle) -> Option<Verdict> {
        self.rows()
            .entries
            .get(&handle)
            .map(|entry| entry.verdict.clone())
    }

    /// Stores a new verdict and wakes the uplinks.
    pub fn set(&self, handle: Handle, verdict: Verdict) {
        self.change(|rows| {
            let generation = rows.generation;
            if let Some(entry) = rows.entries.get_mut(&handle) {
                (entry.verdict, entry.changed) = (verdict, generation);
            }
        });
    }

    /// Waits until something changes after `generation`. Waiters wake in the order in which they began to wait, which
    /// keeps a simulation repeatable. Safe to cancel.
    pub async fn changed_after(&self, generation: u64) {
        loop {
            // Created before the generation is read, so that no change is missed.
            let changed = self.changed.notified();
            if self.rows().generation > generation {
                return;
            }
            changed.await;
        }
    }

    /// Returns what changed after `generation`.
    pub fn changed_since(&self, generation: u64) -> Changed {
        let rows = self.rows();
        let changed = rows
            .entries
            .iter()
            .filter(|(_, entry)| entry.changed > generation)
            .map(|(handle, _)| *handle);
        Changed {
            handles: changed.collect(),
            all: (rows.membership > generation).then(|| rows.entries.keys().copied().collect()),
            generation: rows.generation,
        }
    }

    /// Takes the sequence of the next message, for a `Hello`.
    pub fn hello_seq(&self) -> Seq {
        let mut rows = self.rows();
        rows.seq += 1;
        Seq(rows.seq)
    }

    /// Composes a message of the newest state. Sequence and state are taken under one lock: a higher sequence never
    /// carries an older state.
    pub fn compose(&self, next: &Next) -> (Seq, v1::ReportStatusRequest) {
        use v1::report_status_request::Message;
        let now = self.clock.now();
        let mut rows = self.rows();
        rows.seq += 1;
        let sequence = rows.seq;
        let reports = |handles: &[Handle]| {
            let one = |handle: &Handle| rows.entries.get(handle).map(|entry| report(*handle, entry, now));
            handles.iter().filter_map(one).collect()
        };
        let message = match next {
            Next::Snapshot(handles, last) => Message::Snapshot(v1::Snapshot {
                instances: reports(handles),
                last: *last,
            }),
            Next::Changes(handles) => Message::Changes(v1::Changes {
                instances: reports(handles),
            }),
            Next::Gone(handles) => Message::Gone(v1::Gone {
                handles: handles.iter().map(|h| h.0).collect(),
            }),
            Next::Heartbeat => {
                let age = |(handle, entry): (&Handle, &InstanceRow)| {
                    let age = now.since(entry.progress.last()?);
                    Some((handle.0, u32::try_from(age.as_millis()).unwrap_or(u32::MAX)))
                };
                let (handles, probe_ages_ms) = rows.entries.iter().filter_map(age).unzip();
                Message::Heartbeat(v1::Heartbeat {
                    handles,
                    probe_ages_ms,
                    agent_time: convert::time_to_wire(self.clock.wall()),
                })
            }
        };
        (
            Seq(sequence),
            v1::ReportStatusRequest {
                sequence,
                message: Some(message),
            },
        )
    }
}

fn report(handle: Handle, entry: &InstanceRow, now: Mono) -> v1::InstanceReport {
    convert::report_to_wire(&Report {
        handle,
        identity: entry.identity.clone(),
        verdict: entry.verdict.clone(),
        probe_age: entry.progress.last().map(|at| now.since(at)),
        freshness_limit: entry.freshness_limit,
    })
}

#[cfg(test)]
mod tests;
