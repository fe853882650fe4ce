//! The election: decides who may write to ZooKeeper. One candidate's part of the protocol of `docs/protocol.md`,
//! "Election".
//!
//! The core asks for one operation at a time, and for none while the session is suspended. It emits [`Effect::Lead`]
//! only after an acknowledged claim of the epoch, and [`Effect::Hold`] at the instant at which leadership becomes
//! doubtful. Safety does not rest on this: every write is conditional on the epoch.
//!
//! A candidate whose process has provably ended is passed over, so that nobody waits for its session to expire. If the
//! proof is wrong, its process is fenced like any other former leader.

mod candidates;
pub mod lease;
mod messages;

use std::collections::BTreeSet;

use crate::ids::Epoch;

pub use candidates::Candidate;
use candidates::Place;
pub use messages::{Effect, Input};

/// An acknowledged claim.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Term {
    /// Number of the term.
    pub epoch: Epoch,
    /// Version of the epoch znode: the fencing token of every write.
    pub token: i32,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Phase {
    Offline,
    Enqueuing,
    Finding,
    Queued,
    /// The own candidate node was not listed: somebody deleted it.
    Missing,
    Claiming,
    Settling,
    Leading(Term),
    HandingOver(Term),
    Resigned,
}

/// The state of one candidate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Election {
    phase: Phase,
    node: Option<String>,
    connected: bool,
    /// Operation to ask for when the session is usable again.
    postponed: Option<Effect>,
    /// Candidates whose processes have ended.
    ended: BTreeSet<String>,
    /// Newest term that this process led.
    led: Epoch,
    /// Newest term seen, of any collector.
    seen: Epoch,
}

impl Default for Election {
    fn default() -> Self {
        Self {
            phase: Phase::Offline,
            node: None,
            connected: false,
            postponed: None,
            ended: BTreeSet::new(),
            led: Epoch(0),
            seen: Epoch(0),
        }
    }
}

impl Election {
    /// The term that this candidate holds, as far as it knows, even while suspended.
    pub fn term(&self) -> Option<Term> {
        match self.phase {
            Phase::Leading(term) => Some(term),
            _ => None,
        }
    }

    /// The newest term that this process ever held or saw. The next one must be newer, even if ZooKeeper was wiped or
    /// restored from an old snapshot.
    pub fn newest(&self) -> Epoch {
        self.led.max(self.seen)
    }

