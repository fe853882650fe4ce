//! The real ZooKeeper. The only module that uses zookeeper-client. `docs/zookeeper-client.md` has its defects, such as
//! B1 to B6, and how each is avoided.

use std::{future::Future, sync::Arc, time::Duration};

use zookeeper_client::{
    Acls, CheckWriteError, Client, CreateMode, CreateOptions, Error, MultiReadResult, SessionState,
};

use super::{
    CommitError, Connection, Kind, Need, Node, Session, Stat, Store, StoreError, Watch, Write,
    servers::{LookUp, Servers, system_look_up},
};

/// Reads in one multi-read: 500 statuses of 512 bytes are well below the 1 MiB of a Java server's reply.
const READS_MAX: usize = 500;
/// Bytes of paths in one multi-read: half of the smallest request limit (`jute.maxbuffer`) seen in use, 32 KiB. A
/// server cuts the connection on a larger one.
const READ_BYTES_MAX: usize = 16 * 1024;
/// Overhead of a path beside its bytes.
const READ_OVERHEAD: usize = 16;

/// Splits paths into parts that may each be read at once.
fn reads(mut paths: &[String]) -> impl Iterator<Item = &[String]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |path: &&String| {
            bytes += path.len() + READ_OVERHEAD;
            bytes <= READ_BYTES_MAX
        };
        let count = paths.iter().take(READS_MAX).take_while(fits).count();
        let (part, rest) = paths.split_at(count.max(1).min(paths.len()));
        paths = rest;
        (!part.is_empty()).then_some(part)
    })
}
/// How long the end of a session may take to reach the server.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How to reach ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeper {
    servers: Servers,
    session_timeout: Duration,
}

impl ZooKeeper {
    /// Servers as `host:port,host:port`, and the requested session time-out.
    pub fn new(servers: &str, session_timeout: Duration) -> Self {
        Self::with_look_up(servers, session_timeout, system_look_up)
    }

    /// Like [`new`](Self::new), with another resolver.
    pub fn with_look_up(servers: &str, session_timeout: Duration, look_up: LookUp) -> Self {
        Self {
            servers: Servers::new(servers, look_up),
            session_timeout,
        }
    }
}

impl Store for ZooKeeper {
    type Session = ZkSession;

    async fn connect(&self) -> Result<ZkSession, StoreError> {
        let connector = Client::connector()
            .with_session_timeout(self.session_timeout)
            .with_fail_eagerly();
        let found = self.servers.find().await;
        if found.alive.is_empty() {
            return Err(StoreError::Unreachable(found.tried("")));
        }
        let addresses = found.connect_string();
        let connecting = connector.connect(&addresses);
        let why = match tokio::time::timeout(self.session_timeout, connecting).await {
            Ok(Ok(client)) => return Ok(ZkSession::new(client, found.into_dead())),
            // The library reports only the last of several faults.
            Ok(Err(Error::NoHosts | Error::Timeout)) | Err(_) => {
                "takes connections, but gives no session".to_owned()
            }
            Ok(Err(e)) => e.to_string(),
        };
        Err(StoreError::Unreachable(found.tried(&why)))
    }

    fn servers(&self) -> String {
        self.servers.to_string()
    }
}

/// A session with ZooKeeper.
pub struct ZkSession {
    client: Client,
    limit: Duration,
    dead_servers: Vec<String>,
}

impl ZkSession {
    fn new(client: Client, dead_servers: Vec<String>) -> Self {
        // Long enough for a slow disk, short enough to notice a lost request within the session.
        let limit = client.session_timeout() * 2 / 3;
        Self {
            client,
            limit,
            dead_servers,
        }
    }
}

/// Classifies an error. Anything that is not a definite answer of the server is an unknown outcome: network faults
/// arrive as several kinds of error (defect B3).
fn classify(error: &Error) -> StoreError {
    match error {
        Error::NoNode => StoreError::Missing,
        Error::NodeExists => StoreError::Exists,
        Error::SessionExpired | Error::AuthFailed | Error::ClientClosed => {
            StoreError::Lost(error.to_string())
        }
        Error::NoAuth
        | Error::QuotaExceeded
        | Error::BadArguments(_)
        | Error::InvalidAcl
        | Error::NotReadOnly
        | Error::NotEmpty
        | Error::BadVersion
        | Error::NoChildrenForEphemerals => StoreError::Refused(error.to_string()),
        _ => StoreError::Unknown(error.to_string()),
    }
}

/// Like `classify`, with path and right if the request was refused.
fn explain(error: &Error, need: Need<'_>) -> StoreError {
    match classify(error) {
        StoreError::Refused(text) => need.refused(&text, *error == Error::NoAuth),
        other => other,
    }
}

impl ZkSession {
    async fn timed<T>(
        &self,
        need: Need<'_>,
        request: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, StoreError> {
        match tokio::time::timeout(self.limit, request).await {
            Ok(result) => result.map_err(|e| explain(&e, need)),
            Err(_) => Err(StoreError::TimedOut),
        }
    }
}

fn options(ephemeral: bool) -> CreateOptions<'static> {
    let mode = if ephemeral {
        CreateMode::Ephemeral
    } else {
        CreateMode::Persistent
    };
    mode.with_acls(Acls::anyone_all())
}

impl Session for ZkSession {
    fn id(&self) -> i64 {
        self.client.session_id().0
    }

    fn timeout(&self) -> Duration {
        self.client.session_timeout()
    }

    fn dead_servers(&self) -> &[String] {
        &self.dead_servers
    }

    fn connection(&self) -> Connection {
        match self.client.state() {
            SessionState::SyncConnected => Connection::Connected,
            SessionState::Disconnected | SessionState::ConnectedReadOnly => Connection::Suspended,
            _ => Connection::Lost,
        }
    }

