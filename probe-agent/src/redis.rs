//! One connection to an instance. I/O only: bytes in, answers out, no judgement.
//!
//! The redis crate packs AUTH; the socket and the few answers are ours, because the probe must see EOF at the
//! instant it comes, must bound what it reads, must cost no second task for each instance, and little CPU.

use std::{
    io::ErrorKind,
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::tls::{self, Tls};
use bytes::{Buf, BytesMut};
use redkeeper_core::agent::{
    prober::{Command, ConnectFailure},
    reply::Reply,
    resp::{Frame, frame, read},
};
use redkeeper_core::time::WallMs;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::Semaphore,
};

/// How to reach an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `host:port`, or a Unix socket path that starts with `/`.
    pub address: String,
    /// Who to be there.
    pub credentials: Option<Credentials>,
    /// TLS, where it is spoken.
    pub tls: Option<Tls>,
}

/// User and password. The password stays in its file until a connection needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// ACL user; the default user if absent.
    pub user: Option<String>,
    /// File whose first line is the password.
    pub password_file: PathBuf,
}

/// Largest password file that is read: Redis refuses passwords over 512 bytes in practice.
const PASSWORD_FILE_BYTES_MAX: u64 = 4096;

impl Credentials {
    /// The password as it stands in the file now.
    ///
    /// # Errors
    /// Says which file cannot be used, and why.
    pub fn password(&self) -> Result<String, String> {
        read_password(&self.password_file).map_err(|e| format!("{}: {e}", self.password_file.display()))
    }
}

fn read_password(path: &Path) -> std::io::Result<String> {
    if std::fs::metadata(path)?.len() > PASSWORD_FILE_BYTES_MAX {
        return Err(std::io::Error::other("is too large for a password"));
    }
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(std::io::Error::other("has no password in its first line"));
    }
    Ok(line.to_owned())
}

/// Bytes asked for at the beginning of an answer, and further on: INFO has about 6,000.
const SHORT_READ: usize = 64;
const LONG_READ: usize = 16 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    buffer: BytesMut,
    auth: Option<Vec<u8>>,
    /// When the certificate that the server showed ends.
    pub certificate_ends: Option<WallMs>,
    /// Where it goes, as long as nothing came back.
    mute: Option<Mute>,
}

/// A connection on which nothing was received yet: its end may have a reason that can be found out.
#[derive(Clone, Copy, Debug)]
enum Mute {
    /// Without TLS, to this address.
    Plain(SocketAddr),
    /// With TLS and without a certificate of our own.
    Anonymous,
}

/// What came from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// One answer.
    Reply(Reply),
    /// The end of the connection, in words.
    Closed(String),
    /// Something that is no RESP, its beginning in words.
    Garbage(String),
    /// The end of a connection on which nothing was said, and why.
    Refused(ConnectFailure),
}

/// Opens a connection. The caller bounds the time by `limit`; looking up a name may take half of it.
///
/// # Errors
/// What the kernel said, or what hinders the agent itself.
pub async fn connect(target: &Target, limit: Duration) -> Result<Connection, ConnectFailure> {
    let auth = match &target.credentials {
        None => None,
        Some(credentials) => {
            let password = credentials.password().map_err(ConnectFailure::Own)?;
            let mut command = redis::cmd("AUTH");
            if let Some(user) = &credentials.user {
                command.arg(user);
            }
            Some(command.arg(password).get_packed_command())
        }
    };
    let (mut mute, mut certificate_ends) = (None, None);
    let stream: Box<dyn Stream> = if target.address.starts_with('/') {
        Box::new(
            UnixStream::connect(&target.address)
                .await
                .map_err(|e| failure(&e))?,
        )
    } else {
        let stream = connect_tcp(&target.address, limit).await?;
        stream.set_nodelay(true).map_err(|e| failure(&e))?;
        match &target.tls {
            Some(tls) => {
                mute = tls.client.is_none().then_some(Mute::Anonymous);
                let stream = tls::handshake(tls, &target.address, stream, limit).await?;
                certificate_ends = tls::certificate_ends(&stream);
                Box::new(stream)
            }
            None => {
                mute = stream.peer_addr().ok().map(Mute::Plain);
                Box::new(stream)
            }
        }
    };
    Ok(Connection {
        stream,
        buffer: BytesMut::new(),
        auth,
        mute,
        certificate_ends,
    })
}

