//! The instances of one agent, side by side in memory: a heartbeat touches nothing else.

use std::time::Duration;

use crate::{
    ids::{Handle, InstanceId},
    status::Reason,
    time::Mono,
};

/// An instance as its agent has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub id: InstanceId,
    /// Last completed probe round.
    pub progress: Mono,
    /// Without a round for this long it is stalled.
    pub(super) freshness_limit: Duration,
    /// Reason of the status in force.
    pub(super) reason: Reason,
}

impl Member {
    /// Whether its agent, heard last at `beat`, proved progress then.
    pub(super) fn is_fresh(&self, beat: Mono) -> bool {
        self.progress + self.freshness_limit > beat
    }
}

/// Sorted by name, and found by handle too. Bounded by `AGENT_INSTANCES_MAX`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    all: Vec<Member>,
    handles: Vec<(Handle, InstanceId)>,
    version: u64,
}

impl Members {
    fn place(&self, id: &InstanceId) -> Result<usize, usize> {
        self.all.binary_search_by(|member| member.id.cmp(id))
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.all.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Changes when one comes or goes.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.all.iter_mut()
    }

    pub(super) fn get(&self, id: &InstanceId) -> Option<&Member> {
        self.place(id).ok().map(|place| &self.all[place])
    }

    pub(super) fn get_mut(&mut self, id: &InstanceId) -> Option<&mut Member> {
        self.place(id).ok().map(|place| &mut self.all[place])
    }

    /// Takes one, in place of what was known of it.
    pub(super) fn put(&mut self, member: Member) {
        match self.place(&member.id) {
            Ok(place) => self.all[place] = member,
            Err(place) => {
                self.all.insert(place, member);
                self.version += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, id: &InstanceId) -> Option<Member> {
        let place = self.place(id).ok()?;
        self.handles.retain(|(_, other)| other != id);
        self.version += 1;
        Some(self.all.remove(place))
    }

    /// Its messages will mention `id` by this handle.
    pub(super) fn name(&mut self, handle: Handle, id: &InstanceId) {
        match self.handles.binary_search_by_key(&handle, |(known, _)| *known) {
            Ok(place) if self.handles[place].1 == *id => {}
            Ok(place) => self.handles[place].1 = id.clone(),
            Err(place) => self.handles.insert(place, (handle, id.clone())),
        }
    }

    pub(super) fn forget_handles(&mut self) {
        self.handles.clear();
    }

    /// Forgets a handle; tells whose it was.
    pub(super) fn take_handle(&mut self, handle: Handle) -> Option<InstanceId> {
        let place = self.handles.binary_search_by_key(&handle, |(known, _)| *known);
        place.ok().map(|place| self.handles.remove(place).1)
    }

    pub(super) fn by_handle(&mut self, handle: Handle) -> Option<&mut Member> {
        let place = self.handles.binary_search_by_key(&handle, |(known, _)| *known);
        let place = self.place(&self.handles[place.ok()?].1).ok()?;
        Some(&mut self.all[place])
    }
}
