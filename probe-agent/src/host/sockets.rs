//! The listening sockets of this host and the processes that hold them, as `/proc` shows them. Reads whole tables, and
//! much of `/proc` for the holder of a socket, so none of this runs on a thread that probes.

use std::{collections::HashSet, fs, net::SocketAddr};

use procfs::{
    ProcResult,
    net::{TcpNetEntry, TcpState},
    process::{FDTarget, Process},
};

/// A listening TCP socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Inode of the socket, unique on the whole host.
    pub inode: u64,
    /// The address that it is bound to; an IPv4 address in IPv6 form is given as IPv4.
    pub address: SocketAddr,
    /// The user that it belongs to.
    pub uid: u32,
}

impl Listener {
    /// Whether this socket may accept a connection to `address`.
    pub fn accepts(&self, address: SocketAddr) -> bool {
        let bound = self.address.ip();
        self.address.port() == address.port()
            && (bound.is_unspecified() || bound == address.ip().to_canonical())
    }
}

/// Whose network namespace is meant.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NamespaceOf {
    /// That of this process.
    Own,
    /// That of another process.
    Pid(u32),
}

/// The sockets that listen in a network namespace. A table that cannot be read, such as that of IPv6 where it is off,
/// has none.
pub fn listeners(of: NamespaceOf) -> Vec<Listener> {
    let tables: [ProcResult<Vec<TcpNetEntry>>; 2] = match of {
        NamespaceOf::Own => [procfs::net::tcp(), procfs::net::tcp6()],
        NamespaceOf::Pid(pid) => match process(pid) {
            Some(process) => [process.tcp(), process.tcp6()],
            None => return Vec::new(),
        },
    };
    let listening = |entry: TcpNetEntry| {
        let (ip, port) = (entry.local_address.ip(), entry.local_address.port());
        (entry.state == TcpState::Listen).then(|| Listener {
            inode: entry.inode,
            address: SocketAddr::new(ip.to_canonical(), port),
            uid: entry.uid,
        })
    };
    tables
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(listening)
        .collect()
}

/// Inodes of the sockets in the own network namespace that are bound to the path of a Unix socket.
pub fn unix_inodes(path: &str) -> HashSet<u64> {
    let table = fs::read("/proc/net/unix").unwrap_or_default();
    unix_inodes_in(&String::from_utf8_lossy(&table), path)
}

/// A line is `Num RefCount Protocol Flags Type St Inode Path`. Not by the crate procfs: it ends a path at a space, and
/// refuses the whole table for a name that is not UTF-8.
fn unix_inodes_in(table: &str, path: &str) -> HashSet<u64> {
    let at_path = |line: &str| {
        let (fields, bound) = line.split_once(" /")?;
        let inode = fields.split_ascii_whitespace().nth(6)?.parse().ok()?;
        (Some(bound) == path.strip_prefix('/')).then_some(inode)
    };
    table.lines().filter_map(at_path).collect()
}

/// Inodes of a process's sockets; `None` if they are not visible, which needs the right to see those of other users.
pub fn of_process(pid: u32) -> Option<HashSet<u64>> {
    Some(inodes_of(&process(pid)?)?.collect())
}

/// The first process that holds one of these sockets and is visible.
pub fn holder(inodes: &HashSet<u64>) -> Option<u32> {
    if inodes.is_empty() {
        return None;
    }
    let holds = |process: &Process| {
        inodes_of(process).is_some_and(|mut held| held.any(|inode| inodes.contains(&inode)))
    };
    let found = procfs::process::all_processes().ok()?.flatten().find(holds)?;
    u32::try_from(found.pid()).ok()
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

fn inodes_of(process: &Process) -> Option<impl Iterator<Item = u64>> {
    let descriptors = process.fd().ok()?.flatten();
    Some(descriptors.filter_map(|descriptor| match descriptor.target {
        FDTarget::Socket(inode) => Some(inode),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_accepts_its_own_address_or_all() {
        let accepts = |bound: &str, address: &str| {
            let listener = Listener {
                inode: 1,
                address: bound.parse().unwrap(),
                uid: 0,
            };
            listener.accepts(address.parse().unwrap())
        };
        assert!(accepts("127.0.0.1:6379", "127.0.0.1:6379"));
        assert!(accepts("127.0.0.1:6379", "[::ffff:127.0.0.1]:6379"));
        assert!(accepts("0.0.0.0:6379", "10.0.0.1:6379"));
        assert!(accepts("[::]:6379", "127.0.0.1:6379"));
        assert!(!accepts("0.0.0.0:6380", "127.0.0.1:6379"));
        assert!(!accepts("127.0.0.2:6379", "127.0.0.1:6379"));
    }

    #[test]
    fn unix_sockets_are_found_by_their_whole_path() {
        let table = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 31 /run/redis.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 32\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 33 @abstract\u{fffd}\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 34 /run/my redis.sock\n";
        let of = |path: &str| unix_inodes_in(table, path).into_iter().collect::<Vec<_>>();
        assert_eq!(of("/run/redis.sock"), [31]);
        assert_eq!(of("/run/my redis.sock"), [34]);
        assert!(of("/run/my").is_empty());
    }
}
