//! Orders the messages of one agent by (boot, sequence).

use std::collections::VecDeque;

use crate::{
    ids::{BootId, BootTag, Seq},
    limits::RETIRED_BOOTS_MAX,
};

/// How a message counts, by (boot, sequence).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Newer than everything heard of this boot: proves that the agent lives now.
    New,
    /// Not newer than what was heard: may still contain news of single instances, but proves nothing about the present.
    Stale,
    /// From a boot that has been superseded: must be ignored.
    Superseded,
}

/// Origin of a report: its position among the messages of its agent. It is published with each status, so that the next
/// leader knows whether its own report is older.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The boot of the agent.
    pub boot: BootTag,
    /// The sequence of the message.
    pub seq: Seq,
}

impl Origin {
    /// Whether `other` is of the same boot and at least as new. Boots cannot be compared with each other.
    pub fn is_superseded_by(self, other: Self) -> bool {
        self.boot == other.boot && self.seq <= other.seq
    }
}

/// Ordinal of a boot of an agent, in the order in which boots were heard. Streams carry it because comparing numbers is
/// cheaper than comparing the text of a boot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct BootOrdinal(u32);

/// Order of the messages of one agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageOrder {
    boot: BootId,
    ordinal: BootOrdinal,
    highest: Seq,
    retired: VecDeque<BootId>,
}

impl MessageOrder {
    /// Starts with the first boot that is heard.
    pub fn new(boot: BootId) -> Self {
        Self {
            boot,
            ordinal: BootOrdinal::default(),
            highest: Seq(0),
            retired: VecDeque::new(),
        }
    }

    /// The current boot.
    pub fn boot(&self) -> &BootId {
        &self.boot
    }

    /// Highest sequence heard of the current boot.
    pub fn highest(&self) -> Seq {
        self.highest
    }

    /// Whether a boot is known to be superseded.
    pub fn is_retired(&self, boot: BootTag) -> bool {
        self.retired.iter().any(|retired| retired.tag() == boot)
    }

    /// Applies a Hello. A boot not seen before supersedes and retires the current one. Returns the ordinal of `boot`,
    /// or `None` if it is retired.
    pub fn hello(&mut self, boot: &BootId) -> Option<BootOrdinal> {
        if *boot == self.boot {
            return Some(self.ordinal);
        }
        if self.retired.contains(boot) {
            return None;
        }
        if self.retired.len() == RETIRED_BOOTS_MAX {
            self.retired.pop_front();
        }
        self.retired
            .push_back(std::mem::replace(&mut self.boot, boot.clone()));
        self.highest = Seq(0);
        // Cannot overflow in practice: one boot per second takes 136 years.
        self.ordinal.0 = self.ordinal.0.saturating_add(1);
        Some(self.ordinal)
    }

    /// Origin of a message of the current boot.
    pub fn origin(&self, seq: Seq) -> Origin {
        Origin {
            boot: self.boot.tag(),
            seq,
        }
    }

    /// Applies the sequence of a message of the boot with this ordinal.
    pub fn accept(&mut self, ordinal: BootOrdinal, seq: Seq) -> Arrival {
        if ordinal != self.ordinal {
            return Arrival::Superseded;
        }
        if seq <= self.highest {
            return Arrival::Stale;
        }
        self.highest = seq;
        Arrival::New
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
            let mut order = MessageOrder::new(boot(1));
            let mut news = std::collections::BTreeSet::new();
            for seq in seqs {
                if order.accept(BootOrdinal::default(), Seq(seq)) == Arrival::New {
                    prop_assert!(news.insert(seq));
                }
            }
        }

        #[test]
        fn a_retired_boot_never_returns(hellos in proptest::collection::vec(0u8..20, 1..60)) {
            let mut order = MessageOrder::new(boot(0));
            let (mut dead, mut lives) = (std::collections::BTreeSet::new(), std::collections::BTreeMap::new());
            let mut current = 0u8;
            for hello in hellos {
                let accepted = order.hello(&boot(hello));
                prop_assert_eq!(accepted.is_some(), !dead.contains(&hello));
                if let Some(ordinal) = accepted {
                    prop_assert_eq!(*lives.entry(hello).or_insert(ordinal), ordinal);
                    if hello != current {
                        dead.insert(current);
                        current = hello;
                    }
                }
                for gone in dead.iter().filter_map(|gone| lives.get(gone)) {
                    prop_assert_eq!(order.accept(*gone, Seq(1_000)), Arrival::Superseded);
                }
            }
        }
    }
}