    async fn changed(&self, known: Connection) -> Connection {
        let mut watcher = self.client.state_watcher();
        loop {
            let now = self.connection();
            if now != known || now == Connection::Lost {
                return now;
            }
            watcher.changed().await;
        }
    }

    async fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, StoreError> {
        let mode = match kind {
            Kind::Persistent => CreateMode::Persistent,
            Kind::Ephemeral => CreateMode::Ephemeral,
            Kind::EphemeralSequential => CreateMode::EphemeralSequential,
        };
        let options = mode.with_acls(Acls::anyone_all());
        let (_, sequence) = self
            .timed(Need::create(path), self.client.create(path, data, &options))
            .await?;
        Ok(if kind == Kind::EphemeralSequential {
            format!("{path}{sequence}")
        } else {
            path.to_owned()
        })
    }

    async fn get(&self, paths: &[String]) -> Result<Vec<Option<Node>>, StoreError> {
        let mut nodes = Vec::with_capacity(paths.len());
        for chunk in reads(paths) {
            let mut reader = self.client.new_multi_reader();
            for path in chunk {
                reader.add_get_data(path).map_err(|e| classify(&e))?;
            }
            let first = chunk.first().map_or("", String::as_str);
            for result in self.timed(Need::read(first), reader.commit()).await? {
                nodes.push(match result {
                    MultiReadResult::Data { data, stat } => Some(Node {
                        data,
                        version: stat.version,
                        owner: stat.ephemeral_owner,
                        readable: true,
                    }),
                    MultiReadResult::Error { err: Error::NoNode } => None,
                    // It exists with unknown content: one foreign ACL must not stop everything else.
                    MultiReadResult::Error { err: Error::NoAuth } => Some(Node {
                        data: Vec::new(),
                        version: 0,
                        owner: 0,
                        readable: false,
                    }),
                    MultiReadResult::Error { err } => return Err(classify(&err)),
                    _ => {
                        return Err(StoreError::Unknown(
                            "something else in answer to a data request".to_owned(),
                        ));
                    }
                });
            }
        }
        if nodes.len() != paths.len() {
            return Err(StoreError::Unknown(
                "an answer with another number of results".to_owned(),
            ));
        }
        Ok(nodes)
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        let stat = self.timed(Need::read(path), self.client.check_stat(path)).await?;
        Ok(stat.map(|stat| Stat {
            version: stat.version,
            owner: stat.ephemeral_owner,
        }))
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.timed(Need::read(path), self.client.list_children(path))
            .await
    }

    async fn watch(&self, path: &str) -> Result<Option<Watch>, StoreError> {
        // A data watch, not an exists watch: the latter would stay on the server after the node is gone.
        match self
            .timed(Need::read(path), self.client.get_and_watch_data(path))
            .await
        {
            Ok((_, _, watcher)) => Ok(Some(Box::pin(async move {
                watcher.changed().await;
            }))),
            Err(StoreError::Missing) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.timed(Need::read(path), self.client.sync(path)).await
    }

    async fn commit(&self, (check, version): (&str, i32), writes: Vec<Write>) -> Result<(), CommitError> {
        let build = || -> Result<_, Error> {
            let mut writer = self.client.new_check_writer(check, Some(version))?;
            for write in &writes {
                match write {
                    Write::Create(path, data, ephemeral) => {
                        writer.add_create(path, data, &options(*ephemeral))?
                    }
                    Write::Set(path, data, version) => writer.add_set_data(path, data, *version)?,
                    Write::Delete(path) => writer.add_delete(path, None)?,
                }
            }
            Ok(writer)
        };
        let writer = build().map_err(|e| classify(&e))?;
        // The crate sends when `commit` is called, which is after the decision to send.
        match tokio::time::timeout(self.limit, writer.commit()).await {
            Err(_) => Err(StoreError::TimedOut.into()),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(CheckWriteError::CheckFailed {
                source: Error::BadVersion | Error::NoNode,
            })) => Err(CommitError::Fenced),
            Ok(Err(CheckWriteError::CheckFailed { source })) => {
                Err(explain(&source, Need::read(check)).into())
            }
            Ok(Err(CheckWriteError::OperationFailed { index, source })) => {
                let need = writes.get(index).map_or(Need::read(check), Need::of);
                Err(CommitError::Operation(index, explain(&source, need)))
            }
            Ok(Err(CheckWriteError::RequestFailed { source })) => Err(classify(&source).into()),
        }
    }

    async fn close(this: Arc<Self>) {
        // The library has no `close()`: the end of the session goes out when the last clone is dropped.
        let mut watcher = this.client.state_watcher();
        drop(this);
        let closed = async {
            while !matches!(
                watcher.changed().await,
                SessionState::Closed | SessionState::Expired | SessionState::AuthFailed
            ) {}
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_err() {
            tracing::debug!("the session's end was not confirmed in time; it expires by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_come_in_parts_that_every_server_takes() {
        let paths: Vec<String> = (0..2_000)
            .map(|n| format!("/root/{}/{n}", "x".repeat(n % 300)))
            .collect();
        let parts: Vec<_> = reads(&paths).collect();
        assert_eq!(parts.concat(), paths);
        for part in &parts {
            let bytes: usize = part.iter().map(|path| path.len() + READ_OVERHEAD).sum();
            assert!(part.len() <= READS_MAX && bytes <= READ_BYTES_MAX);
        }
        assert!(parts.len() < 40, "{}", parts.len());
        assert_eq!(reads(&[]).count(), 0);
        // A path longer than that is read alone.
        let long = ["y".repeat(READ_BYTES_MAX + 1), "z".to_owned()];
        assert_eq!(reads(&long).map(<[String]>::len).collect::<Vec<_>>(), [1, 1]);
    }
}
