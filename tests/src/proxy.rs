//! A TCP proxy that makes faults: it holds, delays, trickles or cuts what passes in one direction, resets connections, and
//! refuses or ignores new ones. Its address stands for a path on which real networks fail.

use std::{
    io,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
};

use crate::{ports::Port, sim::run_in_background};

/// Maximum number of bytes that travel together.
const SEGMENT: usize = 16 * 1024;

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Flow {
    /// They pass.
    #[default]
    Pass,
    /// They wait until this changes, as behind a cut cable: nobody is told.
    Hold,
    /// They arrive after this time.
    Delay(Duration),
    /// They arrive one by one, with this time between two.
    Trickle(Duration),
}

/// What happens to new connections.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Entry {
    /// They are accepted and forwarded.
    #[default]
    Open,
    /// They are refused, as by a host on which nobody listens.
    Refuse,
    /// They are accepted, and lead nowhere.
    Mute,
}

/// The present faults.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Faults {
    /// From the client to the server.
    pub forth: Flow,
    /// From the server to the client.
    pub back: Flow,
    /// For new connections.
    pub entry: Entry,
    /// Each change of this number resets all connections.
    pub resets: u32,
    /// After so many bytes to a client its connection is reset.
    pub cut_back_after: Option<usize>,
}

/// A running proxy. It ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens.
    pub port: Port,
    target: Arc<AtomicU16>,
    faults: watch::Sender<Faults>,
}

impl Proxy {
    /// Starts a proxy, which leads nowhere until [`lead_to`](Self::lead_to).
    ///
    /// # Panics
    /// When its port cannot be bound.
    pub fn start() -> Self {
        let port = crate::ports::port();
        let (faults, reader) = watch::channel(Faults::default());
        let target = Arc::new(AtomicU16::new(0));
        let listener = listen(port.number).expect("a free port");
        run_in_background(accept(listener, port.number, Arc::clone(&target), reader));
        Self { port, target, faults }
    }

    /// Leads new connections to this port of loopback.
    pub fn lead_to(&self, port: u16) {
        self.target.store(port, Ordering::Relaxed);
    }

    /// Changes the faults.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        self.faults.send_modify(change);
    }

    /// Resets all connections, and refuses new ones.
    pub fn reset_and_refuse(&self) {
        self.set(|faults| {
            faults.entry = Entry::Refuse;
            faults.resets += 1;
        });
    }

    /// Ends all faults.
    pub fn heal(&self) {
        self.set(|faults| {
            *faults = Faults {
                resets: faults.resets,
                ..Faults::default()
            };
        });
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Accepts connections until the proxy is dropped. While they are refused there is no listener.
async fn accept(
    listener: TcpListener,
    port: u16,
    target: Arc<AtomicU16>,
    mut faults: watch::Receiver<Faults>,
) {
    let mut listener = Some(listener);
    loop {
        let entry = faults.borrow_and_update().entry;
        if entry == Entry::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen(port).expect("the reserved port is free"));
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = faults.changed() => if changed.is_err() { return },
            Ok((client, _)) = accepted => match entry {
                Entry::Mute => run_in_background(hold(client, faults.clone())),
                Entry::Open | Entry::Refuse => {
                    let target = target.load(Ordering::Relaxed);
                    run_in_background(forward(client, target, faults.clone()));
                }
            },
        }
    }
}

/// Keeps a connection that leads nowhere until it is reset.
async fn hold(client: TcpStream, mut faults: watch::Receiver<Faults>) {
    reset_asked(&mut faults).await;
    drop(client);
}

async fn forward(mut client: TcpStream, target: u16, mut faults: watch::Receiver<Faults>) {
    let Ok(mut server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else {
        return;
    };
    for side in [&client, &server] {
        // Only speed depends on it.
        side.set_nodelay(true).ok();
    }
    let (forth, back) = (faults.clone(), faults.clone());
    let reset = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        let both = async {
            let forth = carry(from_client, to_server, forth, |faults| (faults.forth, None));
            let back = carry(from_server, to_client, back, |faults| {
                (faults.back, faults.cut_back_after)
            });
            let (forth, back) = tokio::join!(forth, back);
            forth || back
        };
        tokio::select! { reset = both => reset, () = reset_asked(&mut faults) => true }
    };
    if reset {
        for side in [client, server] {
            // Closing then sends a reset instead of an end.
            side.set_zero_linger().ok();
        }
    }
}

/// Carries one direction until its end. Returns true if the connection is to be reset.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    mut faults: watch::Receiver<Faults>,
    of_this_direction: impl Fn(&Faults) -> (Flow, Option<usize>),
) -> bool {
    let (mut segment, mut carried) = (vec![0; SEGMENT], 0);
    loop {
        let length = from.read(&mut segment).await.unwrap_or(0);
        let mut bytes = &segment[..length];
        let (flow, _) = of_this_direction(&faults.borrow());
        if let Flow::Delay(time) = flow {
            tokio::time::sleep(time).await;
        }
        // The proxy is gone, and with it the connection.
        let passes = |faults: &Faults| of_this_direction(faults).0 != Flow::Hold;
        if faults.wait_for(passes).await.is_err() {
            return true;
        }
        let (flow, cut_after) = of_this_direction(&faults.borrow());
        let cut = cut_after.filter(|limit| carried + length > *limit);
        if let Some(limit) = cut {
            bytes = &bytes[..limit.saturating_sub(carried)];
        }
        let sent = match flow {
            Flow::Trickle(pause) => trickle(&mut to, bytes, pause).await,
            Flow::Pass | Flow::Hold | Flow::Delay(_) => to.write_all(bytes).await,
        };
        carried += length;
        if cut.is_some() {
            return true;
        }
        if length == 0 || sent.is_err() {
            // The other side may be gone already.
            to.shutdown().await.ok();
            return false;
        }
    }
}

async fn trickle(to: &mut WriteHalf<'_>, bytes: &[u8], pause: Duration) -> io::Result<()> {
    for byte in bytes {
        to.write_all(std::slice::from_ref(byte)).await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn reset_asked(faults: &mut watch::Receiver<Faults>) {
    let before = faults.borrow().resets;
    // The proxy is gone, and with it all its connections.
    faults.wait_for(|faults| faults.resets != before).await.ok();
}
