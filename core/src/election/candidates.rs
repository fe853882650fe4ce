//! Candidates and their order.

use std::collections::BTreeSet;

/// A candidate znode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// The session that owns it; 0 if none does, as with a znode that a backup tool restored.
    pub owner: i64,
}

impl Candidate {
    /// True if no session owns the candidate: it neither leads nor ever disappears by itself.
    pub fn is_leftover(&self) -> bool {
        self.owner == 0
    }

    /// Place in the line: the lowest comes first.
    pub fn order(&self) -> impl Ord + use<> {
        sequence(&self.name)
    }
}

/// Sequence number at the end of a candidate's name. ZooKeeper counts in an i32 that overflows to negative numbers;
/// those sort after all positive ones.
fn sequence(name: &str) -> (u32, String) {
    let digits = name.rsplit("n-").next().unwrap_or_default();
    let number = digits.parse::<i32>().unwrap_or(i32::MAX);
    (number as u32, name.to_owned())
}

/// Place of the own candidate among all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// It is not there.
    None,
    /// It is the first whose process lives; with the candidates whose processes have ended.
    First(Vec<String>),
    /// Behind this one.
    Behind(String),
}

/// Finds the place of the candidate `own`. Those that no session owns would stay before all others for ever, and those of
/// processes that have ended until their sessions expire: neither is waited for.
pub(super) fn place(mut candidates: Vec<Candidate>, own: &String, ended: &BTreeSet<String>) -> Place {
    candidates.retain(|candidate| !candidate.is_leftover());
    let mut names: Vec<_> = candidates.into_iter().map(|candidate| candidate.name).collect();
    names.sort_by_key(|name| sequence(name));
    let gone = names.extract_if(.., |name| name != own && ended.contains(name));
    let gone = gone.collect();
    match names.iter().position(|name| name == own) {
        None => Place::None,
        Some(0) => Place::First(gone),
        Some(place) => Place::Behind(names.swap_remove(place - 1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequence_overflow_keeps_the_order() {
        assert!(sequence("a-n-2147483647") < sequence("b-n--2147483648"));
    }
}
