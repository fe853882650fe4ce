//! Opens a TCP connection to an address or a name, and interprets failures.

use std::{
    io::ErrorKind,
    net::{SocketAddr, ToSocketAddrs},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::socket::{self, AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage},
};
use redkeeper_core::probe::ConnectFailure;
use tokio::net::TcpStream;

use super::StepLog;
use crate::blocking::BlockingPool;

/// Name look-ups. The system's resolver cannot be cancelled and may take minutes if the name servers are dead.
static LOOKUPS: BlockingPool = BlockingPool::new(LOOKUPS_MAX);
const LOOKUPS_MAX: usize = 16;

pub(super) async fn connect_tcp(
    address: &str,
    limit: Duration,
    steps: &StepLog,
) -> Result<TcpStream, ConnectFailure> {
    let addresses: Vec<SocketAddr> = match address.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let (start, name) = (Instant::now(), address.to_owned());
            let look_up = move || {
                // The resolver knows no brackets, which stand around a link-local address with its interface.
                match name.strip_prefix('[').and_then(|rest| rest.rsplit_once("]:")) {
                    Some((host, port)) => (host, port.parse().unwrap_or(0)).to_socket_addrs(),
                    None => name.to_socket_addrs(),
                }
                .map(Iterator::collect)
            };
            let found = LOOKUPS.run(limit / 2, look_up).await;
            steps.record(|steps| steps.resolve = Some(start.elapsed()));
            let found = found.ok_or_else(|| ConnectFailure::Resolve("no answer in time".to_owned()))?;
            let found: Vec<_> = found.map_err(|e: std::io::Error| ConnectFailure::Resolve(e.to_string()))?;
            steps.record(|steps| steps.addresses.clone_from(&found));
            found
        }
    };
    let start = Instant::now();
    let connected = connect_first(addresses, limit).await;
    steps.record(|steps| steps.connect = Some(start.elapsed()));
    connected
}

/// Connects to the first of several addresses that accepts.
async fn connect_first(addresses: Vec<SocketAddr>, limit: Duration) -> Result<TcpStream, ConnectFailure> {
    let mut failures = Vec::with_capacity(1);
    // Each address gets a share of the time, so that a dead one does not hide the others.
    let share = limit / 2 / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let only = addresses.len() == 1;
    for address in addresses {
        let connecting = open_tcp(address);
        let connected = if only {
            connecting.await
        } else {
            let late = |_| Err(std::io::Error::from(ErrorKind::TimedOut));
            tokio::time::timeout(share, connecting).await.unwrap_or_else(late)
        };
        match connected {
            Ok(stream) => return Ok(stream),
            Err(e) => failures.push(e),
        }
    }
    Err(failure_of_all(&failures))
}

/// Interprets the failure of all addresses of a name. An address that this host cannot use, such as `::1` if IPv6 is
/// off, says nothing about the server; the other addresses decide. The result is a refusal only if all of these refuse.
fn failure_of_all(failures: &[std::io::Error]) -> ConnectFailure {
    let unusable = |e: &&std::io::Error| {
        matches!(
            e.raw_os_error().map(Errno::from_raw),
            Some(Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT | Errno::ENETUNREACH)
        )
    };
    let usable = || failures.iter().filter(|e| !unusable(e)).map(failure);
    let undecided = usable().rfind(|failure| *failure != ConnectFailure::Refused);
    undecided
        .or_else(|| usable().next())
        .or_else(|| failures.last().map(failure))
        .unwrap_or_else(|| ConnectFailure::Resolve("no address".to_owned()))
}

/// As [`TcpStream::connect`], but a refusal on this host is seen before the socket is registered with the runtime: a
/// dead server then costs no more than one that answers.
async fn open_tcp(address: SocketAddr) -> std::io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::Inet,
        SocketAddr::V6(_) => AddressFamily::Inet6,
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket::socket(family, SockType::Stream, flags, SockProtocol::Tcp)?;
    match socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(e) => return Err(e.into()),
    }
    let stream = std::net::TcpStream::from(socket);
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let stream = TcpStream::from_std(stream)?;
    stream.writable().await?;
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    // Nothing listens, and the kernel chose the same port for the local end: the socket is connected to itself.
    if stream.local_addr()? == address {
        return Err(ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

pub(super) fn failure(error: &std::io::Error) -> ConnectFailure {
    match error.kind() {
        ErrorKind::ConnectionRefused => ConnectFailure::Refused,
        ErrorKind::NotFound => ConnectFailure::SocketMissing,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => ConnectFailure::Unreachable,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => ConnectFailure::TimedOut,
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => ConnectFailure::Reset,
        _ => ConnectFailure::Own(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_host_cannot_use_does_not_hide_what_the_others_say() {
        let of = |errors: &[Errno]| {
            let errors: Vec<_> = errors.iter().map(|e| std::io::Error::from(*e)).collect();
            failure_of_all(&errors)
        };
        use Errno::{
            EADDRNOTAVAIL, EAFNOSUPPORT, ECONNREFUSED, EHOSTUNREACH, EMFILE, ENETUNREACH, ETIMEDOUT,
        };
        for unusable in [EADDRNOTAVAIL, EAFNOSUPPORT, ENETUNREACH] {
            assert_eq!(of(&[ECONNREFUSED, unusable]), ConnectFailure::Refused);
            assert_eq!(of(&[unusable, ECONNREFUSED]), ConnectFailure::Refused);
            assert_eq!(of(&[unusable, ETIMEDOUT]), ConnectFailure::TimedOut);
            assert_ne!(of(&[unusable]), ConnectFailure::Refused);
        }
        assert_eq!(of(&[ECONNREFUSED, ECONNREFUSED]), ConnectFailure::Refused);
        // An address that may still be alive prevents the verdict "refused".
        assert_eq!(of(&[ECONNREFUSED, ETIMEDOUT]), ConnectFailure::TimedOut);
        assert_eq!(of(&[EHOSTUNREACH, ECONNREFUSED]), ConnectFailure::Unreachable);
        assert!(matches!(of(&[ECONNREFUSED, EMFILE]), ConnectFailure::Own(_)));
        assert!(matches!(of(&[]), ConnectFailure::Resolve(_)));
    }
}
