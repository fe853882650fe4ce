//! The view: an immutable picture of the fleet that the aggregator replaces and everybody reads without
//! locks. Maps share their structure, so a new picture costs what changed, not what is there.

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
    fleet::{Rival, message_order::Origin},
    ids::{AgentId, InstanceId, Revision},
    status::Status,
    time::{Mono, WallMs},
};
use tokio::sync::watch;

use super::{change_log::ChangeLog, counts::Counts};

/// One instance.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its status.
    pub status: Arc<Status>,
    /// When it last changed.
    pub revision: Revision,
    /// The message that brought it.
    pub origin: Origin,
}

/// One agent.
#[derive(Clone, Debug)]
pub struct AgentEntry {
    /// Its name.
    pub name: AgentId,
    /// Boot, version and host, where it was heard.
    pub greeting: Option<redkeeper_core::fleet::Greeting>,
    /// Nothing heard for `silent_after`.
    pub silent: bool,
    /// How far its wall clock is ahead of this collector's, where that is worth a correction.
    pub clock_ahead_ms: i64,
    /// It has said what it has: what it did not mention is gone.
    pub complete: bool,
    /// When its stream began.
    pub connected: WallMs,
    /// The last one that was refused because this agent has its id.
    pub rival: Option<Rival>,
    /// Its instances, in order.
    pub ids: Vec<InstanceId>,
    /// What moves with each message.
    pub live: Arc<Live>,
}

impl AgentEntry {
    /// An agent that tries to report under the same id, and is refused.
    pub fn refused(&self, now: Mono) -> Option<&Rival> {
        self.rival.as_ref().filter(|rival| rival.is_present(now))
    }
}

/// What each message of an agent moves. Views share it and the aggregator writes it in place, so that a heartbeat
/// that changes no status makes no new view. Each number is right by itself.
#[derive(Debug, Default)]
pub struct Live {
    sequence: AtomicU64,
    heard: AtomicU64,
    /// By the places of [`AgentEntry::ids`].
    progress: Vec<AtomicU64>,
}

impl Live {
    /// For so many instances.
    pub fn new(instances: usize) -> Self {
        Self {
            progress: (0..instances).map(|_| AtomicU64::new(0)).collect(),
            ..Self::default()
        }
    }

    /// Takes what was heard, with the progress of each instance.
    pub fn set(&self, sequence: u64, heard: Mono, progress: impl Iterator<Item = Mono>) {
        self.sequence.store(sequence, Ordering::Relaxed);
        self.heard.store(heard.0, Ordering::Relaxed);
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
}

/// The picture.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Number of the newest change.
    pub revision: Revision,
    /// All instances by id.
    pub instances: OrdMap<InstanceId, Entry>,
    /// How many of them are of each kind.
    pub counts: Counts,
    /// All agents by id.
    pub agents: OrdMap<AgentId, Arc<AgentEntry>>,
    /// The newest changes.
    pub log: ChangeLog,
    /// When any agent was last heard, in microseconds; 0 before.
    pub heard: Arc<AtomicU64>,
}

/// What [`View::put`] did.
#[derive(Clone, Debug)]
pub enum Put {
    /// Nothing: that is what was known.
    Same,
    /// The instance is new.
    New,
    /// This status was known before.
    Instead(Arc<Status>),
}

impl Put {
    /// What was known before.
    pub fn former(&self) -> Option<&Arc<Status>> {
        match self {
            Self::Instead(former) => Some(former),
            Self::Same | Self::New => None,
        }
    }
}

impl View {
    /// Puts a status in place of the known one, with a new revision where it differs.
    pub fn put(&mut self, status: &Arc<Status>, origin: Origin) -> Put {
        let entry = Entry {
            status: Arc::clone(status),
            revision: Revision(self.revision.0 + 1),
            origin,
        };
        // One search for an instance that is known, and two only for a new one.
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

    /// Takes an instance out.
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

    /// When an instance last completed a probe round.
    pub fn progress(&self, status: &Status) -> Option<Mono> {
        let agent = self.agents.get(&status.agent)?;
        let place = agent.ids.binary_search(&status.identity.id).ok()?;
        let at = agent.live.progress.get(place)?.load(Ordering::Relaxed);
        Some(Mono(at))
    }
}

/// Where the present view is read and waited for.
#[derive(Clone)]
pub struct Shared {
    view: Arc<ArcSwap<View>>,
    revision: watch::Receiver<Revision>,
}

/// The one who replaces the view.
pub struct Replacer {
    view: Arc<ArcSwap<View>>,
    revision: watch::Sender<Revision>,
}

/// An empty view and its two ends.
pub fn channel() -> (Replacer, Shared) {
    let view = Arc::new(ArcSwap::default());
    let (sender, receiver) = watch::channel(Revision(0));
    (
        Replacer {
            view: Arc::clone(&view),
            revision: sender,
        },
        Shared {
            view,
            revision: receiver,
        },
    )
}

impl Shared {
    /// The view now.
    pub fn get(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Tells of new revisions.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.clone()
    }
}

impl Replacer {
    /// Puts a new view in place, and wakes who waits if the revision moved.
    pub fn replace(&self, view: View) {
        let revision = view.revision;
        self.view.store(Arc::new(view));
        self.revision
            .send_if_modified(|known| std::mem::replace(known, revision) != revision);
    }
}