/// Look-ups of names under way in the whole process. The system's resolver cannot be cancelled and may take
/// minutes where the servers for names are dead: each occupies a thread for so long.
const LOOKUPS_MAX: usize = 16;
static LOOKUPS: Semaphore = Semaphore::const_new(LOOKUPS_MAX);

async fn look_up(address: &str) -> std::io::Result<Vec<SocketAddr>> {
    // It is never closed, so this waits and does not fail.
    let permit = LOOKUPS.acquire().await.map_err(std::io::Error::other)?;
    let address = address.to_owned();
    let lookup = tokio::task::spawn_blocking(move || {
        let found = address.to_socket_addrs().map(Iterator::collect);
        drop(permit);
        found
    });
    lookup.await.map_err(std::io::Error::other)?
}

async fn connect_tcp(address: &str, limit: Duration) -> Result<TcpStream, ConnectFailure> {
    let addresses: Vec<SocketAddr> = match address.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let lookup = tokio::time::timeout(limit / 2, look_up(address)).await;
            let lookup = lookup.map_err(|_| ConnectFailure::Resolve("no answer in time".to_owned()))?;
            lookup.map_err(|e| ConnectFailure::Resolve(e.to_string()))?
        }
    };
    let mut failed = ConnectFailure::Resolve("no address".to_owned());
    // Each address gets its share of the time, so that a dead one does not hide the others.
    let share = limit / 2 / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let only = addresses.len() == 1;
    for (n, address) in addresses.into_iter().enumerate() {
        let connecting = TcpStream::connect(address);
        let connected = if only {
            connecting.await
        } else {
            let late = |_| Err(std::io::Error::from(ErrorKind::TimedOut));
            tokio::time::timeout(share, connecting).await.unwrap_or_else(late)
        };
        match connected {
            Ok(stream) => return Ok(stream),
            // A name is refused only if all of its addresses refuse.
            Err(e) => match failure(&e) {
                ConnectFailure::Refused if n > 0 && failed != ConnectFailure::Refused => {}
                other => failed = other,
            },
        }
    }
    Err(failed)
}

fn failure(error: &std::io::Error) -> ConnectFailure {
    match error.kind() {
        ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        ErrorKind::NotFound => ConnectFailure::SocketMissing,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => ConnectFailure::Unreachable,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => ConnectFailure::TimedOut,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => ConnectFailure::Reset,
        _ => ConnectFailure::Own(error.to_string()),
    }
}

/// Connects, authenticates, asks for PONG, and closes: what a new client meets.
///
/// Also tells when the server's certificate ends.
pub async fn try_fresh(target: &Target, limit: Duration) -> (Result<Reply, String>, Option<WallMs>) {
    let mut certificate_ends = None;
    let ask = async {
        let mut connection = connect(target, limit).await.map_err(|failure| failure.words())?;
        certificate_ends = connection.certificate_ends;
        let authenticates = connection.auth.is_some();
        let commands: &[_] = if authenticates {
            &[Command::Auth, Command::Ping]
        } else {
            &[Command::Ping]
        };
        connection.send(commands).await?;
        for command in commands {
            match connection.receive().await {
                // A full server speaks first and hangs up, whatever was asked.
                Received::Reply(reply @ Reply::Error(_)) => return Ok(reply),
                Received::Reply(reply) if *command == Command::Ping => return Ok(reply),
                Received::Reply(_) => {}
                Received::Closed(how) | Received::Garbage(how) => return Err(how),
                Received::Refused(failure) => return Err(failure.words()),
            }
        }
        Err("no answer to PING".to_owned())
    };
    let answer = tokio::time::timeout(limit, ask)
        .await
        .unwrap_or_else(|_| Err(format!("not within {limit:?}")));
    (answer, certificate_ends)
}

