//! Finds candidates by their processes, joined with the listening sockets of their network namespaces. Reads only
//! `/proc`.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
};

use glob::Pattern;
use redkeeper_core::redis::server_conf::{Endpoint, ServerConf};

use super::candidate::{Candidate, SENTINEL};
use crate::host::sockets::{self, NamespaceOf};

/// Offset of the port on which a cluster node listens for its peers.
const BUS_OFFSET: u16 = 10_000;

/// Returns the candidates from processes with these names.
pub(super) fn candidates(names: &[String]) -> Vec<Candidate> {
    if names.is_empty() {
        return Vec::new();
    }
    let patterns: Vec<_> = names.iter().filter_map(|name| Pattern::new(name).ok()).collect();
    let Ok(folders) = fs::read_dir("/proc") else {
        return vec![Candidate::without_address("/proc").rejected("cannot be read: no process is seen")];
    };
    let here = Namespace::own();
    let mut pids: Vec<_> = folders
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .collect();
    pids.sort_unstable();
    let mut found = Vec::new();
    if fs::read("/proc/1/comm").is_err() {
        let why = "hides the processes of other users (hidepid, or ProtectProc of systemd): their servers are not seen";
        found.push(Candidate::without_address("/proc").rejected(why));
    }
    for pid in pids {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let comm = comm.trim_end();
        if !patterns.iter().any(|name| name.matches(comm)) {
            continue;
        }
        let source = format!("process {pid} ({comm})");
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        let elsewhere = here.is_left_by(pid);
        if comm == "docker-proxy" {
            found.push(forwarder(&source, &title));
        } else if title.contains("[sentinel]") {
            found.push(Candidate::without_address(source).rejected(SENTINEL));
        } else {
            found.extend(of_process(pid, &source, &title, elsewhere));
        }
    }
    found
}

/// The network namespace of the agent.
struct Namespace {
    link: Option<PathBuf>,
    sockets: HashSet<u64>,
}

impl Namespace {
    fn own() -> Self {
        Self {
            link: fs::read_link("/proc/self/ns/net").ok(),
            sockets: listening(NamespaceOf::Own),
        }
    }

    /// Whether a process is in another namespace. Without the permission to see that, the listening sockets in its
    /// namespace decide: socket inodes are unique on the whole host.
    fn is_left_by(&self, pid: u32) -> bool {
        match fs::read_link(format!("/proc/{pid}/ns/net")) {
            Ok(link) => self.link.as_ref() != Some(&link),
            Err(_) => {
                let there = listening(NamespaceOf::Pid(pid));
                !there.is_empty() && there.is_disjoint(&self.sockets)
            }
        }
    }
}

/// Inodes of the listening sockets in a network namespace.
fn listening(of: NamespaceOf) -> HashSet<u64> {
    let listeners = sockets::listeners(of).into_iter();
    listeners.map(|listener| listener.inode).collect()
}

/// Returns what a process listens on: from its sockets if they are visible, else from its title.
fn of_process(pid: u32, source: &str, title: &str, elsewhere: bool) -> Vec<Candidate> {
    let alive = |address: String, source: String| Candidate {
        process_alive: true,
        ..Candidate::new(address, source)
    };
    let Some(inodes) = sockets::of_process(pid) else {
        let Some(address) = by_title(title) else {
            let why = "its sockets cannot be seen without the right to, and its title tells no address";
            return vec![Candidate::without_address(source).rejected(why)];
        };
        let source = format!("{source}, by its title");
        let Some(address) = (if elsewhere {
            title_from_outside(&address, pid)
        } else {
            Some(address)
        }) else {
            let why = "is in another network namespace, and listens on its loopback only or cannot be seen";
            return vec![Candidate::without_address(source).rejected(why)];
        };
        return vec![alive(address, source)];
    };
    let mut ports = BTreeMap::<u16, BTreeSet<IpAddr>>::new();
    for listener in sockets::listeners(NamespaceOf::Pid(pid)) {
        if inodes.contains(&listener.inode) {
            let address = listener.address;
            ports.entry(address.port()).or_default().insert(address.ip());
        }
    }
    if ports.is_empty() {
        return match by_title(title).filter(|address| address.starts_with('/')) {
            Some(path) => vec![alive(path, source.to_owned())],
            None => vec![Candidate::without_address(source).rejected("listens on no TCP port")],
        };
    }
    let outside = if elsewhere {
        own_addresses(pid)
    } else {
        BTreeSet::new()
    };
    let one = |(port, ips): (&u16, &BTreeSet<IpAddr>)| {
        let ip = if elsewhere {
            from_outside(ips, &outside)
        } else {
            Some(from_here(ips))
        };
        let Some(ip) = ip else {
            let why = format!("listens on port {port} of another network namespace, on its loopback only");
            return Candidate::without_address(source).rejected(why);
        };
        let candidate = alive(SocketAddr::new(ip, *port).to_string(), source.to_owned());
        match port
            .checked_sub(BUS_OFFSET)
            .filter(|base| ports.contains_key(base))
        {
            Some(base) => candidate.rejected(format!("is the cluster bus of port {base}")),
            None => candidate,
        }
    };
    ports.iter().map(one).collect()
}

