//! The brake on absence: when many agents fall silent together, the fault is likelier ours, such as a dead switch. Their
//! statuses are then held as they are, and whoever reads them is told so, instead of turning UNKNOWN all at once. What an
//! agent has seen, such as a DOWN, is never held.

use std::{collections::BTreeSet, time::Duration};

use super::{Effect, Fleet};
use crate::{
    ids::AgentId,
    time::{Mono, WallMs},
};

/// When the brake holds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BrakeSettings {
    /// At least so many agents must have fallen silent together; 0: the brake never holds.
    pub min_agents: usize,
    /// And more than this share of those that were heard a moment before, between 0 and 1.
    pub share: f64,
    /// How long statuses are held. After that they are released within the same time again.
    pub hold: Duration,
    /// An agent that was not heard for so long is overdue, and counts as falling silent.
    pub overdue_after: Duration,
}

impl BrakeSettings {
    /// A brake that never holds.
    pub const OFF: Self = Self {
        min_agents: 0,
        share: 1.0,
        hold: Duration::ZERO,
        overdue_after: Duration::ZERO,
    };

    /// Whether so many agents, of all that were heard, are too many to have fallen silent by themselves.
    fn holds(&self, overdue: usize, heard: usize) -> bool {
        // Agents are at most 20,000, which a floating-point number has exactly.
        self.min_agents > 0 && overdue >= self.min_agents && overdue as f64 > self.share * heard as f64
    }
}

/// What the brake holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// Since when.
    pub since: Mono,
    /// Agents that would be silent.
    pub agents: usize,
    /// Agents that were heard a moment before.
    pub of: usize,
}

/// The state of the brake.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Brake {
    pub(super) settings: BrakeSettings,
    on: Option<On>,
    /// Agents that would be silent.
    agents: BTreeSet<AgentId>,
    told: Option<Held>,
    /// When the agents were counted last.
    counted: Option<Mono>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct On {
    since: Mono,
    /// Agents that were heard a moment before it began.
    of: usize,
    /// Since when no longer too many are overdue.
    calm_since: Option<Mono>,
    /// Agents that were released, because they were held for too long.
    released: usize,
    /// When the numbers were looked at last.
    looked: Mono,
    /// More are to be released at once than one step may.
    has_more: bool,
}

/// Agents that one step releases, so that it is short: 256 with 50 instances each are some 10 ms.
const RELEASED_PER_STEP_MAX: usize = 256;
/// Time between two steps while more are to be released.
const NEXT_STEP: Duration = Duration::from_millis(1);
/// While the brake does not hold, the agents are counted at most once in this time.
const COUNT_INTERVAL: Duration = Duration::from_millis(50);

impl Brake {
    pub(super) fn new(settings: BrakeSettings) -> Self {
        Self {
            settings,
            on: None,
            agents: BTreeSet::new(),
            told: None,
            counted: None,
        }
    }

    /// Whether there is nothing to hold, to release or to tell.
    pub(super) fn is_idle(&self) -> bool {
        self.on.is_none() && self.told.is_none()
    }

    /// When the next step is due, if it is before the regular one.
    pub(super) fn next_deadline(&self, stepped: Mono) -> Option<Mono> {
        let has_more = self.on.is_some_and(|on| on.has_more);
        has_more.then(|| stepped + NEXT_STEP)
    }

    /// Whether the statuses of this agent are held.
    pub(super) fn holds(&self, agent: &AgentId) -> bool {
        self.agents.contains(agent)
    }

    /// This process did not run for this long.
    pub(super) fn paused(&mut self, late: Duration) {
        if let Some(on) = &mut self.on {
            on.since = on.since + late;
            on.looked = on.looked + late;
            on.calm_since = on.calm_since.map(|since| since + late);
        }
    }

    /// The agent is heard again.
    pub(super) fn heard(&mut self, agent: &AgentId) {
        if !self.agents.is_empty() {
            self.agents.remove(agent);
        }
    }
}

