//! One connection to an instance. I/O only: it reads bytes and returns answers; `core::probe` interprets them.
//!
//! The redis crate encodes AUTH. The socket and the decoding are implemented here, because the probe must see EOF at
//! once, must bound what it reads, and must cost little CPU and no second task for each instance.

use std::{
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use redkeeper_core::{
    probe::{Command, ConnectFailure},
    redis::{
        reply::Reply,
        resp::{Decoded, Decoder},
    },
    time::WallMs,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::UnixStream,
};

use crate::{
    blocking::BlockingPool,
    host::{descriptors::Permit, owner::TrustedOwners},
    redis::tls::Tls,
};

pub use check_new_connection::{ConnectionCheck, check_new_connection};
pub use credentials::Credentials;
use dial::{connect_tcp, failure};
pub use steps::{StepLog, Steps};

mod check_new_connection;
mod credentials;
mod dial;
mod steps;
pub mod tls;

/// How to connect to an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// `host:port`, or a Unix socket path that starts with `/`.
    pub address: String,
    /// User and password, if any.
    pub credentials: Option<Credentials>,
    /// TLS settings, if TLS is used.
    pub tls: Option<Tls>,
    /// For a discovered instance without TLS: the owners to whose servers alone the password is sent.
    pub owners: Option<TrustedOwners>,
}

/// Bytes per read: INFO has about 6,000.
const READ_BYTES: usize = 16 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// An open connection.
pub struct Connection {
    stream: Box<dyn Stream>,
    decoder: Decoder,
    auth: Option<Vec<u8>>,
    /// When the server's certificate expires.
    pub certificate_ends: Option<WallMs>,
    /// Set while nothing was received.
    silent: Option<Silent>,
    /// The address that accepted the connection; `None` for a Unix socket.
    pub peer: Option<SocketAddr>,
    _permit: Permit,
}

/// A connection on which nothing was received yet: the reason for its end can be determined.
#[derive(Clone, Copy, Debug)]
enum Silent {
    /// Without TLS, to this address.
    Plain(SocketAddr),
    /// With TLS and without a client certificate.
    Anonymous,
}

/// What was received from the peer.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// One answer.
    Reply(Reply),
    /// The end of the connection, as text.
    Closed(String),
    /// Data that is not RESP; a printable form of its beginning.
    Garbage(String),
    /// Closed before any data; the reason was determined.
    Refused(ConnectFailure),
}

/// Reads password and certificate files: their file system may hang.
static FILES: BlockingPool = BlockingPool::new(16);

/// Opens a connection, and records the duration of each step. The caller bounds the time by `limit`; looking up a name
/// may take half of it.
///
/// # Errors
/// When the kernel refuses, or something prevents the agent itself from connecting.
pub async fn connect(
    target: &Target,
    limit: Duration,
    steps: &StepLog,
) -> Result<Connection, ConnectFailure> {
    let permit = Permit::take().map_err(ConnectFailure::Own)?;
    let (mut silent, mut certificate_ends, mut peer) = (None, None, None);
    // Connect before reading files: that nothing listens must be known at once, however long the files take.
    let stream: Box<dyn Stream> = if target.address.starts_with('/') {
        let start = Instant::now();
        let connected = UnixStream::connect(&target.address).await;
        steps.record(|steps| steps.connect = Some(start.elapsed()));
        Box::new(connected.map_err(|e| failure(&e))?)
    } else {
        let stream = connect_tcp(&target.address, limit, steps).await?;
        stream.set_nodelay(true).map_err(|e| failure(&e))?;
        peer = stream.peer_addr().ok();
        match &target.tls {
            Some(tls) => {
                silent = tls.client.is_none().then_some(Silent::Anonymous);
                let start = Instant::now();
                let config = read_files(limit, tls.clone(), Tls::load).await?;
                let shaken = tls::handshake(config, tls, &target.address, stream, limit).await;
                steps.record(|steps| steps.tls = Some(start.elapsed()));
                let stream = shaken?;
                certificate_ends = tls::certificate_ends(&stream);
                Box::new(stream)
            }
            None => {
                silent = peer.map(Silent::Plain);
                Box::new(stream)
            }
        }
    };
    let auth = match &target.credentials {
        None => None,
        Some(credentials) => {
            if let (Some(owners), None) = (&target.owners, &target.tls) {
                let asked = (
                    owners.clone(),
                    peer.map_or_else(|| target.address.clone(), |peer| peer.to_string()),
                );
                read_files(limit, asked, |(owners, address)| owners.check(address)).await?;
            }
            let password = read_files(limit, credentials.clone(), Credentials::password).await?;
            let mut command = redis::cmd("AUTH");
            if let Some(user) = &credentials.user {
                command.arg(user);
            }
            Some(command.arg(password).get_packed_command())
        }
    };
    Ok(Connection {
        stream,
        decoder: Decoder::default(),
        auth,
        silent,
        peer,
        certificate_ends,
        _permit: permit,
    })
}

