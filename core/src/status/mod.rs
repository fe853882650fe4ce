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

            /// Name used in ZooKeeper, metrics, logs and tables.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The value with this name.
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

/// An enum to which newer versions add values. Unknown values are carried as their numbers on the wire.
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

            /// Name used in metrics, where the set of names must be small and fixed.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ Self::$other(..) => $word }
            }

            /// The value with this name, if this version knows it.
            pub fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|v| v.as_str() == text)
            }

            /// Parses the text that stands, in ZooKeeper and in tables, for a value that this version does not know;
            /// returns its number.
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

// The modules follow the macros because two of them use these.
mod reason;
pub mod run_id;
mod text;
mod verdict;

pub use reason::{Ability, Reason, Role, State};
pub use text::{cut, cut_shared, is_directional};
pub use verdict::{Stage, Verdict};

/// What the agent's configuration says of an instance.
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
    /// The agent that reports it.
    pub agent: AgentId,
    /// The verdict in force: the agent's, or the collector's own UNKNOWN.
    pub verdict: Verdict,
}

impl Status {
    /// Whether the change from `former` is a transition: a change of state, reason or role. Evidence and other fields
    /// may change without one.
    pub fn is_transition_from(&self, former: &Self) -> bool {
        (self.verdict.reason, self.verdict.role) != (former.verdict.reason, former.verdict.role)
    }
}

// A collector holds one status for each instance: with 16 bytes more it would take the next larger size class of the
// allocator.
const _: () = assert!(std::mem::size_of::<Status>() <= 176);