/// The best address of a server for a client on its host: the loopback, else any other.
fn from_here(ips: &BTreeSet<IpAddr>) -> IpAddr {
    let (v4, v6) = (IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST));
    let has = |ip: IpAddr| ips.contains(&ip);
    if has(v4) || has(Ipv4Addr::UNSPECIFIED.into()) {
        return v4;
    }
    if has(v6) || has(Ipv6Addr::UNSPECIFIED.into()) {
        return v6;
    }
    ips.first().copied().unwrap_or(v4)
}

/// An address of a server in another network namespace that may be reachable from this one.
fn from_outside(ips: &BTreeSet<IpAddr>, own: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    match ips.iter().find(|ip| !ip.is_loopback() && !ip.is_unspecified()) {
        Some(ip) => Some(*ip),
        None if ips.iter().any(IpAddr::is_unspecified) => own.first().copied(),
        None => None,
    }
}

/// Where a server in another network namespace, whose title contains this address, may be reachable from this one.
fn title_from_outside(address: &str, pid: u32) -> Option<String> {
    let address: SocketAddr = address.parse().ok()?;
    // The title has `*` for all addresses, which was parsed as the loopback.
    let ips = if address.ip().is_loopback() {
        BTreeSet::from([Ipv4Addr::UNSPECIFIED.into()])
    } else {
        BTreeSet::from([address.ip()])
    };
    let ip = from_outside(&ips, &own_addresses(pid))?;
    Some(SocketAddr::new(ip, address.port()).to_string())
}

/// IPv4 addresses in the network namespace of a process, without the loopback.
fn own_addresses(pid: u32) -> BTreeSet<IpAddr> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/fib_trie")).unwrap_or_default();
    local_addresses(&text)
}

/// Addresses marked as local to the host in a `fib_trie`.
fn local_addresses(fib_trie: &str) -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    let mut last = None;
    for line in fib_trie.lines() {
        let line = line.trim();
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.filter(|ip| !ip.is_loopback()).map(IpAddr::V4));
        }
    }
    found
}

/// Parses `docker-proxy -host-ip 0.0.0.0 -host-port 6379 -container-ip 172.17.0.2 -container-port 6379`.
fn forwarder(source: &str, title: &str) -> Candidate {
    let words: Vec<_> = title.split_whitespace().collect();
    let value = |name: &str| {
        let at = words.iter().position(|word| *word == name)?;
        words.get(at + 1).copied()
    };
    let told = (
        value("-host-port"),
        value("-container-ip"),
        value("-container-port"),
    );
    let (Some(host), Some(ip), Some(port)) = told else {
        return Candidate::without_address(source).rejected("forwards a port to a container");
    };
    let why = format!(
        "forwards to {ip}:{port} in a container, whose server is found by its own process; name 127.0.0.1:{host} \
         under [[instances]] to watch it through the forwarder"
    );
    Candidate::new(format!("127.0.0.1:{host}"), source).rejected(why)
}

