//! Determines the user whose server listens at an address. The password for a discovered server is sent only if that
//! user is trusted: any local user can start a process with the name of a server.

use std::{fs, io, net::SocketAddr, os::unix::fs::MetadataExt, sync::Arc};

use nix::unistd::{Uid, User};

use crate::host::sockets::{self, Listener, NamespaceOf};

/// Users to whose servers passwords may be sent, by name or number; `*` stands for all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrustedOwners(Arc<[String]>);

/// The users of the distributions' packages.
pub const DEFAULT_OWNERS: [&str; 3] = ["root", "redis", "valkey"];

impl TrustedOwners {
    /// Trusts these users.
    pub fn new(users: Vec<String>) -> Self {
        Self(users.into())
    }

    fn trusts(&self, uid: u32) -> bool {
        let by_number = |user: &String| user.parse() == Ok(uid);
        // The agent's own user can read the password anyway.
        if uid == Uid::effective().as_raw() || self.0.iter().any(by_number) {
            return true;
        }
        let name = User::from_uid(Uid::from_raw(uid))
            .ok()
            .flatten()
            .map(|user| user.name);
        name.is_some_and(|name| self.0.contains(&name))
    }

    /// Checks who listens at `address` (`host:port` of this host, or a Unix socket). Reads `/proc` and asks the system
    /// for user names, so it may block.
    ///
    /// # Errors
    /// When another user listens, or the user is unknown; the text says what to do.
    pub fn check(&self, address: &str) -> Result<(), String> {
        if self.0.iter().any(|user| user == "*") {
            return Ok(());
        }
        let owners = owners(address).map_err(|e| format!("who listens at {address} cannot be seen: {e}"))?;
        let stranger = owners.iter().find(|uid| !self.trusts(**uid));
        match stranger {
            None if owners.is_empty() => Err(format!(
                "the password is not sent: who listens at {address} is not known on this host. Name the instance under \
                 [[instances]], use TLS, or set discovery.password_users = [\"*\"]"
            )),
            None => Ok(()),
            Some(uid) => {
                let name = User::from_uid(Uid::from_raw(*uid)).ok().flatten();
                let name = name.map_or_else(|| uid.to_string(), |user| user.name);
                Err(format!(
                    "the password is not sent: {address} belongs to a process of user {name}, who is not among \
                     discovery.password_users. Add the user there, or name the instance under [[instances]]"
                ))
            }
        }
    }
}

/// Users of all sockets that may accept a connection to the address.
fn owners(address: &str) -> io::Result<Vec<u32>> {
    if address.starts_with('/') {
        return Ok(vec![fs::metadata(address)?.uid()]);
    }
    let Ok(address) = address.parse::<SocketAddr>() else {
        return Ok(Vec::new());
    };
    Ok(owners_of(&sockets::listeners(NamespaceOf::Own), address))
}

fn owners_of(listeners: &[Listener], address: SocketAddr) -> Vec<u32> {
    let accepting = listeners.iter().filter(|listener| listener.accepts(address));
    accepting.map(|listener| listener.uid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_count_that_may_take_the_connection() {
        let listener = |address: &str, uid| Listener {
            inode: 1,
            address: address.parse().unwrap(),
            uid,
        };
        let listeners = [
            listener("127.0.0.1:6379", 999),
            listener("0.0.0.0:6380", 65534),
            listener("127.0.0.2:6379", 1000),
        ];
        let of = |address: &str| owners_of(&listeners, address.parse().unwrap());
        assert_eq!(of("127.0.0.1:6379"), [999]);
        assert_eq!(of("127.0.0.2:6379"), [1000]);
        assert_eq!(of("127.0.0.9:6380"), [65534]);
        assert!(of("127.0.0.3:6379").is_empty());
    }

    #[test]
    fn users_are_trusted_by_name_by_number_or_all() {
        let trusts = |users: &[&str], uid| {
            TrustedOwners::new(users.iter().map(|user| (*user).to_owned()).collect()).trusts(uid)
        };
        assert!(trusts(&["root"], 0));
        assert!(trusts(&["4711"], 4711));
        assert!(!trusts(&["root", "redis"], 4711));
        let all = TrustedOwners::new(vec!["*".to_owned()]);
        assert_eq!(all.check("127.0.0.1:1"), Ok(()));
        let some = TrustedOwners::new(vec!["root".to_owned()]);
        assert!(
            some.check("203.0.113.1:6379")
                .unwrap_err()
                .contains("is not known on this host")
        );
    }
}