impl Connection {
    /// Writes commands in one go.
    ///
    /// # Errors
    /// In words; the connection is then of no more use.
    pub async fn send(&mut self, commands: &[Command]) -> Result<(), String> {
        const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
        if commands == [Command::Ping] {
            return self.stream.write_all(PING).await.map_err(|e| e.to_string());
        }
        let mut bytes = Vec::with_capacity(64);
        for command in commands {
            match command {
                Command::Auth => bytes.extend_from_slice(self.auth.as_deref().unwrap_or_default()),
                Command::Ping => bytes.extend_from_slice(PING),
                Command::Info => bytes.extend_from_slice(b"*1\r\n$4\r\nINFO\r\n"),
                Command::ClusterInfo => bytes.extend_from_slice(b"*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n"),
            }
        }
        self.stream.write_all(&bytes).await.map_err(|e| e.to_string())
    }

    /// Waits for the next answer or the end. May be cancelled: nothing is lost.
    pub async fn receive(&mut self) -> Received {
        loop {
            match frame(&self.buffer) {
                Frame::Complete(length) => {
                    let bytes = self.buffer.split_to(length);
                    if self.buffer.is_empty() {
                        // INFO is large and rare: an idle connection keeps no buffer.
                        self.buffer = BytesMut::new();
                    }
                    return Received::Reply(read(&bytes));
                }
                // It may echo what was sent, the password included.
                Frame::Invalid if self.auth.is_some() => return Received::Garbage("not shown".to_owned()),
                Frame::Invalid => {
                    let start = &self.buffer.chunk()[..self.buffer.len().min(40)];
                    return Received::Garbage(format!("{:?}", String::from_utf8_lossy(start)));
                }
                Frame::Incomplete => {}
            }
            // PONG is short; an answer that goes on is INFO.
            let room = if self.buffer.is_empty() {
                SHORT_READ
            } else {
                LONG_READ
            };
            self.buffer.reserve(room);
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return self.ended("closed by the peer".to_owned()),
                Ok(_) => self.mute = None,
                Err(e) => return self.ended(e.to_string()),
            }
        }
    }

    fn ended(&self, how: String) -> Received {
        match self.mute {
            Some(Mute::Anonymous) => Received::Refused(ConnectFailure::TlsCertificate(format!(
                "{how} right after the handshake; the server may ask for a client certificate"
            ))),
            _ => Received::Closed(how),
        }
    }

    /// Where it went, if nothing ever came back on it and it was without TLS.
    pub fn mute_plain(&self) -> Option<SocketAddr> {
        match self.mute {
            Some(Mute::Plain(peer)) => Some(peer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn look_ups_do_not_pile_up() {
        let target = Target {
            address: "localhost:1".to_owned(),
            credentials: None,
            tls: None,
        };
        let limit = Duration::from_secs(5);
        assert!(matches!(
            connect(&target, limit).await,
            Err(ConnectFailure::Refused)
        ));
        let all = LOOKUPS
            .acquire_many(u32::try_from(LOOKUPS_MAX).unwrap())
            .await
            .unwrap();
        let late = connect(&target, Duration::from_millis(20)).await;
        assert!(
            matches!(late, Err(ConnectFailure::Resolve(_))),
            "one more look-up was begun"
        );
        drop(all);
        assert!(matches!(
            connect(&target, limit).await,
            Err(ConnectFailure::Refused)
        ));
    }

    #[tokio::test]
    async fn answers_end_and_garbage_are_told_apart() {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut connection = Connection {
            stream: Box::new(ours),
            buffer: BytesMut::new(),
            auth: None,
            mute: None,
            certificate_ends: None,
        };
        theirs
            .write_all(b"+PONG\r\n-LOADING x\r\n$3\r\nab")
            .await
            .unwrap();
        assert_eq!(
            connection.receive().await,
            Received::Reply(Reply::Text("PONG".into()))
        );
        assert_eq!(
            connection.receive().await,
            Received::Reply(Reply::Error("LOADING x".into()))
        );
        theirs.write_all(b"c\r\nHTTP/1.1 400\r\n").await.unwrap();
        assert_eq!(
            connection.receive().await,
            Received::Reply(Reply::Text("abc".into()))
        );
        assert!(matches!(connection.receive().await, Received::Garbage(_)));
        drop(theirs);
        connection.buffer.clear();
        assert!(matches!(connection.receive().await, Received::Closed(_)));
    }
}
