//! The server's process on this host, as `/proc` shows it. Works unprivileged if `/proc` is not hidden; it never
//! guesses what it cannot see.

use std::{
    collections::HashSet,
    fs,
    io::Read,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use redkeeper_core::probe::ProcessState;

use crate::host::sockets::{self, NamespaceOf};

/// `PF_EXITING` in the flags of `/proc/PID/stat`: the end of the process has begun. It is visible 0.2 to 3 ms after a
/// SIGKILL, whatever the size of its memory (measured).
const PF_EXITING: u32 = 0x4;
/// Tolerance, in seconds, between INFO's uptime and the kernel's start time: both are whole seconds, and INFO takes
/// time.
const UPTIME_TOLERANCE: f64 = 3.0;

/// A process that is known to be the server: its pid, and its start time, so that a later process with the same pid is
/// not mistaken for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Process {
    pid: u32,
    start: u64,
}

struct Stat {
    name: String,
    state: char,
    flags: u32,
    start: u64,
}

/// Parsed `/proc/PID/stat`. The name in it may contain anything, so fields are counted after its last parenthesis.
fn stat(pid: u32) -> Option<Stat> {
    read_stat(pid).ok().flatten()
}

/// A line has about 300 bytes; the fields that are used are in its first part, whatever the name.
const STAT_BYTES_MAX: usize = 1024;

fn read_stat(pid: u32) -> std::io::Result<Option<Stat>> {
    let mut bytes = [0; STAT_BYTES_MAX];
    let length = fs::File::open(format!("/proc/{pid}/stat"))?.read(&mut bytes)?;
    Ok(parse_stat(&String::from_utf8_lossy(&bytes[..length])))
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (start, end) = text.rsplit_once(')')?;
    let name = start.split_once('(')?.1.to_owned();
    let mut fields = end.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // State is field 3, flags 9, starttime 22.
    let flags = fields.nth(5)?.parse().ok()?;
    let start = fields.nth(12)?.parse().ok()?;
    Some(Stat {
        name,
        state,
        flags,
        start,
    })
}

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Finds the process by what INFO reports: its pid, and its uptime in seconds.
    pub fn reported(at: &Location, (pid, uptime): (u32, u64)) -> Option<Self> {
        at.is_here().then(|| Self::by_info(pid, uptime)).flatten()
    }

    /// Finds the process by its listening socket. Needs the permission to read other users' `/proc/PID/fd`, and may
    /// read much of `/proc`, so it must not run on the thread that probes.
    pub fn search(at: &Location) -> Option<Self> {
        match at {
            _ if !at.is_here() => None,
            Location::Tcp(address) => {
                let listening = sockets::listeners(NamespaceOf::Own).into_iter();
                let accepting = listening.filter(|listener| listener.accepts(*address));
                Self::holder(&accepting.map(|listener| listener.inode).collect())
            }
            Location::Unix(path) => Self::holder(&sockets::unix_inodes(path)),
            Location::Unknown => None,
        }
    }

    /// The pid in INFO is that of the server's own pid namespace: it is accepted only if the start times agree and the
    /// process name is that of a server.
    fn by_info(pid: u32, uptime: u64) -> Option<Self> {
        let stat = stat(pid)?;
        let text = fs::read_to_string("/proc/uptime").ok()?;
        let since_boot: f64 = text.split(' ').next()?.parse().ok()?;
        // USER_HZ is 100 on every architecture that Linux supports today.
        let age = since_boot - stat.start as f64 / 100.0;
        let agrees = (age - uptime as f64).abs() <= UPTIME_TOLERANCE;
        (agrees && is_server(&stat.name)).then_some(Self {
            pid,
            start: stat.start,
        })
    }

    fn holder(inodes: &HashSet<u64>) -> Option<Self> {
        let pid = sockets::holder(inodes)?;
        Some(Self {
            pid,
            start: stat(pid)?.start,
        })
    }

    /// Returns the present state of the process. Takes about 10 microseconds.
    pub fn inspect(&self) -> ProcessState {
        let stat = match read_stat(self.pid) {
            Ok(Some(stat)) => stat,
            Ok(None) => return ProcessState::NotLocal,
            Err(e) => {
                // Only these two errors mean that there is no such process; another one, such as a lack of descriptors,
                // is the agent's own problem.
                let gone = e.kind() == std::io::ErrorKind::NotFound
                    || e.raw_os_error() == Some(nix::errno::Errno::ESRCH as i32);
                return if gone {
                    ProcessState::Gone
                } else {
                    ProcessState::NotLocal
                };
            }
        };
        stat.process_state(self.start)
    }
}

impl Stat {
    /// The state of the process that started at `start`.
    fn process_state(&self, start: u64) -> ProcessState {
        match self.state {
            _ if self.start != start => ProcessState::Gone,
            'Z' => ProcessState::Zombie,
            'X' => ProcessState::Gone,
            _ if self.flags & PF_EXITING != 0 => ProcessState::Exiting,
            'T' | 't' => ProcessState::Stopped,
            'D' => ProcessState::Uninterruptible,
            _ => ProcessState::Running,
        }
    }
}

