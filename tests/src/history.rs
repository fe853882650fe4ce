//! A history records the writes to ZooKeeper and their sessions, in order. It is read from a real server's transaction
//! log ([`crate::txnlog`]) or recorded by the simulation, and checked by [`crate::check`].

use std::fmt;

use serde_json::Value;

/// One operation.
#[derive(Clone, PartialEq, Eq)]
pub enum Op {
    /// A znode was created with this data.
    Create(String, Vec<u8>),
    /// The znode's data was set.
    Set(String, Vec<u8>),
    /// The znode was deleted.
    Delete(String),
    /// The znode's version was checked.
    Check(String, i32),
}

/// One transaction, all of which was applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Txn {
    /// Session that wrote it.
    pub session: i64,
    /// Time, in milliseconds of the server's clock.
    pub at: u64,
    /// Its operations, in order.
    pub ops: Vec<Op>,
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = String::from_utf8_lossy;
        match self {
            Self::Create(path, data) => write!(f, "create {path} {}", text(data)),
            Self::Set(path, data) => write!(f, "set {path} {}", text(data)),
            Self::Delete(path) => write!(f, "delete {path}"),
            Self::Check(path, version) => write!(f, "check {path} {version}"),
        }
    }
}

impl Op {
    /// Path of the znode.
    pub fn path(&self) -> &str {
        match self {
            Self::Create(path, _) | Self::Set(path, _) | Self::Delete(path) | Self::Check(path, _) => path,
        }
    }

    /// The data that is written, if any.
    pub fn data(&self) -> Option<&[u8]> {
        match self {
            Self::Create(_, data) | Self::Set(_, data) => Some(data),
            Self::Delete(_) | Self::Check(..) => None,
        }
    }

    /// The data that is written, as JSON; null if there is none or it is not JSON.
    pub fn json(&self) -> Value {
        let json = self.data().and_then(|data| serde_json::from_slice(data).ok());
        json.unwrap_or_default()
    }

    /// Whether it changes something.
    pub fn is_write(&self) -> bool {
        !matches!(self, Self::Check(..))
    }

    /// Id of the instance whose status znode it concerns.
    pub fn instance(&self) -> Option<&str> {
        let (_, rest) = self.path().split_once("/instances/")?;
        rest.split_once('/').map(|(_, id)| id).filter(|_| self.is_write())
    }
}

/// Writes of status znodes in a history.
pub fn status_writes(txns: &[Txn]) -> impl Iterator<Item = (&Txn, &str, &Op)> {
    let ops = txns
        .iter()
        .flat_map(|txn| txn.ops.iter().map(move |op| (txn, op)));
    ops.filter_map(|(txn, op)| Some((txn, op.instance()?, op)))
}