    /// Name of the own candidate node.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// Name of the current phase, e.g. `follower`.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Offline => "offline",
            _ if !self.connected => "suspended",
            Phase::Enqueuing | Phase::Finding | Phase::Queued | Phase::Missing => "follower",
            Phase::Claiming | Phase::Settling => "claiming",
            Phase::Leading(_) => "leader",
            Phase::HandingOver(_) | Phase::Resigned => "resigned",
        }
    }

    /// Applies an input and appends what the shell must do.
    pub fn step(&mut self, input: Input, out: &mut Vec<Effect>) {
        if self.phase == Phase::Resigned {
            return;
        }
        match input {
            Input::Connected => self.connected(out),
            Input::Suspended => {
                self.connected = false;
                if self.term().is_some() {
                    out.push(Effect::Hold);
                    self.postponed = Some(Effect::Verify);
                }
            }
            Input::Lost => {
                if self.term().is_some() {
                    out.push(Effect::Hold);
                }
                self.forget();
            }
            Input::Ended(candidates) => self.ended(candidates, out),
            Input::Seen(epoch) => self.seen = self.seen.max(plausible(epoch)),
            Input::Resign => {
                let term = self.term();
                if term.is_some() {
                    out.push(Effect::Hold);
                }
                self.phase = Phase::Resigned;
                out.push(Effect::StepDown(term));
            }
            Input::StepAside => {
                if let (Some(term), true) = (self.term(), self.connected) {
                    self.phase = Phase::HandingOver(term);
                    out.extend([Effect::Hold, Effect::HandOver(term)]);
                }
            }
            Input::HandedOver(result) => self.handed_over(result, out),
            Input::Enqueued(node) if matches!(self.phase, Phase::Enqueuing) => self.queued(node, out),
            Input::Found(Some(node)) if matches!(self.phase, Phase::Finding | Phase::Missing) => {
                self.queued(node, out)
            }
            Input::Found(None) if matches!(self.phase, Phase::Finding) => self.give_up(out),
            // It was created, and is gone: no other one can appear.
            Input::Found(None) if self.phase == Phase::Missing => self.enqueue(out),
            Input::Listed(candidates) if self.phase == Phase::Queued => self.listed(candidates, out),
            Input::LookAgain if self.phase == Phase::Queued => self.ask(Effect::List, out),
            Input::Claimed(term) if matches!(self.phase, Phase::Claiming) => self.lead(term, out),
            Input::Settled(Some(term)) if self.phase == Phase::Settling => self.lead(term, out),
            Input::ClaimRefused if self.phase == Phase::Claiming => self.requeue(out),
            Input::Settled(None) if self.phase == Phase::Settling => self.requeue(out),
            // An answer that arrives while suspended is outdated; `Verify` is asked for again.
            Input::Verified(ok) if self.connected => {
                if let Some(term) = self.term() {
                    if ok {
                        out.push(Effect::Lead(term))
                    } else {
                        self.give_up(out)
                    }
                }
            }
            Input::Fenced if self.term().is_some() => self.give_up(out),
            Input::Unknown => self.unknown(out),
            // An answer to an operation of a former phase is ignored.
            _ => {}
        }
    }

    fn connected(&mut self, out: &mut Vec<Effect>) {
        let back = std::mem::replace(&mut self.connected, true);
        if self.phase == Phase::Offline {
            self.phase = Phase::Enqueuing;
            out.push(Effect::Enqueue);
        } else if let Some(effect) = self.postponed.take() {
            out.push(effect);
        } else if !back && self.phase == Phase::Queued {
            // A one-shot watch may have fired unnoticed.
            out.push(Effect::List);
        }
    }

    fn ended(&mut self, candidates: BTreeSet<String>, out: &mut Vec<Effect>) {
        let before = std::mem::replace(&mut self.ended, candidates);
        if before != self.ended && self.phase == Phase::Queued {
            self.ask(Effect::List, out);
        }
    }

    fn ask(&mut self, effect: Effect, out: &mut Vec<Effect>) {
        if self.connected {
            out.push(effect)
        } else {
            self.postponed = Some(effect)
        }
    }

    fn queued(&mut self, node: String, out: &mut Vec<Effect>) {
        self.node = Some(node);
        self.requeue(out);
    }

    fn requeue(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Queued;
        self.ask(Effect::List, out);
    }

    fn listed(&mut self, candidates: Vec<Candidate>, out: &mut Vec<Effect>) {
        let Some(own) = &self.node else {
            return self.give_up(out);
        };
        match candidates::place(candidates, own, &self.ended) {
            Place::None => {
                self.phase = Phase::Missing;
                self.ask(Effect::FindOwn, out);
            }
            Place::First(ended) => {
                self.phase = Phase::Claiming;
                self.ask(Effect::Claim(ended), out);
            }
            Place::Behind(predecessor) => self.ask(Effect::Watch(predecessor), out),
        }
    }

    fn lead(&mut self, term: Term, out: &mut Vec<Effect>) {
        if self.led >= term.epoch {
            // The epoch went backwards, as in a restored ZooKeeper. Start over rather than write with an old number.
            self.give_up(out);
            return;
        }
        self.led = term.epoch;
        self.phase = Phase::Leading(term);
        if self.connected {
            out.push(Effect::Lead(term))
        } else {
            self.postponed = Some(Effect::Verify)
        }
    }

    fn unknown(&mut self, out: &mut Vec<Effect>) {
        let next = match self.phase {
            Phase::Enqueuing | Phase::Finding => {
                self.phase = Phase::Finding;
                Effect::FindOwn
            }
            Phase::Missing => Effect::FindOwn,
            Phase::Claiming | Phase::Settling => {
                self.phase = Phase::Settling;
                Effect::Settle
            }
            Phase::Queued => Effect::List,
            Phase::Leading(_) => {
                out.push(Effect::Hold);
                Effect::Verify
            }
            Phase::Offline | Phase::HandingOver(_) | Phase::Resigned => return,
        };
        self.ask(next, out);
    }

    fn enqueue(&mut self, out: &mut Vec<Effect>) {
        self.node = None;
        self.phase = Phase::Enqueuing;
        self.ask(Effect::Enqueue, out);
    }

    fn handed_over(&mut self, result: Option<bool>, out: &mut Vec<Effect>) {
        let Phase::HandingOver(term) = self.phase else {
            return;
        };
        match result {
            Some(true) => self.enqueue(out),
            // Nothing was deleted: the term goes on, if nobody else has claimed.
            Some(false) => {
                self.phase = Phase::Leading(term);
                self.ask(Effect::Verify, out);
            }
            None => self.give_up(out),
        }
    }

    fn give_up(&mut self, out: &mut Vec<Effect>) {
        if self.term().is_some() {
            out.push(Effect::Hold);
        }
        self.forget();
        out.push(Effect::Drop);
    }

    /// Starts over, but keeps the terms that must never be forgotten, and what is known of others.
    fn forget(&mut self) {
        *self = Self {
            ended: std::mem::take(&mut self.ended),
            led: self.led,
            seen: self.seen,
            ..Self::default()
        };
    }
}

/// Largest epoch that is believed. Terms count up from 1 by one, so a larger number was written by hand or damaged, and
/// there must be room above it for all terms to come. Numbers up to here survive JSON readers that use floating point.
pub const EPOCH_MAX: u64 = 1 << 53;

/// The epoch, or 0 if its number is not plausible.
pub fn plausible(epoch: Epoch) -> Epoch {
    if epoch.0 <= EPOCH_MAX { epoch } else { Epoch(0) }
}

#[cfg(test)]
mod tests;