/// Substrings of server process names.
const SERVERS: [&str; 6] = ["redis", "valkey", "keydb", "dragonfly", "kvrocks", "garnet"];

fn is_server(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SERVERS.iter().any(|server| name.contains(server))
}

/// Where a server is reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Location {
    /// The address that took the connection, whatever name led to it.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(String),
    /// No connection was made yet.
    Unknown,
}

impl Location {
    /// The location of an open connection to `address`.
    pub fn of(address: &str, peer: Option<SocketAddr>) -> Self {
        match peer {
            Some(peer) => Self::Tcp(peer),
            None if address.starts_with('/') => Self::Unix(address.to_owned()),
            None => Self::Unknown,
        }
    }

    /// Whether a server at this location is on this host.
    fn is_here(&self) -> bool {
        match self {
            Self::Tcp(address) => is_local(address),
            Self::Unix(_) => true,
            Self::Unknown => false,
        }
    }
}

/// Whether an address belongs to this host: the loopback, or an address of an interface.
pub fn is_local(address: &SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        ip => ip,
    };
    if ip.is_loopback() || ip == Ipv4Addr::UNSPECIFIED || ip == Ipv6Addr::UNSPECIFIED {
        return true;
    }
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    interfaces.filter_map(|interface| interface.address).any(|own| {
        let v4 = own.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
        let v6 = own.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip()));
        v4.or(v6) == Some(ip)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_is_skipped() {
        let text = "42 (a) b) c) S 1 2 3 4 5 4194308 7 8 9 10 11 12 13 14 15 16 17 18 12345 0 0";
        let stat = parse_stat(text).unwrap();
        assert_eq!(stat.name, "a) b) c");
        assert_eq!((stat.state, stat.flags & PF_EXITING, stat.start), ('S', 4, 12345));
        for damaged in ["", ")", "1 (x)", "1 (x) S 1 2"] {
            assert!(parse_stat(damaged).is_none());
        }
    }

    #[test]
    fn this_process_runs_and_another_with_its_number_is_not_it() {
        let pid = std::process::id();
        let own = Process {
            pid,
            start: stat(pid).unwrap().start,
        };
        assert_eq!(own.inspect(), ProcessState::Running);
        assert_eq!(Process { start: 0, ..own }.inspect(), ProcessState::Gone);
        assert_eq!(Process { pid: u32::MAX, ..own }.inspect(), ProcessState::Gone);
    }

    #[test]
    fn each_state_has_its_meaning() {
        for (state, flags, expected) in [
            ('S', "4194304", ProcessState::Running),
            ('R', "4194304", ProcessState::Running),
            ('T', "4194304", ProcessState::Stopped),
            ('t', "4194304", ProcessState::Stopped),
            ('D', "4194304", ProcessState::Uninterruptible),
            ('D', "4194308", ProcessState::Exiting),
            ('R', "4194308", ProcessState::Exiting),
            ('Z', "4194308", ProcessState::Zombie),
            ('X', "4194308", ProcessState::Gone),
        ] {
            let text =
                format!("42 (redis-server) {state} 1 2 3 4 5 {flags} 7 8 9 10 11 12 13 14 15 16 17 18 99 0");
            let stat = parse_stat(&text).unwrap();
            assert_eq!(stat.process_state(99), expected, "{state} {flags}");
            assert_eq!(
                stat.process_state(98),
                ProcessState::Gone,
                "its number is another's now"
            );
        }
    }

    fn tcp(text: &str) -> Location {
        Location::Tcp(text.parse().unwrap())
    }

    #[test]
    fn a_number_that_info_told_is_believed_of_a_server_here_only() {
        let pid = std::process::id();
        let uptime: f64 = fs::read_to_string("/proc/uptime")
            .unwrap()
            .split(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let age = (uptime - stat(pid).unwrap().start as f64 / 100.0) as u64;
        // The start time agrees, but the process name of this test is not that of a server.
        assert_eq!(Process::reported(&tcp("127.0.0.1:1"), (pid, age)), None);
        assert!(is_server("redis-server") && is_server("Valkey") && !is_server("nginx"));
        assert_eq!(Process::reported(&tcp("127.0.0.1:1"), (pid, 1_000_000_000)), None);
        assert_eq!(Process::reported(&tcp("192.0.2.1:6379"), (pid, age)), None);
        assert_eq!(Process::reported(&Location::Unknown, (pid, age)), None);
    }

    #[test]
    fn own_addresses_are_local() {
        assert!(is_local(&"127.9.9.9:1".parse().unwrap()));
        assert!(is_local(&"[::1]:1".parse().unwrap()));
        assert!(is_local(&"[::ffff:127.0.0.1]:1".parse().unwrap()));
        assert!(!is_local(&"192.0.2.1:1".parse().unwrap()));
    }
}
