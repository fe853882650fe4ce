//! Types for names and numbers, so that they are not mixed up.

use std::{fmt, sync::Arc};

use crate::limits::{BUCKETS, INSTANCE_ID_BYTES_MAX, NAME_BYTES_MAX};

/// Why a text is not a valid name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("has {got} bytes, at most {max} are allowed")]
    TooLong {
        /// Bytes found.
        got: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// A character outside the alphabet.
    #[error("contains {0:?}; allowed are letters, digits and {1}")]
    Character(char, &'static str),
    /// A name that ZooKeeper or the path syntax reserves.
    #[error("is reserved")]
    Reserved,
}

fn check(text: &str, max: usize, extra: &'static str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong { got: text.len(), max });
    }
    if let Some(c) = text
        .chars()
        .find(|c| !c.is_ascii_alphanumeric() && !extra.contains(*c))
    {
        return Err(NameError::Character(c, extra));
    }
    if matches!(text, "." | ".." | "zookeeper") {
        return Err(NameError::Reserved);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $extra:literal) => {
        $(#[$doc])*
        #[derive(Clone, Eq, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                // Most equal names share one allocation.
                Arc::ptr_eq(&self.0, &other.0) || self.0 == other.0
            }
        }

        impl $name {
            /// Checks length and alphabet.
            ///
            /// # Errors
            /// Says what is wrong with the text.
            pub fn new(text: &str) -> Result<Self, NameError> {
                check(text, $max, $extra)?;
                Ok(Self(text.into()))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name!(
    /// One Redis endpoint: `<host-id>:<port>` or a configured name.
    InstanceId, INSTANCE_ID_BYTES_MAX, "._:-"
);
name!(
    /// One agent, which means one host.
    AgentId, NAME_BYTES_MAX, "._-"
);
name!(
    /// One collector.
    CollectorId, NAME_BYTES_MAX, "._-"
);
name!(
    /// A named group of instances.
    ClusterName, NAME_BYTES_MAX, "._-"
);

impl InstanceId {
    /// Bucket under `instances/`: the lowest byte of FNV-1a-64 of the id. Part of the ZooKeeper layout.
    pub fn bucket(&self) -> Bucket {
        Bucket((self.hash64() % BUCKETS as u64) as u8)
    }

    /// FNV-1a-64 of the name.
    pub fn hash64(&self) -> u64 {
        fnv1a_64(&self.0)
    }
}

fn fnv1a_64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// One of the 256 znodes below `instances`, named by two hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Bucket(pub u8);

impl Bucket {
    /// All buckets in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).map(Self)
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// Identifies one life of an agent process: 16 to 64 hex digits, drawn at random.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct BootId(Arc<str>);

impl BootId {
    /// Checks length and alphabet.
    ///
    /// # Errors
    /// Says what is wrong with the text.
    pub fn new(text: &str) -> Result<Self, NameError> {
        if text.len() < 16 || text.len() > 64 {
            return Err(NameError::TooLong {
                got: text.len(),
                max: 64,
            });
        }
        match text.chars().find(|c| !c.is_ascii_hexdigit()) {
            Some(c) => Err(NameError::Character(c, "hex digits only")),
            None => Ok(Self(text.into())),
        }
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Its short form.
    pub fn tag(&self) -> BootTag {
        let hash = fnv1a_64(&self.0);
        BootTag(((hash >> 32) as u32 ^ hash as u32).max(1))
    }
}

/// 32 bits derived from a [`BootId`], enough to distinguish the boots of one agent. 0 where the boot is not known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct BootTag(pub u32);

/// Short number of an instance within one boot of its agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Handle(pub u32);

/// Number of a message of one boot of an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Seq(pub u64);

/// Number of a leadership term.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Epoch(pub u64);

/// Number of a change in one collector's view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Revision(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_is_wrong() {
        assert_eq!(InstanceId::new(""), Err(NameError::Empty));
        assert_eq!(InstanceId::new(".."), Err(NameError::Reserved));
        assert!(matches!(
            InstanceId::new("a/b"),
            Err(NameError::Character('/', _))
        ));
        assert!(matches!(
            AgentId::new(&"x".repeat(64)),
            Err(NameError::TooLong { got: 64, max: 63 })
        ));
        assert!(InstanceId::new("db01:6379").is_ok());
        assert!(BootId::new("0123456789abcdef").is_ok());
        assert!(BootId::new("0123").is_err());
    }

    #[test]
    fn bucket_is_fnv1a_64() {
        // Known vectors of FNV-1a-64: "a" = af63dc4c8601ec8c, "foobar" = 85944171f73967e8.
        assert_eq!(InstanceId::new("a").unwrap().bucket(), Bucket(0x8c));
        assert_eq!(InstanceId::new("foobar").unwrap().bucket(), Bucket(0xe8));
        assert_eq!(Bucket(5).to_string(), "05");
    }
}
