//! Which messages of an agent are news.

use std::collections::VecDeque;

use crate::{
    ids::{BootId, BootTag, Seq},
    limits::RETIRED_BOOTS_MAX,
};

/// What a message is, judged by (boot, sequence).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Newer than everything heard of this boot: proves that the agent lives now.
    News,
    /// Not newer than what was heard: may still hold news of single instances, proves nothing about now.
    Late,
    /// From a boot that has been superseded: must be ignored.
    Retired,
}

/// Where a report stands among those of its agent. Published with each status, so that the next leader knows
/// whether what it has is older.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The agent's life.
    pub boot: BootTag,
    /// The message.
    pub seq: Seq,
}

impl Origin {
    /// Whether `other` is of the same boot and at least as new. Boots cannot be compared with each other.
    pub fn is_superseded_by(self, other: Self) -> bool {
        self.boot == other.boot && self.seq <= other.seq
    }
}

/// Order of the messages of one agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    boot: BootId,
    highest: Seq,
    retired: VecDeque<BootId>,
}

impl Order {
    /// Starts with the first boot heard of.
    pub fn new(boot: BootId) -> Self {
        Self {
            boot,
            highest: Seq(0),
            retired: VecDeque::new(),
        }
    }

    /// The boot in force.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// Highest sequence heard of the boot in force.
    pub fn highest(&self) -> Seq {
        self.highest
    }

    /// Whether a boot is known to be over.
    pub fn is_retired(&self, boot: BootTag) -> bool {
        self.retired.iter().any(|retired| retired.tag() == boot)
    }

    /// Takes a Hello. A boot not seen before supersedes and retires the present one.
    /// Returns false where `boot` itself is retired.
    pub fn hello(&mut self, boot: &BootId) -> bool {
        if *boot == self.boot {
            return true;
        }
        if self.retired.contains(boot) {
            return false;
        }
        if self.retired.len() == RETIRED_BOOTS_MAX {
            self.retired.pop_front();
        }
        self.retired
            .push_back(std::mem::replace(&mut self.boot, boot.clone()));
        self.highest = Seq(0);
        true
    }

    /// Takes the number of a message.
    pub fn arrive(&mut self, boot: &BootId, seq: Seq) -> Arrival {
        if *boot != self.boot {
            return Arrival::Retired;
        }
        if seq <= self.highest {
            return Arrival::Late;
        }
        self.highest = seq;
        Arrival::News
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boot(n: u8) -> BootId {
        BootId::new(&format!("{n:016x}")).unwrap()
    }

    proptest! {
        #[test]
        fn each_sequence_is_news_at_most_once(seqs in proptest::collection::vec(1u64..50, 0..200)) {
            let mut order = Order::new(boot(1));
            let mut news = std::collections::BTreeSet::new();
            for seq in seqs {
                if order.arrive(&boot(1), Seq(seq)) == Arrival::News {
                    prop_assert!(news.insert(seq));
                }
            }
        }

        #[test]
        fn a_retired_boot_never_returns(hellos in proptest::collection::vec(0u8..20, 1..60)) {
            let mut order = Order::new(boot(0));
            let mut dead = std::collections::BTreeSet::new();
            let mut current = 0u8;
            for hello in hellos {
                let accepted = order.hello(&boot(hello));
                prop_assert_eq!(accepted, !dead.contains(&hello));
                if accepted && hello != current {
                    dead.insert(current);
                    current = hello;
                }
                for gone in &dead {
                    prop_assert_eq!(order.arrive(&boot(*gone), Seq(1_000)), Arrival::Retired);
                }
            }
        }
    }
}
