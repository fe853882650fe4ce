//! Free ports that no other test process takes.

use std::{fs::File, net::TcpListener};

/// Ports below the range from which the kernel takes ports for outgoing connections.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Ports whose cluster bus port, 10,000 higher, is below that range too.
const CLUSTER_PORTS: std::ops::Range<u16> = 20_000..22_700;

/// A free port, reserved for this process by a locked file as long as the value lives.
#[derive(Debug)]
pub struct Port {
    /// The port number.
    pub number: u16,
    _lock: File,
}

/// Takes a free port that no other test process has taken.
///
/// # Panics
/// When there is none.
pub fn port() -> Port {
    port_in(PORTS)
}

/// A free port for a server of a Redis cluster, which listens 10,000 higher too.
///
/// # Panics
/// When there is none.
pub fn cluster_port() -> Port {
    port_in(CLUSTER_PORTS)
}

fn port_in(range: std::ops::Range<u16>) -> Port {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let folder = std::env::temp_dir().join("redkeeper-test-ports");
    std::fs::create_dir_all(&folder).expect("temporary folder");
    let offset = u16::try_from(std::process::id() % 9_973).unwrap_or(0);
    let size = range.end - range.start;
    for _ in 0..size {
        let number = range.start + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % size;
        let lock = File::create(folder.join(number.to_string())).expect("lock file");
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
            return Port { number, _lock: lock };
        }
    }
    panic!("no free port in {range:?}");
}
