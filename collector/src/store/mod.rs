//! What the collector needs of ZooKeeper, as a small trait. [`zookeeper`] is the real one, [`memory`] the one for
//! `--standalone` and tests; both pass the same [`contract`].

use std::{future::Future, sync::Arc, time::Duration};

#[cfg(any(test, feature = "test-support"))]
pub mod contract;
pub mod diagnostics;
pub mod layout;
pub mod memory;
pub mod observed;
pub mod records;
pub mod servers;
#[cfg(test)]
pub(crate) mod tests_faults;
pub mod zookeeper;

/// A znode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its data.
    pub data: Vec<u8>,
    /// Number of changes of its data.
    pub version: i32,
    /// Session that owns it; 0 where it is persistent.
    pub owner: i64,
    /// False where its ACL forbids reading: then nothing but its existence is known.
    pub readable: bool,
}

/// What is known of a znode without reading it, which needs no right.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// Number of changes of its data.
    pub version: i32,
    /// Session that owns it; 0 where it is persistent.
    pub owner: i64,
}

/// Lifetime of a znode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Until deleted.
    Persistent,
    /// Until the session ends.
    Ephemeral,
    /// Until the session ends, with a number appended to its name.
    EphemeralSequential,
}

/// State of the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connection {
    /// Usable.
    Connected,
    /// Not connected; the session may still live.
    Suspended,
    /// The session has ended.
    Lost,
}

/// Why a request failed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// The znode exists.
    #[error("the znode exists")]
    Exists,
    /// The znode, or its parent, does not exist.
    #[error("the znode does not exist")]
    Missing,
    /// Refused for good, such as for want of permission.
    #[error("refused: {0}")]
    Refused(String),
    /// The session has ended.
    #[error("the session has ended: {0}")]
    Lost(String),
    /// No session: what was tried, and what came of it.
    #[error("no server gives a session ({0})")]
    Unreachable(String),
    /// It is unknown whether the request was applied.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// No answer in time: the request may still be applied later. The session must be given up.
    #[error("no answer within the time limit")]
    TimedOut,
}

/// Why a multi failed. Nothing of it was applied unless the outcome is unknown.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CommitError {
    /// The checked znode has another version or is gone: the writer is deposed.
    #[error("fenced: the checked znode has another version")]
    Fenced,
    /// The operation at this index was refused.
    #[error("operation {0} was refused")]
    Operation(usize, #[source] StoreError),
    /// The request as a whole failed.
    #[error("the request failed")]
    Request(#[from] StoreError),
}

/// One write of a multi.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Create a persistent (false) or ephemeral (true) znode.
    Create(String, Vec<u8>, bool),
    /// Set data; with a version, only if it is the present one.
    Set(String, Vec<u8>, Option<i32>),
    /// Delete.
    Delete(String),
}

impl Write {
    /// Path of the znode.
    pub fn path(&self) -> &str {
        let (Self::Create(path, ..) | Self::Set(path, ..) | Self::Delete(path)) = self;
        path
    }
}

/// Object and right of a request, for the text of a refusal: its reader must know which right to grant where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Need<'a> {
    right: &'static str,
    on: &'a str,
    path: &'a str,
}

impl<'a> Need<'a> {
    pub(crate) fn read(path: &'a str) -> Self {
        Self::own("READ", path)
    }

    /// The rights to create and delete belong to the parent.
    pub(crate) fn create(path: &'a str) -> Self {
        let parent = parent(path);
        Self {
            right: "CREATE",
            on: if parent.is_empty() { "/" } else { parent },
            path,
        }
    }

    pub(crate) fn of(write: &'a Write) -> Self {
        match write {
            Write::Create(path, ..) => Self::create(path),
            Write::Set(path, ..) => Self::own("WRITE", path),
            Write::Delete(path) => Self {
                right: "DELETE",
                ..Self::create(path)
            },
        }
    }

    fn own(right: &'static str, path: &'a str) -> Self {
        Self {
            right,
            on: path,
            path,
        }
    }

    /// Makes the text of a refusal.
    pub(crate) fn refused(self, error: &str, for_want_of_it: bool) -> StoreError {
        let Self { right, on, path } = self;
        StoreError::Refused(if for_want_of_it {
            format!("{error}: {path} needs the right {right} on {on}")
        } else {
            format!("{error}: {path}")
        })
    }
}

/// Parent of a path; empty for the root's.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Resolves when the watched znode was changed or deleted, or the session has ended.
pub type Watch = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Opens sessions.
pub trait Store: Send + Sync + 'static {
    /// The sessions that it opens.
    type Session: Session;

    /// Opens a fresh session. The store bounds the time.
    fn connect(&self) -> impl Future<Output = Result<Self::Session, StoreError>> + Send;

    /// The servers as configured.
    fn servers(&self) -> String;
}

/// One session. Every call ends within the store's time limit.
pub trait Session: Send + Sync + 'static {
    /// Number of the session.
    fn id(&self) -> i64;

    /// Session time-out, as the server granted it.
    fn timeout(&self) -> Duration;

    /// Servers that could not be reached when the session was opened, each with the reason.
    fn dead_servers(&self) -> &[String] {
        &[]
    }

    /// State of the connection now.
    fn connection(&self) -> Connection;

    /// Waits until the state of the connection differs from `known`, and returns it.
    fn changed(&self, known: Connection) -> impl Future<Output = Connection> + Send;

    /// Creates a znode and returns its path.
    fn create(
        &self,
        path: &str,
        data: &[u8],
        kind: Kind,
    ) -> impl Future<Output = Result<String, StoreError>> + Send;

    /// Reads znodes; `None` for those that do not exist.
    fn get(&self, paths: &[String]) -> impl Future<Output = Result<Vec<Option<Node>>, StoreError>> + Send;

    /// Checks whether a znode exists, without reading it.
    fn stat(&self, path: &str) -> impl Future<Output = Result<Option<Stat>, StoreError>> + Send;

    /// Names of the children.
    fn children(&self, path: &str) -> impl Future<Output = Result<Vec<String>, StoreError>> + Send;

    /// Watches a znode once; `None` where it does not exist.
    fn watch(&self, path: &str) -> impl Future<Output = Result<Option<Watch>, StoreError>> + Send;

    /// Brings the connected server up to date.
    fn sync(&self, path: &str) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Applies all writes or none, on condition that `check` exists with this version. The request goes out
    /// when the future is first polled.
    fn commit(
        &self,
        check: (&str, i32),
        writes: Vec<Write>,
    ) -> impl Future<Output = Result<(), CommitError>> + Send;

    /// Ends the session, which removes its ephemeral znodes.
    fn close(this: Arc<Self>) -> impl Future<Output = ()> + Send;
}
