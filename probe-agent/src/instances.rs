//! The table of all verdicts. Everything that is sent to a collector is read from here, so a slow collector
//! costs no memory. Sections under its lock are short and never wait.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use redkeeper_core::{
    fleet::Report,
    ids::{Handle, Seq},
    outbox::Next,
    status::{Identity, Verdict},
    time::Mono,
};
use redkeeper_proto::{convert, v1};
use redkeeper_runtime::clock::Clock;
use tokio::sync::Notify;

/// When an instance's worker last completed a round. Written by the worker, read by all.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    /// A round was completed.
    pub fn completed(&self, now: Mono) {
        self.0.store(now.0, Ordering::Relaxed);
    }

    /// The last completed round, if there was one.
    pub fn last(&self) -> Option<Mono> {
        Some(Mono(self.0.load(Ordering::Relaxed))).filter(|at| at.0 > 0)
    }
}

/// One instance on the board.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Name, group, address.
    pub identity: Identity,
    /// The verdict in force.
    pub verdict: Verdict,
    /// Proof of progress.
    pub progress: Progress,
    /// Sent along, for the collector's own time-out.
    pub freshness_limit: Duration,
    changed: u64,
}

/// What changed after a generation.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Instances that changed or were added.
    pub handles: Vec<Handle>,
    /// All that there are, where some were added or removed.
    pub all: Option<BTreeSet<Handle>>,
    /// The generation now.
    pub generation: u64,
}

#[derive(Default)]
struct Table {
    entries: BTreeMap<Handle, Entry>,
    /// Counts changes of the table.
    generation: u64,
    /// When an instance was last added or removed, by the generation.
    membership: u64,
    /// Handles are never used twice.
    next_handle: u32,
    /// Numbers messages, over all streams.
    seq: u64,
}

/// The table.
pub struct Board {
    table: Mutex<Table>,
    changed: Notify,
    clock: Clock,
}

impl Board {
    /// An empty board.
    pub fn new(clock: Clock) -> Self {
        Self {
            table: Mutex::default(),
            changed: Notify::new(),
            clock,
        }
    }

    /// Adds an instance.
    pub fn add(&self, identity: Identity, verdict: Verdict, freshness_limit: Duration) -> (Handle, Progress) {
        self.change(|table| {
            table.next_handle += 1;
            table.membership = table.generation;
            let (handle, progress) = (Handle(table.next_handle), Progress::default());
            let entry = Entry {
                identity,
                verdict,
                progress: progress.clone(),
                freshness_limit,
                changed: table.generation,
            };
            table.entries.insert(handle, entry);
            (handle, progress)
        })
    }

    /// Gives an instance another identity and limit; its verdict stays.
    pub fn update(&self, handle: Handle, identity: Identity, freshness_limit: Duration) {
        self.change(|table| {
            let generation = table.generation;
            if let Some(entry) = table.entries.get_mut(&handle) {
                (entry.identity, entry.freshness_limit, entry.changed) =
                    (identity, freshness_limit, generation);
            }
        });
    }

    /// Forgets an instance.
    pub fn remove(&self, handle: Handle) {
        self.change(|table| {
            table.membership = table.generation;
            table.entries.remove(&handle);
        });
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table();
        table.generation += 1;
        let result = change(&mut table);
        drop(table);
        self.changed.notify_waiters();
        result
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while it is held.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All instances.
    pub fn entries(&self) -> BTreeMap<Handle, Entry> {
        self.table().entries.clone()
    }

    /// The verdict on one instance.
    pub fn verdict(&self, handle: Handle) -> Option<Verdict> {
        self.table()
            .entries
            .get(&handle)
            .map(|entry| entry.verdict.clone())
    }

    /// Takes a new verdict and wakes the uplinks.
    pub fn set(&self, handle: Handle, verdict: Verdict) {
        self.change(|table| {
            let generation = table.generation;
            if let Some(entry) = table.entries.get_mut(&handle) {
                (entry.verdict, entry.changed) = (verdict, generation);
            }
        });
    }

    /// Waits until something changes after `generation`. Wakes in the order of waiting, which keeps a simulation
    /// repeatable. Safe to cancel.
    pub async fn changed_after(&self, generation: u64) {
        loop {
            // Made before the look, so that no change is missed.
            let changed = self.changed.notified();
            if self.table().generation > generation {
                return;
            }
            changed.await;
        }
    }

    /// What changed after `generation`.
    pub fn changed_since(&self, generation: u64) -> Changed {
        let table = self.table();
        let changed = table
            .entries
            .iter()
            .filter(|(_, entry)| entry.changed > generation)
            .map(|(handle, _)| *handle);
        Changed {
            handles: changed.collect(),
            all: (table.membership > generation).then(|| table.entries.keys().copied().collect()),
            generation: table.generation,
        }
    }

    /// The number of the next message. Taken together with the state that it goes with.
    pub fn hello_seq(&self) -> Seq {
        let mut table = self.table();
        table.seq += 1;
        Seq(table.seq)
    }

    /// Makes a message of the newest state. Number and state are taken under one lock: a higher number never
    /// holds an older state.
    pub fn compose(&self, next: &Next) -> (Seq, v1::ReportStatusRequest) {
        use v1::report_status_request::Message;
        let now = self.clock.now();
        let mut table = self.table();
        table.seq += 1;
        let sequence = table.seq;
        let reports = |handles: &[Handle]| {
            let one = |handle: &Handle| table.entries.get(handle).map(|entry| report(*handle, entry, now));
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
                let age = |(handle, entry): (&Handle, &Entry)| {
                    let age = now.since(entry.progress.last()?);
                    Some((handle.0, u32::try_from(age.as_millis()).unwrap_or(u32::MAX)))
                };
                let (handles, probe_ages_ms) = table.entries.iter().filter_map(age).unzip();
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

fn report(handle: Handle, entry: &Entry, now: Mono) -> v1::InstanceReport {
    convert::report_to_wire(&Report {
        handle,
        identity: entry.identity.clone(),
        verdict: entry.verdict.clone(),
        probe_age: entry.progress.last().map(|at| now.since(at)),
        freshness_limit: entry.freshness_limit,
    })
}
