//! Finds ZooKeeper's servers: the configured names are resolved anew for each session, and only addresses that accept a
//! connection are passed to the client.
//!
//! The client has one time limit for a name and tries its addresses in turn within it, so that a dead first address
//! hides all others; and three dead addresses use up its limit for a session. A majority of the servers accepts
//! connections whenever ZooKeeper serves, so the addresses found alive at the start of a session include one that lives
//! later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::join_all;
use redkeeper_core::hosts::HostPort;
use redkeeper_runtime::blocking::BlockingPool;
use tokio::net::TcpStream;

/// Default port of ZooKeeper.
pub(crate) const ZOOKEEPER_PORT: u16 = 2181;
/// Maximum addresses tried: an ensemble has up to 7 servers, each with an address of either family.
const ADDRESSES_MAX: usize = 32;
/// Time limit of a look-up. A second name server is asked after 5 s by default.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(6);
/// Time limit of a connection attempt: an address that exceeds it is dead, or too far away for a session.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Look-ups in progress: each holds a thread, even one that was given up.
static LOOK_UPS: BlockingPool = BlockingPool::new(16);

/// Resolves a name to addresses.
pub type LookUp = fn(&str, u16) -> io::Result<Vec<SocketAddr>>;

/// The system's resolver: `/etc/hosts`, DNS.
pub(super) fn system_look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    (host, port).to_socket_addrs().map(Iterator::collect)
}

/// The configured servers.
#[derive(Debug)]
pub(super) struct Servers {
    /// The servers as configured.
    text: String,
    look_up: LookUp,
    /// Last known addresses of each name: used if a look-up fails, since a name server may be down with the rest.
    known: Mutex<BTreeMap<String, Vec<SocketAddr>>>,
}

/// What was found at the start of a session.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Addresses that accept connections.
    pub(super) alive: BTreeSet<SocketAddr>,
    /// Addresses that do not, with the reason, and names without an address.
    dead: Vec<String>,
}

impl Servers {
    pub(super) fn new(text: &str, look_up: LookUp) -> Self {
        Self {
            text: text.to_owned(),
            look_up,
            known: Mutex::default(),
        }
    }

    /// Resolves all names and tries to connect to all addresses at once.
    pub(super) async fn find(&self) -> Found {
        let mut found = Found::default();
        let mut addresses = BTreeSet::new();
        let servers = self
            .text
            .split(',')
            .map(str::trim)
            .filter(|server| !server.is_empty());
        for resolved in join_all(servers.map(|server| self.resolve(server))).await {
            match resolved {
                Ok((resolved, failure)) => {
                    addresses.extend(resolved);
                    found.dead.extend(failure);
                }
                Err(why) => found.dead.push(why),
            }
        }
        if addresses.len() > ADDRESSES_MAX {
            let more = addresses.len() - ADDRESSES_MAX;
            found
                .dead
                .push(format!("{more} more addresses, which are not tried"));
        }
        let knocks = addresses
            .into_iter()
            .take(ADDRESSES_MAX)
            .map(|address| async move {
                let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
                match connected {
                    Ok(Ok(_)) => Ok(address),
                    Ok(Err(e)) => Err(format!("{address}: {e}")),
                    Err(_) => Err(format!("{address}: no connection within {CONNECT_TIMEOUT:?}")),
                }
            });
        for knocked in join_all(knocks).await {
            match knocked {
                Ok(address) => drop(found.alive.insert(address)),
                Err(why) => found.dead.push(why),
            }
        }
        found
    }

    /// Addresses of a server. If the look-up fails and the last known ones are used, the failure is described too.
    async fn resolve(&self, server: &str) -> Result<(Vec<SocketAddr>, Option<String>), String> {
        let HostPort { host, port } =
            HostPort::parse(server, Some(ZOOKEEPER_PORT)).map_err(|e| e.to_string())?;
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok((vec![SocketAddr::new(ip, port)], None));
        }
        let look_up = self.look_up;
        let answer = LOOK_UPS.run(LOOK_UP_TIMEOUT, move || look_up(&host, port)).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let why = match answer {
            Some(Ok(addresses)) if !addresses.is_empty() => {
                known.insert(server.to_owned(), addresses.clone());
                return Ok((addresses, None));
            }
            Some(Ok(_)) => "the name has no address".to_owned(),
            Some(Err(e)) => e.to_string(),
            None => format!("no answer to the look-up within {LOOK_UP_TIMEOUT:?}"),
        };
        match known.get(server).cloned() {
            Some(before) => {
                let failure = format!("{server}: {why}; its last known addresses are used");
                Ok((before, Some(failure)))
            }
            None => Err(format!("{server}: {why}")),
        }
    }
}

/// The servers as configured.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Found {
    /// The addresses that are alive, in the client's format.
    pub(super) fn connect_string(&self) -> String {
        let all: Vec<_> = self.alive.iter().map(SocketAddr::to_string).collect();
        all.join(",")
    }

    /// What is not alive, each with the reason.
    pub(super) fn into_dead(self) -> Vec<String> {
        self.dead
    }

    /// Describes what was tried; `why` is the reason why addresses that are alive gave no session.
    pub(super) fn tried(&self, why: &str) -> String {
        let alive = self.alive.iter().map(|address| format!("{address}: {why}"));
        let all: Vec<_> = alive.chain(self.dead.iter().cloned()).collect();
        all.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[tokio::test]
    async fn names_have_all_their_addresses_and_keep_them_while_the_name_server_is_away() {
        static AWAY: AtomicBool = AtomicBool::new(false);
        let look_up = |host: &str, port| {
            if AWAY.load(Ordering::Relaxed) || host != "zk" {
                return Err(io::Error::other("no such name"));
            }
            let ips = ["10.0.0.1", "10.0.0.2", "fd00::1"];
            Ok(ips
                .iter()
                .flat_map(|ip| ip.parse())
                .map(|ip| SocketAddr::new(ip, port))
                .collect())
        };
        let servers = Servers::new("", look_up);
        let texts = async |server: &str| {
            let (resolved, _) = servers.resolve(server).await?;
            Ok::<_, String>(resolved.iter().map(SocketAddr::to_string).collect::<Vec<_>>())
        };
        let all = ["10.0.0.1:2181", "10.0.0.2:2181", "[fd00::1]:2181"]
            .map(str::to_owned)
            .to_vec();
        assert_eq!(texts("zk:2181").await, Ok(all.clone()));
        AWAY.store(true, Ordering::Relaxed);
        assert_eq!(texts("zk:2181").await, Ok(all));
        let failure = servers.resolve("zk:2181").await.unwrap().1.unwrap();
        assert!(failure.starts_with("zk:2181: no such name; "), "{failure}");
        assert_eq!(texts("zk:2182").await, Err("zk:2182: no such name".to_owned()));
        assert_eq!(texts("[::1]:2181").await, Ok(vec!["[::1]:2181".to_owned()]));
        assert_eq!(texts("10.0.0.9:1").await, Ok(vec!["10.0.0.9:1".to_owned()]));
        assert!(texts("zk:0").await.is_err());
    }

    #[test]
    fn what_was_tried_names_each_address_with_its_fault() {
        let found = Found {
            alive: ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()].into(),
            dead: vec!["zk:1: no such name".to_owned()],
        };
        assert_eq!(found.connect_string(), "127.0.0.1:1,[::1]:1");
        let text = "127.0.0.1:1: silent; [::1]:1: silent; zk:1: no such name";
        assert_eq!(found.tried("silent"), text);
    }
}
