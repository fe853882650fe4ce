//! Listeners that stay usable when there are too many connections or no descriptors.
//!
//! * [`admission`]: how many connections each port takes, in all and for each address.
//! * [`connection`]: an accepted connection, counted until it ends.
//! * This module: the accept loop. An error of `accept` is followed by a pause, a metric and a limited log line;
//!   a few descriptors are kept in reserve, so that an operator gets in when the process has used up all others.

use std::{
    fs::File,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use tokio::net::TcpListener;

use crate::log_limit::LogLimit;

use admission::{Admission, Refusal};
use connection::Place;

pub use admission::{Limits, Shares};
pub use connection::Connection;

pub mod admission;
pub mod connection;

/// Pause after an error of `accept`: the cause, mostly a lack of descriptors, lasts longer than this, and without a
/// pause the kernel would report it again at once.
const ERROR_PAUSE: Duration = Duration::from_millis(100);
/// At most one log line of a kind in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(10);
/// Descriptors that a listener keeps in reserve for when no others are left.
const RESERVE: usize = 2;

/// State that a listener shares with its connections and the metrics.
#[derive(Debug)]
struct Shared {
    name: &'static str,
    limits: Limits,
    admission: Mutex<Admission>,
    refused_total: AtomicU64,
    refused_address: AtomicU64,
    errors: AtomicU64,
}

impl Shared {
    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, why: Refusal) -> &AtomicU64 {
        match why {
            Refusal::Total => &self.refused_total,
            Refusal::Address => &self.refused_address,
        }
    }
}

/// All listeners of a process, for the metrics. Clones share the list, which grows only at the start.
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<Mutex<Vec<Arc<Shared>>>>);

impl Listeners {
    /// Adds a bound listener, called `name` in metrics and log.
    pub fn add(&self, name: &'static str, listener: std::net::TcpListener, limits: Limits) -> Bound {
        let shared = Arc::new(Shared {
            name,
            limits,
            admission: Mutex::new(Admission::new(limits)),
            refused_total: AtomicU64::new(0),
            refused_address: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        self.all().push(Arc::clone(&shared));
        Bound { listener, shared }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Shared>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Listeners {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let all = self.all().clone();
        let count = |n: usize| ConstGauge::new(i64::try_from(n).unwrap_or(i64::MAX));
        let (name, help) = ("redkeeper_connections", "Open connections from clients, by port");
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for shared in &all {
            count(shared.admission().open()).encode(metric.encode_family(&[("port", shared.name)])?)?;
        }
        let (name, help) = (
            "redkeeper_connections_max",
            "Connections that a port takes at most",
        );
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for shared in &all {
            count(shared.limits.total).encode(metric.encode_family(&[("port", shared.name)])?)?;
        }
        let help = "Connections closed at once: too many in all, or from one address";
        let mut metric =
            encoder.encode_descriptor("redkeeper_connections_refused", help, None, MetricType::Counter)?;
        for shared in &all {
            for why in [Refusal::Total, Refusal::Address] {
                let labels = [("port", shared.name), ("limit", why.as_str())];
                let counter = ConstCounter::new(shared.refused(why).load(Ordering::Relaxed));
                counter.encode(metric.encode_family(&labels)?)?;
            }
        }
        let help = "Connections that the kernel could not hand over, mostly for lack of descriptors";
        let mut metric =
            encoder.encode_descriptor("redkeeper_accept_errors", help, None, MetricType::Counter)?;
        for shared in &all {
            let counter = ConstCounter::new(shared.errors.load(Ordering::Relaxed));
            counter.encode(metric.encode_family(&[("port", shared.name)])?)?;
        }
        Ok(())
    }
}

/// A port that is bound, but not yet served.
#[derive(Debug)]
pub struct Bound {
    listener: std::net::TcpListener,
    shared: Arc<Shared>,
}

impl Bound {
    /// Starts to listen on the present runtime.
    ///
    /// # Errors
    /// When the runtime cannot register the socket.
    pub fn listen(self) -> io::Result<Listener> {
        self.listener.set_nonblocking(true)?;
        let mut listener = Listener {
            listener: TcpListener::from_std(self.listener)?,
            shared: self.shared,
            reserve: Vec::with_capacity(RESERVE),
            said_refused: LogLimit::new(1, LOG_INTERVAL),
            said_error: LogLimit::new(1, LOG_INTERVAL),
        };
        listener.refill_reserve();
        Ok(listener)
    }
}

/// Accepts connections within the limits. Continues after every error.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    shared: Arc<Shared>,
    /// Open files that are closed to free descriptors for a connection when no others are left.
    reserve: Vec<File>,
    said_refused: LogLimit,
    said_error: LogLimit,
}

impl Listener {
    /// The next connection that is admitted. Safe to cancel.
    pub async fn next(&mut self) -> (Connection, SocketAddr) {
        self.refill_reserve();
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let admitted = self.shared.admission().admit(peer.ip());
                    match admitted {
                        Ok(()) => {
                            let place = Place::new(Arc::clone(&self.shared), peer.ip());
                            // Small messages must be sent at once. If this fails, the first read will fail too.
                            stream.set_nodelay(true).ok();
                            return (Connection::new(stream, place), peer);
                        }
                        Err(why) => self.refuse(why, peer),
                    }
                    self.refill_reserve();
                }
                Err(error) if is_of_connection(&error) => {}
                Err(error) => self.pause(&error).await,
            }
        }
    }

    fn refuse(&mut self, why: Refusal, peer: SocketAddr) {
        self.shared.refused(why).fetch_add(1, Ordering::Relaxed);
        let Some(more) = self.said_refused.line(Instant::now()) else {
            return;
        };
        let (port, limits) = (self.shared.name, self.shared.limits);
        match why {
            Refusal::Total => tracing::error!(
                port, %peer, more, max = limits.total,
                "connection refused: the port serves as many as it may; see who holds them (ss -tnp), or raise the \
                 limit of descriptors (LimitNOFILE)"
            ),
            Refusal::Address => tracing::error!(
                port, %peer, more, max = limits.per_address,
                "connection refused: its address holds as many as one may; see what opens them there"
            ),
        }
    }

    async fn pause(&mut self, error: &io::Error) {
        self.shared.errors.fetch_add(1, Ordering::Relaxed);
        if let Some(more) = self.said_error.line(Instant::now()) {
            tracing::error!(
                port = self.shared.name,
                more,
                "connections cannot be accepted: {error}; with too many open files, raise the limit of descriptors \
                 (LimitNOFILE) or see what holds them (/proc/{}/fd)",
                std::process::id()
            );
        }
        // With a descriptor from the reserve, the next attempt succeeds unless the process takes it first. The reserve
        // is refilled after that attempt, not before.
        if self.reserve.pop().is_none() {
            tokio::time::sleep(ERROR_PAUSE).await;
        }
    }

    fn refill_reserve(&mut self) {
        while self.reserve.len() < RESERVE {
            match File::open("/dev/null") {
                Ok(file) => self.reserve.push(file),
                Err(_) => return,
            }
        }
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        self.next().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Whether the error concerns only the connection being accepted; the next one may succeed.
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
