//! The instances of one agent, contiguous in memory: a heartbeat touches nothing else.

use std::time::Duration;

use crate::{
    ids::{Handle, InstanceId},
    limits::AGENT_INSTANCES_MAX,
    status::Reason,
    time::Mono,
};

/// How long an instance may be without a completed round. Stored in milliseconds, which take few bytes for many
/// instances; more than 49 days count as 49.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FreshnessLimit(u32);

impl FreshnessLimit {
    /// Converts a limit, rounded up so that nothing is stalled too early.
    pub fn of(limit: Duration) -> Self {
        let millis = limit.as_micros().div_ceil(1_000);
        Self(u32::try_from(millis).unwrap_or(u32::MAX))
    }

    /// The limit as a duration.
    pub fn get(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

/// Most handles of one agent: one for each instance, and as many for instances that were reported under a new handle.
const HANDLES_MAX: usize = 2 * AGENT_INSTANCES_MAX;

/// An instance, as one of its agent's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub id: InstanceId,
    /// Last completed probe round.
    pub progress: Mono,
    /// It is stalled after this long without a round.
    pub freshness_limit: FreshnessLimit,
    /// Reason of the status in force.
    pub(super) reason: Reason,
}

const _: () = assert!(std::mem::size_of::<Member>() <= 32);

impl Member {
    /// Whether the progress that the agent proved is fresh at its last heartbeat.
    pub(super) fn is_fresh(&self, last_heartbeat: Mono) -> bool {
        self.progress + self.freshness_limit.get() > last_heartbeat
    }
}

/// Instances sorted by name, also indexed by handle. Bounded by `AGENT_INSTANCES_MAX`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    all: Vec<Member>,
    /// Sorted handles, each with the index of its instance.
    handles: Vec<(Handle, u32)>,
    version: u64,
}

impl Members {
    /// The handle of each instance, in the order of [`iter`](Self::iter): the largest if it has several.
    pub fn handles(&self) -> Vec<Option<Handle>> {
        let mut all = vec![None; self.all.len()];
        // Sorted, so that the largest comes last.
        for (handle, place) in &self.handles {
            if let Some(slot) = all.get_mut(*place as usize) {
                *slot = Some(*handle);
            }
        }
        all
    }

    fn place(&self, id: &InstanceId) -> Result<usize, usize> {
        self.all.binary_search_by(|member| member.id.cmp(id))
    }

