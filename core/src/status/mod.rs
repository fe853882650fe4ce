//! Describes what is known of one Redis instance: its identity, the verdict on it, and who reports it.

use crate::ids::{AgentId, ClusterName, InstanceId};
use std::{collections::BTreeMap, sync::Arc};

macro_rules! closed {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in ZooKeeper, metrics, logs and tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value that the word stands for.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

/// An enum of which newer versions know more values. Those are carried by their numbers on the wire.
macro_rules! open {
    (
        $(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),+ $(,)? }
        $(#[$odoc:meta])* else $other:ident($number:ty $(, $payload:ty)*) = $word:literal
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum $name { $($variant,)+ $(#[$odoc])* $other($number $(, $payload)*) }

        impl $name {
            /// All values that this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word used in metrics, where it must be one of a few.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::$other(..) => $word }
            }

            /// The value that the word stands for, where this version knows it.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }

            /// The number that stands for a value which this version does not know, in ZooKeeper and in tables.
            pub fn number(text: &str) -> Option<$number> {
                text.strip_prefix($word)?.strip_prefix('_')?.parse().ok()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    Self::$other(number, ..) => f.pad(&format!("{}_{number}", $word)),
                    known => f.pad(known.as_str()),
                }
            }
        }
    };
}

// The modules stand after the macros because two of them use these.
mod reason;
pub mod run_id;
mod text;
mod verdict;

pub use reason::{Ability, Reason, Role, State};
pub use text::{cut, cut_shared, is_directional};
pub use verdict::{Stage, Verdict};

/// What an agent is told about an instance by its configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name.
    pub id: InstanceId,
    /// Its group.
    pub cluster: Option<ClusterName>,
    /// `host:port` or a Unix socket path.
    pub address: Arc<str>,
    /// Labels.
    pub labels: Arc<BTreeMap<String, String>>,
}

/// One instance as a collector holds it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// Its name, group and address.
    pub identity: Identity,
    /// Who reports it.
    pub agent: AgentId,
    /// The verdict in force: the agent's, or the collector's own UNKNOWN.
    pub verdict: Verdict,
}

impl Status {
    /// Whether the change from `former` is a transition: of state, reason or role. Evidence and the like may change without
    /// one.
    pub fn is_transition_from(&self, former: &Self) -> bool {
        (self.verdict.reason, self.verdict.role) != (former.verdict.reason, former.verdict.role)
    }
}

// A collector holds one for each instance: with 16 bytes more it would take the next larger size of the allocator.
const _: () = assert!(std::mem::size_of::<Status>() <= 176);