/// The address in a process title: `redis-server *:6379 [cluster]`, or `... unixsocket:/path`, or, if the server does
/// not write one, from its options by name. Values of other options, which may be secrets, are never taken for an
/// address.
fn by_title(title: &str) -> Option<String> {
    let mut words = title.split_whitespace().skip(1).peekable();
    let first = *words.peek()?;
    if !first.starts_with("--") && first.contains(':') {
        return by_address(first);
    }
    let mut text = String::new();
    for word in words {
        match word.strip_prefix("--") {
            Some(option) => text.push_str(&format!("\n{option}")),
            None => text.push_str(&format!(" {word}")),
        }
    }
    // Without any of these options, the defaults would be a guess.
    let options = ["port", "tls-port", "bind", "unixsocket"];
    let named = |line: &str| line.split(' ').next().is_some_and(|name| options.contains(&name));
    if !text.lines().any(named) {
        return None;
    }
    let mut conf = ServerConf::default();
    conf.read(&text);
    match conf.endpoint()? {
        Endpoint::Plain(address) | Endpoint::Unix(address) => Some(address),
        Endpoint::Tls(_) => None,
    }
}

fn by_address(word: &str) -> Option<String> {
    if let Some(path) = word.strip_prefix("unixsocket:") {
        return Some(path.to_owned());
    }
    let (host, port) = word.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    // A leading dash means that the server starts even if this address is unavailable.
    let host = match host.trim_start_matches('-') {
        "*" | "0.0.0.0" => "127.0.0.1",
        "::" | "::*" => "::1",
        host => host,
    };
    Some(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_tell_addresses() {
        assert_eq!(
            by_title("redis-server *:6379 [cluster]").as_deref(),
            Some("127.0.0.1:6379")
        );
        assert_eq!(
            by_title("redis-server 10.0.0.1:7000").as_deref(),
            Some("10.0.0.1:7000")
        );
        assert_eq!(
            by_title("redis-server unixsocket:/run/r.sock").as_deref(),
            Some("/run/r.sock")
        );
        assert_eq!(by_title("redis-server ::1:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(by_title("redis-server -::1:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(by_title("redis-server ::*:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(by_title("redis-server -::*:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(
            by_title("keydb-server --masterauth secretpw:4711 --port 7000 --bind -::1 127.0.0.1").as_deref(),
            Some("127.0.0.1:7000")
        );
        for secret in [
            "redis-server --requirepass secretpw:4711",
            "redis-server /etc/redis.conf --masterauth secretpw:4711",
            "redis-server --masteruser a:1 --masterauth b:2",
        ] {
            assert_eq!(by_title(secret), None, "{secret}");
        }
        assert_eq!(by_title("redis-server"), None);
        assert_eq!(by_title("redis-server x:y"), None);
    }

    #[test]
    fn the_nearest_address_is_taken() {
        let ips = |texts: &[&str]| {
            texts
                .iter()
                .map(|t| t.parse().unwrap())
                .collect::<BTreeSet<IpAddr>>()
        };
        for (bound, taken) in [
            (&["0.0.0.0", "::"][..], "127.0.0.1"),
            (&["10.0.0.5", "127.0.0.1"], "127.0.0.1"),
            (&["::"], "::1"),
            (&["10.0.0.5"], "10.0.0.5"),
        ] {
            assert_eq!(from_here(&ips(bound)), taken.parse::<IpAddr>().unwrap());
        }
        let own = ips(&["172.17.0.2"]);
        assert_eq!(from_outside(&ips(&["0.0.0.0"]), &own), own.first().copied());
        assert_eq!(from_outside(&ips(&["127.0.0.1"]), &own), None);
    }

    #[test]
    fn forwarders_and_addresses_are_read() {
        let title = "/usr/bin/docker-proxy -proto tcp -host-ip 0.0.0.0 -host-port 6380 -container-ip 172.17.0.2 \
                     -container-port 6379 ";
        let candidate = forwarder("process 1 (docker-proxy)", title);
        assert_eq!(candidate.address, "127.0.0.1:6380");
        assert!(
            candidate
                .rejection
                .unwrap()
                .to_string()
                .contains("172.17.0.2:6379")
        );
        assert!(forwarder("p", "docker-proxy -host-port").rejection.is_some());
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- 172.17.0.0\n        \
                    /16 link UNICAST\n     |-- 172.17.0.2\n        /32 host LOCAL\n";
        assert_eq!(local_addresses(trie), ["172.17.0.2".parse().unwrap()].into());
    }
}