impl Fleet {
    /// Holds statuses in a mass silence.
    pub fn with_brake(mut self, settings: BrakeSettings) -> Self {
        self.brake = Brake::new(settings);
        self
    }

    /// What the brake holds.
    pub fn held(&self) -> Option<Held> {
        self.brake.told
    }

    /// Whether the silence of an agent, which is due now, is held.
    pub(super) fn holds(&mut self, now: Mono, agent: &AgentId) -> bool {
        if self.brake.settings.min_agents == 0 {
            return false;
        }
        let counted = self.brake.counted.filter(|at| now.since(*at) < COUNT_INTERVAL);
        if self.brake.on.is_none() && counted.is_none() {
            self.brake.counted = Some(now);
            let (overdue, heard) = self.overdue(now);
            if self.brake.settings.holds(overdue, heard) {
                self.brake.on = Some(On {
                    since: now,
                    of: heard,
                    calm_since: None,
                    released: 0,
                    looked: now,
                    has_more: false,
                });
            }
        }
        let holds = self.brake.on.is_some();
        if holds {
            self.brake.agents.insert(agent.clone());
        }
        holds
    }

    /// Number of agents that are overdue, and of those that are not silent, with them.
    fn overdue(&self, now: Mono) -> (usize, usize) {
        let not_silent = self
            .agents
            .iter()
            .filter(|agent| !agent.silent && !agent.is_long_silent());
        let limit = self.brake.settings.overdue_after;
        not_silent.fold((0, 0), |(overdue, all), agent| {
            (overdue + usize::from(now.since(agent.heard) >= limit), all + 1)
        })
    }

    /// Releases what need not be held any more: all, once no longer too many are overdue for `silent_after`, in which
    /// agents may come back; some after `hold`, and more until all are released.
    pub(super) fn release(&mut self, now: Mono, wall: WallMs, out: &mut Vec<Effect>) {
        if self.brake.is_idle() {
            return;
        }
        if let Some(mut on) = self.brake.on
            && now.since(on.looked)
                >= if on.has_more {
                    NEXT_STEP
                } else {
                    self.step_interval()
                }
        {
            on.looked = now;
            let (overdue, heard) = self.overdue(now);
            // Those that were released are no longer among them.
            let persists = self
                .brake
                .settings
                .holds(overdue + on.released, heard + on.released);
            on.calm_since = on.calm_since.or(Some(now)).filter(|_| !persists);
            let is_over = on
                .calm_since
                .is_some_and(|calm| now.since(calm) >= self.silent_after);
            let due = match now.since(on.since).checked_sub(self.brake.settings.hold) {
                _ if is_over => usize::MAX,
                None => 0,
                Some(beyond) => {
                    let share = beyond.as_secs_f64() / self.brake.settings.hold.as_secs_f64().max(0.001);
                    // At most 20,000 agents.
                    (share * on.of as f64).ceil() as usize
                }
            };
            let until = due.min(on.released + RELEASED_PER_STEP_MAX);
            while on.released < until
                && let Some(agent) = self.brake.agents.pop_first()
            {
                // A new leader may have granted it more time.
                if self
                    .agents
                    .get(&agent)
                    .is_some_and(|agent| agent.is_due(now, self.silent_after))
                {
                    on.released += 1;
                    self.silence(wall, &agent, out);
                }
            }
            on.has_more = on.released < due && !self.brake.agents.is_empty();
            // At the end of the release nothing is left to hold, whoever is overdue by then.
            let is_released = now.since(on.since) >= self.brake.settings.hold * 2;
            let is_empty = self.brake.agents.is_empty() && (overdue == 0 || !persists || is_released);
            self.brake.on = Some(on).filter(|on| on.has_more || !(is_over || is_empty));
        }
        let held = self.brake.on.map(|on| Held {
            since: on.since,
            agents: self.brake.agents.len(),
            of: on.of,
        });
        if held != self.brake.told {
            self.brake.told = held;
            out.push(Effect::Held);
        }
    }
}
