//! The view: an immutable snapshot of the fleet. The aggregator replaces it, and everybody reads it without locks. Maps
//! share their structure, so a new snapshot costs what changed, not what is there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use imbl::OrdMap;
use redkeeper_core::{
    fleet::{AgentInfo, FreshnessLimit, Held, Member, Rival, message_order::Origin},
    ids::{AgentId, Handle, InstanceId, Revision},
    status::Status,
    time::{Mono, WallMs},
};
use tokio::sync::watch;

use super::{change_log::ChangeLog, conflicts::Conflicts, counts::Counts};

/// One instance.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its status.
    pub status: Arc<Status>,
    /// Revision of its last change.
    pub revision: Revision,
    /// Message that caused that change.
    pub origin: Origin,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct AgentEntry {
    /// Its name.
    pub name: AgentId,
    /// Boot, version and host, if it was heard.
    pub greeting: Option<AgentInfo>,
    /// True if nothing was heard for `silent_after`.
    pub silent: bool,
    /// How far its wall clock is ahead of this collector's, if that is worth a correction.
    pub clock_ahead_ms: i64,
    /// True once it has reported all that it has: what it did not mention is gone.
    pub complete: bool,
    /// When its stream began.
    pub connected: WallMs,
    /// The last agent that was refused because this one has its id.
    pub rival: Option<Rival>,
    /// Its instances, in order.
    pub ids: Vec<InstanceId>,
    /// How it reports each of them, in the order of `ids`.
    pub reporting: Box<[Reporting]>,
    /// Values that move with each message.
    pub live: Arc<LiveCounters>,
}

/// How an agent reports one instance. Small, because there is one for each instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reporting {
    /// [`NO_HANDLE`] if there is none.
    handle: u32,
    /// The instance is stalled after this long without a completed probe round.
    pub freshness_limit: FreshnessLimit,
}

/// Stands for the lack of a handle, so that an entry takes 8 bytes. Agents count their handles from 0 on.
const NO_HANDLE: u32 = u32::MAX;

const _: () = assert!(std::mem::size_of::<Reporting>() <= 8);

impl Reporting {
    /// Of an instance that is reported under this handle; `None` if it is known from ZooKeeper only.
    pub fn new(member: &Member, handle: Option<Handle>) -> Self {
        Self {
            handle: handle.map_or(NO_HANDLE, |Handle(number)| number),
            freshness_limit: member.freshness_limit,
        }
    }

    /// The handle under which the agent reports the instance.
    pub fn handle(self) -> Option<Handle> {
        (self.handle != NO_HANDLE).then_some(Handle(self.handle))
    }
}

impl AgentEntry {
    /// Index of an instance in `ids`, `reporting` and the live counters.
    pub fn place(&self, id: &InstanceId) -> Option<usize> {
        self.ids.binary_search(id).ok()
    }

    /// The agent that tries to report under the same id and is refused, if any.
    pub fn refused(&self, now: Mono) -> Option<&Rival> {
        self.rival.as_ref().filter(|rival| rival.is_present(now))
    }
}

/// Values that each message of an agent moves. Views share them and the aggregator writes them in place, so that a
/// heartbeat that changes no status makes no new view. Each value is right by itself.
#[derive(Debug, Default)]
pub struct LiveCounters {
    sequence: AtomicU64,
    heard: AtomicU64,
    heartbeat_at: AtomicU64,
    /// In the order of [`AgentEntry::ids`].
    progress: Vec<AtomicU64>,
}

impl LiveCounters {
    /// Creates the values for this many instances.
    pub fn new(instances: usize) -> Self {
        Self {
            progress: (0..instances).map(|_| AtomicU64::new(0)).collect(),
            ..Self::default()
        }
    }

    /// Records what was heard, when anything and when a heartbeat, with the progress of each instance.
    pub fn set(
        &self,
        sequence: u64,
        (heard, heartbeat_at): (Mono, Mono),
        progress: impl Iterator<Item = Mono>,
    ) {
        self.sequence.store(sequence, Ordering::Relaxed);
        self.heard.store(heard.0, Ordering::Relaxed);
        self.heartbeat_at.store(heartbeat_at.0, Ordering::Relaxed);
        for (place, at) in self.progress.iter().zip(progress) {
            place.store(at.0, Ordering::Relaxed);
        }
    }

    /// Highest sequence heard.
    pub fn sequence(&self) -> u64 {
        self.sequence.load(Ordering::Relaxed)
    }

    /// When the agent was last heard.
    pub fn heard(&self) -> Mono {
        Mono(self.heard.load(Ordering::Relaxed))
    }

