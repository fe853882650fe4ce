//! Simulated network between agents and collectors, and between collectors: TCP connections are in-memory pipes that delay, stall and break
//! like a real path. The product's gRPC runs over them unchanged.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use redkeeper_proto::dial::{Dial, Dialing};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, ReadHalf, WriteHalf},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::{Endpoint, server::Connected};
use tower::service_fn;

use super::{Flag, Fleet, run_in_background};

/// Bytes that a connection holds in each direction before the sender waits.
const BUFFER: usize = 64 * 1024;
/// Maximum number of bytes that travel together.
const SEGMENT: usize = 16 * 1024;
/// Time without data from the other side after which the collector's kernel ends a connection (`KEEPALIVE_SHARE` in
/// `collector::grpc::server`), in milliseconds.
const DEAD_PATH_MS: std::ops::Range<u64> = 2_000..3_000;

/// One end of a connection.
pub struct Socket {
    stream: DuplexStream,
    reset: CancellationToken,
    woken: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Socket {
    fn new(stream: DuplexStream, reset: &CancellationToken) -> Self {
        Self {
            stream,
            reset: reset.clone(),
            woken: Box::pin(reset.clone().cancelled_owned()),
        }
    }

    fn whole(&self) -> io::Result<()> {
        if self.reset.is_cancelled() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.woken.as_mut().poll(context).is_ready() {
            return Poll::Ready(self.whole());
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.whole()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Socket {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

/// Network route to one collector. Clones share state.
#[derive(Clone)]
pub struct Route {
    /// Whether packets pass.
    pub link: Arc<Flag>,
    /// All collectors.
    pub fleet: Fleet,
    /// Index of the collector.
    pub number: usize,
    /// Draws delays and how connections break.
    pub rng: Arc<Mutex<fastrand::Rng>>,
}

impl Dial for Route {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        let route = self.clone();
        Box::pin(async move {
            let connect = service_fn(move |_| {
                let route = route.clone();
                async move { route.connect().await.map(TokioIo::new) }
            });
            endpoint.connect_with_connector(connect).await
        })
    }
}

/// Routes of a collector to the others, which it dials by name.
pub struct PeerRoutes {
    /// Whether packets of its connections pass, by index of the other collector.
    pub links: Vec<Arc<Flag>>,
    /// All collectors.
    pub fleet: Fleet,
    /// Draws delays and how connections break.
    pub rng: Arc<Mutex<fastrand::Rng>>,
}

impl Dial for PeerRoutes {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        let number = {
            let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
            let host = endpoint.uri().host().unwrap_or_default();
            fleet
                .iter()
                .position(|c| c.id.as_str() == host)
                .unwrap_or_default()
        };
        let route = Route {
            link: Arc::clone(&self.links[number]),
            fleet: Arc::clone(&self.fleet),
            number,
            rng: Arc::clone(&self.rng),
        };
        route.dial(endpoint)
    }
}

impl Route {
    async fn connect(&self) -> io::Result<Socket> {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner).fork();
        self.link.is(true).await;
        sleep(Duration::from_micros(rng.u64(50..2_000))).await;
        let entrance = {
            let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
            let process = fleet[self.number].process.as_ref();
            process.map(|process| (process.entrance.clone(), process.dead.clone()))
        };
        let (entrance, dead) = entrance.ok_or(io::ErrorKind::ConnectionRefused)?;
        let (client, near) = tokio::io::duplex(BUFFER);
        let (far, server) = tokio::io::duplex(BUFFER);
        let (client_reset, server_reset) = (CancellationToken::new(), CancellationToken::new());
        let accepted = entrance.send(Ok(Socket::new(server, &server_reset))).await;
        accepted.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let client = Socket::new(client, &client_reset);
        let connection = Connection {
            link: Arc::clone(&self.link),
            dead,
            client_reset,
            server_reset,
        };
        run_in_background(connection.run(near, far, rng));
        Ok(client)
    }
}

/// Controls one simulated connection.
struct Connection {
    link: Arc<Flag>,
    /// The collector's process has ended.
    dead: CancellationToken,
    client_reset: CancellationToken,
    server_reset: CancellationToken,
}

impl Connection {
    async fn run(self, near: DuplexStream, far: DuplexStream, mut rng: fastrand::Rng) {
        let ((from_client, to_client), (from_server, to_server)) =
            (tokio::io::split(near), tokio::io::split(far));
        let forth = carry(from_client, to_server, &self.link, rng.fork());
        let back = carry(from_server, to_client, &self.link, rng.fork());
        tokio::select! {
            biased;
            _ = async { tokio::join!(forth, back) } => (),
            never = self.fate(rng) => match never {},
        }
    }

    /// Resets the ends when they notice that the path, or the process, is gone.
    async fn fate(&self, mut rng: fastrand::Rng) -> std::convert::Infallible {
        loop {
            tokio::select! {
                biased;
                () = self.dead.cancelled() => {
                    // The collector's kernel closes the connection; what was sent before still arrives.
                    self.server_reset.cancel();
                    return std::future::pending().await;
                }
                () = self.link.is(false) => (),
            }
            let path = Duration::from_millis(rng.u64(DEAD_PATH_MS));
            match rng.u8(..3) {
                0 => {
                    // Something on the path resets both ends.
                    self.client_reset.cancel();
                    self.server_reset.cancel();
                }
                1 => {
                    // Only the agent notices the break. What it had sent may arrive while its next stream is open.
                    self.client_reset.cancel();
                    if tokio::time::timeout(path, self.link.is(true)).await.is_err() {
                        self.server_reset.cancel();
                    }
                }
                _ => {
                    // Neither end notices the break: all that was sent arrives if the path is restored in time.
                    if tokio::time::timeout(path, self.link.is(true)).await.is_ok() {
                        continue;
                    }
                    self.server_reset.cancel();
                    self.link.is(true).await;
                    self.client_reset.cancel();
                }
            }
            return std::future::pending().await;
        }
    }
}

/// Carries one direction: all bytes, and at last the end, arrive in order, after a delay, while the link is up.
async fn carry(
    mut from: ReadHalf<DuplexStream>,
    mut to: WriteHalf<DuplexStream>,
    link: &Flag,
    mut rng: fastrand::Rng,
) {
    let mut segment = vec![0; SEGMENT];
    loop {
        let length = from.read(&mut segment).await.unwrap_or(0);
        sleep(Duration::from_micros(rng.u64(50..2_000))).await;
        link.is(true).await;
        if length == 0 || to.write_all(&segment[..length]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    to.shutdown().await.ok();
}
