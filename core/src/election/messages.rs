//! The inputs and effects of the election core.

use std::collections::BTreeSet;

use super::{Candidate, Term};
use crate::ids::Epoch;

/// What the shell observed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A session is usable: a new one, or the former one after a suspension.
    Connected,
    /// Not connected; the session may still live.
    Suspended,
    /// The session has ended, or the shell has abandoned it.
    Lost,
    /// The candidate node was created under this name.
    Enqueued(String),
    /// Result of looking for the own candidate node.
    Found(Option<String>),
    /// All candidates.
    Listed(Vec<Candidate>),
    /// The watched node changed, or it is time to list the candidates again.
    LookAgain,
    /// The claim was acknowledged.
    Claimed(Term),
    /// The epoch was advanced, or the own node vanished, before the claim.
    ClaimRefused,
    /// Whether a claim with an unknown outcome was applied.
    Settled(Option<Term>),
    /// Whether the own node and the epoch are as they should be for the present term.
    Verified(bool),
    /// A write was refused because of the epoch.
    Fenced,
    /// The requested operation ended without a known outcome.
    Unknown,
    /// The candidates whose processes have ended, as their peers' links prove; replaces the former set. They do not stand
    /// in the way of others any more, although their sessions have not expired.
    Ended(BTreeSet<String>),
    /// An epoch was seen: in its znode, in a published status, or in an answer.
    Seen(Epoch),
    /// Give up leadership and candidacy.
    Resign,
    /// Give up leadership to another candidate, and stand in line again.
    StepAside,
    /// Result of handing over. `None`: the outcome is unknown.
    HandedOver(Option<bool>),
}

/// What the shell must do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Create the candidate node -> `Enqueued` or `Unknown`.
    Enqueue,
    /// Look for the own candidate node after an unknown outcome -> `Found`.
    FindOwn,
    /// List the candidates -> `Listed`.
    List,
    /// Watch this candidate -> `LookAgain`.
    Watch(String),
    /// Claim the epoch, and delete these candidates, whose processes have ended, in the same multi -> `Claimed`,
    /// `ClaimRefused` or `Unknown`.
    Claim(Vec<String>),
    /// Find out whether the claim was applied -> `Settled`.
    Settle,
    /// Check the own node and the epoch -> `Verified`.
    Verify,
    /// Close the session, which removes all its nodes -> `Lost`.
    Drop,
    /// Lead from now on.
    Lead(Term),
    /// Write nothing until the next `Lead`.
    Hold,
    /// Delete the own nodes in one fenced multi, then close the session.
    StepDown(Option<Term>),
    /// Delete the own nodes in one fenced multi -> `HandedOver`.
    HandOver(Term),
}
