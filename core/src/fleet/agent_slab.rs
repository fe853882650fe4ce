//! The slab of agents: by name, and by a slot that stays the same while an agent is known. A message finds its agent by
//! the slot of its stream, without comparing names.

use std::collections::BTreeMap;

use super::AgentState;
use crate::ids::AgentId;

/// Slot of an agent. A slot is reused for another agent once its agent is forgotten; the `generation`
/// distinguishes them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct SlotKey {
    index: u32,
    generation: u32,
}

impl SlotKey {
    /// Index of the slot, below the largest number of agents that were known at one time.
    pub fn index(self) -> usize {
        self.index as usize
    }
}

/// The agents. Bounded by `AGENTS_MAX`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Agents {
    states: Vec<(u32, Option<AgentState>)>,
    names: BTreeMap<AgentId, SlotKey>,
    free: Vec<SlotKey>,
}

impl Agents {
    /// Number of agents.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// True if there are no agents.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Slot of an agent.
    pub fn key(&self, name: &AgentId) -> Option<SlotKey> {
        self.names.get(name).copied()
    }

    /// The agent with this name.
    pub fn get(&self, name: &AgentId) -> Option<&AgentState> {
        self.at(self.key(name)?)
    }

    /// The agent in this slot.
    pub fn at(&self, place: SlotKey) -> Option<&AgentState> {
        let (generation, state) = self.states.get(place.index())?;
        state.as_ref().filter(|_| *generation == place.generation)
    }

    /// Iterates over all agents.
    pub fn iter(&self) -> impl Iterator<Item = &AgentState> {
        self.states.iter().filter_map(|(_, state)| state.as_ref())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut AgentState> {
        self.states.iter_mut().filter_map(|(_, state)| state.as_mut())
    }

    pub(super) fn get_mut(&mut self, name: &AgentId) -> Option<&mut AgentState> {
        self.at_mut(self.key(name)?)
    }

    pub(super) fn at_mut(&mut self, place: SlotKey) -> Option<&mut AgentState> {
        let (generation, state) = self.states.get_mut(place.index())?;
        state.as_mut().filter(|_| *generation == place.generation)
    }

    /// The agent with this name, created by `make` if it is not known.
    pub(super) fn get_or_add(
        &mut self,
        name: &AgentId,
        state: impl FnOnce() -> AgentState,
    ) -> (SlotKey, &mut AgentState) {
        let place = match self.key(name) {
            Some(place) => place,
            None => {
                let place = self.free.pop().unwrap_or_else(|| {
                    self.states.push((0, None));
                    // `AGENTS_MAX` is far below 4 billion.
                    let index = u32::try_from(self.states.len() - 1).unwrap_or(u32::MAX);
                    SlotKey { index, generation: 0 }
                });
                self.names.insert(name.clone(), place);
                place
            }
        };
        (place, self.states[place.index()].1.get_or_insert_with(state))
    }

    pub(super) fn remove(&mut self, name: &AgentId) {
        if let Some(place) = self.names.remove(name) {
            let generation = place.generation.wrapping_add(1);
            self.states[place.index()] = (generation, None);
            self.free.push(SlotKey { generation, ..place });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Mono;

    #[test]
    fn places_stay_and_are_used_again() {
        let mut agents = Agents::default();
        let [a, b, c] = ["a", "b", "c"].map(|name| AgentId::new(name).unwrap());
        let add = |agents: &mut Agents, name: &AgentId| {
            agents
                .get_or_add(name, || AgentState::adopted(name.clone(), Mono(0)))
                .0
        };
        let (first, second) = (add(&mut agents, &a), add(&mut agents, &b));
        assert_eq!((add(&mut agents, &a), agents.len()), (first, 2));
        agents.remove(&a);
        assert_eq!((agents.get(&a), agents.at(first)), (None, None));
        assert_eq!(agents.key(&b), Some(second));
        let again = add(&mut agents, &c);
        assert_eq!(again.index(), first.index());
        assert_eq!(agents.at(again).map(|agent| &agent.name), Some(&c));
        assert_eq!(agents.at(first), None, "the slot is another agent's");
        assert_eq!(agents.iter().count(), 2);
    }
}
