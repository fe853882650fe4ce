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
use imbl::{OrdMap, Vector};
use redkeeper_core::{
    fleet::{Rival, message_order::Origin},
    ids::{AgentId, InstanceId, Revision},
    status::Status,
    time::{Mono, WallMs},
};
use tokio::sync::watch;

use crate::fleet::counts::Counts;

/// Changes that are kept for watchers, the publisher and `ListTransitions`: at the worst case of 3,000
/// instances dying in one second, 20 s for a slow reader. About 100 bytes each beyond the status itself.
pub const LOG_MAX: usize = 65_536;

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

/// One change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its number.
    pub revision: Revision,
    /// The status after it; for a removal, the last.
    pub status: Arc<Status>,
    /// The message that brought it; for a removal, the last.
    pub origin: Origin,
    /// The status before; `None` where the instance is new. It is shared with the change that brought it.
    pub previous: Option<Arc<Status>>,
    /// Whether the instance is no longer known.
    pub removed: bool,
    /// When, for people.
    pub time: WallMs,
}

impl Change {
    /// Whether it is a transition: the instance came or went, or its state, reason or role changed.
    pub fn is_transition(&self) -> bool {
        let same = |former: &Arc<Status>| !self.status.is_transition_from(former);
        self.removed || !self.previous.as_ref().is_some_and(same)
    }
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
    /// The newest changes, oldest first.
    pub log: Vector<Change>,
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

/// Changes after a revision are no longer kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Compacted;

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

    /// Changes before `revision`, newest first.
    pub fn changes_before(&self, revision: u64) -> impl Iterator<Item = &Change> {
        let oldest = self.log.front().map_or(0, |change| change.revision.0);
        let kept = usize::try_from(revision.saturating_sub(oldest)).unwrap_or(usize::MAX);
        let kept = kept.min(self.log.len());
        self.log.focus().narrow(..kept).into_iter().rev()
    }

    /// Changes after `revision`, oldest first.
    ///
    /// # Errors
    /// When some of them are no longer kept.
    pub fn changes_after(&self, revision: Revision) -> Result<impl Iterator<Item = &Change>, Compacted> {
        let oldest = self
            .log
            .front()
            .map_or(self.revision.0 + 1, |change| change.revision.0);
        if revision.0 + 1 < oldest || revision > self.revision {
            return Err(Compacted);
        }
        let skip = usize::try_from(revision.0 + 1 - oldest).unwrap_or(usize::MAX);
        let skip = skip.min(self.log.len());
        // A range of the log is read without a search for each of its places.
        Ok(self.log.focus().narrow(skip..).into_iter())
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

#[cfg(test)]
mod tests {
    use super::*;
    use redkeeper_core::status::{Identity, Reason, Stage, Verdict};

    fn view(revisions: std::ops::RangeInclusive<u64>) -> View {
        let status = Arc::new(Status {
            identity: Identity {
                id: InstanceId::new("a").unwrap(),
                cluster: None,
                address: "x:1".into(),
                labels: Arc::default(),
            },
            agent: AgentId::new("h").unwrap(),
            verdict: Verdict::blank(Reason::Ok, Stage::Reply, "", WallMs(0)),
        });
        let change = |n| Change {
            revision: Revision(n),
            status: status.clone(),
            origin: Origin::default(),
            previous: None,
            removed: false,
            time: WallMs(0),
        };
        View {
            revision: Revision(*revisions.end()),
            log: revisions.map(change).collect(),
            ..View::default()
        }
    }

    #[test]
    fn older_changes_are_found_by_their_number() {
        let view = view(5..=9);
        let before = |n| view.changes_before(n).map(|c| c.revision.0).collect::<Vec<_>>();
        assert_eq!(before(u64::MAX), [9, 8, 7, 6, 5]);
        assert_eq!(before(7), [6, 5]);
        assert_eq!(before(5), [0; 0]);
        assert_eq!(before(0), [0; 0]);
    }

    #[test]
    fn changes_are_complete_or_refused() {
        let view = view(5..=9);
        let after = |n| {
            view.changes_after(Revision(n))
                .map(|c| c.map(|c| c.revision.0).collect::<Vec<_>>())
        };
        assert_eq!(after(9), Ok(vec![]));
        assert_eq!(after(6), Ok(vec![7, 8, 9]));
        assert_eq!(after(4), Ok(vec![5, 6, 7, 8, 9]));
        assert_eq!(after(3), Err(Compacted));
        assert_eq!(after(10), Err(Compacted));
    }
}