    /// When its last heartbeat, or Hello, was heard.
    pub fn heartbeat_at(&self) -> Mono {
        Mono(self.heartbeat_at.load(Ordering::Relaxed))
    }

    /// When the instance in this place last completed a probe round.
    pub fn progress(&self, place: usize) -> Option<Mono> {
        Some(Mono(self.progress.get(place)?.load(Ordering::Relaxed)))
    }
}

/// Immutable snapshot of the fleet.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Revision of the newest change.
    pub revision: Revision,
    /// All instances by id.
    pub instances: OrdMap<InstanceId, Entry>,
    /// Number of instances of each kind.
    pub counts: Counts,
    /// All agents by id.
    pub agents: OrdMap<AgentId, Arc<AgentEntry>>,
    /// The newest changes.
    pub log: ChangeLog,
    /// What the brake holds, while too many agents are silent at once.
    pub held: Option<Held>,
    /// When any agent was last heard, in microseconds; 0 if none was.
    pub heard: Arc<AtomicU64>,
    /// Agents that report instances of others. Views share them.
    pub conflicts: Arc<Conflicts>,
}

/// Result of [`View::put`].
#[derive(Clone, Debug)]
pub enum Put {
    /// The status was known already.
    Same,
    /// The instance is new.
    New,
    /// The status replaces this one.
    Instead(Arc<Status>),
}

impl Put {
    /// The status that was known before.
    pub fn former(&self) -> Option<&Arc<Status>> {
        match self {
            Self::Instead(former) => Some(former),
            Self::Same | Self::New => None,
        }
    }
}

impl View {
    /// Replaces the known status, with a new revision if they differ.
    pub fn put(&mut self, status: &Arc<Status>, origin: Origin) -> Put {
        let entry = Entry {
            status: Arc::clone(status),
            revision: Revision(self.revision.0 + 1),
            origin,
        };
        // One search for a known instance, and two only for a new one.
        let put = match self.instances.get_mut(&status.identity.id) {
            Some(known) if *known.status == **status => return Put::Same,
            Some(known) => Put::Instead(std::mem::replace(known, entry).status),
            None => {
                self.instances.insert(status.identity.id.clone(), entry);
                Put::New
            }
        };
        self.revision.0 += 1;
        self.counts.moved(put.former().map(Arc::as_ref), Some(status));
        put
    }

    /// Removes an instance.
    pub fn remove(&mut self, id: &InstanceId) -> Option<Entry> {
        let former = self.instances.remove(id)?;
        self.counts.moved(Some(&former.status), None);
        Some(former)
    }

    /// Age of the newest message from any agent.
    pub fn data_age(&self, now: Mono) -> Option<Duration> {
        let heard = self.heard.load(Ordering::Relaxed);
        (heard > 0).then(|| now.since(Mono(heard)))
    }

    /// The agents that are heard directly, not by way of another collector.
    pub fn heard_agents(&self) -> impl Iterator<Item = &AgentId> {
        let heard = |agent: &&Arc<AgentEntry>| {
            let greeting = agent.greeting.as_ref();
            !agent.silent && greeting.is_some_and(|greeting| greeting.via.is_empty())
        };
        self.agents.values().filter(heard).map(|agent| &agent.name)
    }

    /// When an instance last completed a probe round.
    pub fn progress(&self, status: &Status) -> Option<Mono> {
        let agent = self.agents.get(&status.agent)?;
        agent.live.progress(agent.place(&status.identity.id)?)
    }
}

/// Read half: gives the present view and announces new ones.
#[derive(Clone)]
pub struct ViewHandle {
    view: Arc<ArcSwap<View>>,
    revision: watch::Receiver<Revision>,
}

/// Write half: publishes new snapshots.
pub struct ViewPublisher {
    view: Arc<ArcSwap<View>>,
    revision: watch::Sender<Revision>,
}

/// Creates an empty view and its two halves.
pub fn channel() -> (ViewPublisher, ViewHandle) {
    let view = Arc::new(ArcSwap::default());
    let (sender, receiver) = watch::channel(Revision(0));
    (
        ViewPublisher {
            view: Arc::clone(&view),
            revision: sender,
        },
        ViewHandle {
            view,
            revision: receiver,
        },
    )
}

impl ViewHandle {
    /// The present view.
    pub fn get(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Announces new revisions.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }
}

impl ViewPublisher {
    /// Publishes a new view, and wakes waiting readers if the revision moved, or if the brake began or ended to hold.
    pub fn replace(&self, view: View) {
        let (revision, holds) = (view.revision, view.held.is_some());
        let former = self.view.swap(Arc::new(view));
        self.revision.send_if_modified(|known| {
            std::mem::replace(known, revision) != revision || former.held.is_some() != holds
        });
    }
}