    /// Iterates over all instances, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.all.iter()
    }

    /// Number of instances.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if there are no instances.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Counter that changes when an instance is added or removed, or a handle is bound.
    pub fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.all.iter_mut()
    }

    #[cfg(test)]
    pub(super) fn get(&self, id: &InstanceId) -> Option<&Member> {
        self.place(id).ok().map(|place| &self.all[place])
    }

    pub(super) fn get_mut(&mut self, id: &InstanceId) -> Option<&mut Member> {
        self.place(id).ok().map(|place| &mut self.all[place])
    }

    /// Index of an instance that is reported under this handle, mostly found without comparing names. The flag is false
    /// if the handle is not bound to it yet.
    pub(super) fn find(&self, handle: Handle, id: &InstanceId) -> Option<(usize, bool)> {
        let at = self.handles.binary_search_by_key(&handle, |(known, _)| *known);
        let named = at.ok().map(|at| self.handles[at].1 as usize);
        match named.filter(|place| self.all.get(*place).is_some_and(|member| member.id == *id)) {
            Some(place) => Some((place, true)),
            None => self.place(id).ok().map(|place| (place, false)),
        }
    }

    /// The instance at an index that [`find`](Self::find) returned.
    pub(super) fn at_mut(&mut self, place: usize) -> Option<&mut Member> {
        self.all.get_mut(place)
    }

    /// Adds an instance, or replaces what was known of it.
    pub(super) fn put(&mut self, member: Member) {
        match self.place(&member.id) {
            Ok(place) => self.all[place] = member,
            Err(place) => {
                self.all.insert(place, member);
                let moved = self.handles.iter_mut().filter(|(_, at)| *at as usize >= place);
                moved.for_each(|(_, at)| *at += 1);
                self.version += 1;
            }
        }
    }

    pub(super) fn remove(&mut self, id: &InstanceId) -> Option<Member> {
        let place = self.place(id).ok()?;
        self.handles.retain(|(_, at)| *at as usize != place);
        let moved = self.handles.iter_mut().filter(|(_, at)| *at as usize > place);
        moved.for_each(|(_, at)| *at -= 1);
        self.version += 1;
        Some(self.all.remove(place))
    }

    /// Binds a handle to `id`, which is one of the instances.
    pub(super) fn bind_handle(&mut self, handle: Handle, id: &InstanceId) {
        let Some(place) = self.place(id).ok().and_then(|place| u32::try_from(place).ok()) else {
            return;
        };
        let found = self.handles.binary_search_by_key(&handle, |(known, _)| *known);
        if found.is_ok_and(|at| self.handles[at].1 == place) {
            return;
        }
        self.version += 1;
        match found {
            Ok(at) => self.handles[at].1 = place,
            Err(_) if self.handles.len() >= HANDLES_MAX => {
                // The agent has given the same instance new handles repeatedly: only its newest handle counts.
                self.handles.retain(|(_, named)| *named != place);
                if self.handles.len() < HANDLES_MAX {
                    let at = self.handles.partition_point(|(known, _)| *known < handle);
                    self.handles.insert(at, (handle, place));
                }
            }
            Err(at) => self.handles.insert(at, (handle, place)),
        }
    }

    pub(super) fn forget_handles(&mut self) {
        self.handles.clear();
    }

    /// Unbinds a handle; returns the instance that it was bound to.
    pub(super) fn unbind_handle(&mut self, handle: Handle) -> Option<InstanceId> {
        let at = self.handles.binary_search_by_key(&handle, |(known, _)| *known);
        let (_, place) = self.handles.remove(at.ok()?);
        self.all.get(place as usize).map(|member| member.id.clone())
    }

    pub(super) fn by_handle(&mut self, handle: Handle) -> Option<&mut Member> {
        let at = self.handles.binary_search_by_key(&handle, |(known, _)| *known);
        let (_, place) = self.handles[at.ok()?];
        self.all.get_mut(place as usize)
    }

    /// Releases spare capacity: most agents seldom get more instances.
    pub(super) fn shrink(&mut self) {
        self.all.shrink_to_fit();
        self.handles.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id(n: u8) -> InstanceId {
        InstanceId::new(&format!("h:{n}")).unwrap()
    }

    #[test]
    fn handles_of_one_instance_are_bounded() {
        let mut members = Members::default();
        let put = |n| Member {
            id: id(n),
            progress: Mono(1),
            freshness_limit: FreshnessLimit::of(Duration::from_secs(1)),
            reason: Reason::Ok,
        };
        members.put(put(1));
        members.put(put(2));
        members.bind_handle(Handle(0), &id(2));
        for n in 1..100_000 {
            members.bind_handle(Handle(n), &id(1));
            assert!(members.handles.len() <= HANDLES_MAX);
        }
        assert_eq!(members.by_handle(Handle(99_999)).unwrap().id, id(1));
        assert_eq!(
            members.by_handle(Handle(0)).unwrap().id,
            id(2),
            "another instance keeps its own"
        );
    }

    proptest! {
        /// Handles stay bound to their instances, whatever is added and removed.
        #[test]
        fn handles_follow_their_instances(steps in proptest::collection::vec((0u8..4, 0u8..12, 0u32..6), 0..80)) {
            let (mut members, mut model) = (Members::default(), BTreeMap::<u32, InstanceId>::new());
            for (what, n, handle) in steps {
                match what {
                    0 => members.put(Member {
                        id: id(n),
                        progress: Mono(u64::from(n)),
                        freshness_limit: FreshnessLimit::of(Duration::from_secs(1)),
                        reason: Reason::Ok,
                    }),
                    1 => {
                        members.remove(&id(n));
                        model.retain(|_, named| *named != id(n));
                    }
                    2 => {
                        members.bind_handle(Handle(handle), &id(n));
                        if members.get(&id(n)).is_some() {
                            model.insert(handle, id(n));
                        }
                    }
                    _ => prop_assert_eq!(members.unbind_handle(Handle(handle)), model.remove(&handle)),
                }
                for handle in 0..6 {
                    let named = members.by_handle(Handle(handle)).map(|member| member.id.clone());
                    prop_assert_eq!(named.as_ref(), model.get(&handle));
                }
                for (member, handle) in members.iter().zip(members.handles()) {
                    let largest = model.iter().rfind(|(_, named)| **named == member.id);
                    prop_assert_eq!(handle, largest.map(|(handle, _)| Handle(*handle)));
                }
                prop_assert!(members.iter().zip(members.iter().skip(1)).all(|(a, b)| a.id < b.id));
            }
        }
    }

    #[test]
    fn limits_are_rounded_up() {
        assert_eq!(
            FreshnessLimit::of(Duration::from_micros(1_001)).get(),
            Duration::from_millis(2)
        );
        assert_eq!(
            FreshnessLimit::of(Duration::MAX).get(),
            Duration::from_millis(u32::MAX.into())
        );
    }
}