async fn read_files<A: Send + 'static, T: Send + 'static>(
    limit: Duration,
    what: A,
    read: fn(&A) -> Result<T, String>,
) -> Result<T, ConnectFailure> {
    let read = FILES.run(limit / 2, move || read(&what)).await;
    let late =
        || ConnectFailure::OwnDelay("reading the password or the certificates takes too long".to_owned());
    read.ok_or_else(late)?.map_err(ConnectFailure::Own)
}

impl Connection {
    /// Writes all commands in one call.
    ///
    /// # Errors
    /// When writing fails; the text says why. The connection is then unusable.
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

    /// Waits for the next answer or the end. Safe to cancel: nothing is lost.
    pub async fn receive(&mut self) -> Received {
        std::future::poll_fn(|context| self.poll_receive(context)).await
    }

    /// Poll form of [`receive`](Self::receive).
    pub fn poll_receive(&mut self, context: &mut Context<'_>) -> Poll<Received> {
        if self.decoder.has_kept()
            && let Some(received) = self.first(&[])
        {
            return Poll::Ready(received);
        }
        loop {
            // On the stack, so that an idle connection keeps no buffer, and PONG and INFO take one read each.
            let mut space = [MaybeUninit::uninit(); READ_BYTES];
            let mut came = ReadBuf::uninit(&mut space);
            match ready!(Pin::new(&mut self.stream).poll_read(context, &mut came)) {
                Ok(()) if came.filled().is_empty() => {
                    return Poll::Ready(self.ended("closed by the peer".to_owned()));
                }
                Ok(()) => self.silent = None,
                Err(e) => return Poll::Ready(self.ended(e.to_string())),
            }
            if let Some(received) = self.first(came.filled()) {
                return Poll::Ready(received);
            }
        }
    }

    /// Decodes the first answer from the buffered bytes and those just read.
    fn first(&mut self, came: &[u8]) -> Option<Received> {
        match self.decoder.next(came) {
            Decoded::Reply(reply) => Some(Received::Reply(reply)),
            Decoded::Incomplete => None,
            // The data may echo what was sent, including the password.
            Decoded::Invalid(_) if self.auth.is_some() => Some(Received::Garbage("not shown".to_owned())),
            Decoded::Invalid(start) => Some(Received::Garbage(format!(
                "{:?}",
                String::from_utf8_lossy(&start)
            ))),
        }
    }

    fn ended(&self, how: String) -> Received {
        match self.silent {
            Some(Silent::Anonymous) => Received::Refused(ConnectFailure::TlsCertificate(format!(
                "{how} right after the handshake; the server may ask for a client certificate"
            ))),
            _ => Received::Closed(how),
        }
    }

    /// Peer address, if the connection is without TLS and never received data.
    pub fn silent_peer(&self) -> Option<SocketAddr> {
        match self.silent {
            Some(Silent::Plain(peer)) => Some(peer),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
