//! Parses addresses that users write in files, variables and command lines. One set of rules applies to all of them:
//! what is accepted can work, and what can never work is refused with advice on what to write instead.

use std::{fmt, net::Ipv6Addr};

/// A host and a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct HostPort {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// Never zero.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a text is not a valid address.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HostError {
    /// The list contains no address.
    #[error("names no host")]
    Empty,
    /// No host before the port.
    #[error("{0:?} names no host before the port")]
    NoHost(String),
    /// No port, and there is no default.
    #[error("{0:?} has no port; write it as HOST:PORT")]
    NoPort(String),
    /// A port that cannot be connected to.
    #[error("{0:?} has no valid port; ports are 1 to 65535")]
    BadPort(String),
    /// A URL scheme, such as `http://`.
    #[error("{0:?} is a URL; write HOST:PORT without the part up to //")]
    Scheme(String),
    /// A path after the port.
    #[error("{0:?} has a path; write HOST:PORT only")]
    Path(String),
    /// An IPv6 address without brackets, whose end cannot be distinguished from the port.
    #[error("{0:?} needs brackets around its IPv6 address, such as [::1]:7400")]
    Brackets(String),
    /// Brackets around something that is not an IPv6 address.
    #[error("{0:?} has no IPv6 address in its brackets")]
    NotIpv6(String),
    /// A character that is not valid in a host name.
    #[error("{0:?} contains {1:?}, which is in no name of a host")]
    Character(String, char),
    /// Longer than any host name.
    #[error("{0:?} is longer than 253 bytes")]
    TooLong(String),
}

/// Longest host name (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

impl HostPort {
    /// Parses one address. Blanks around it are ignored. An address without a port gets `default_port`, if there is
    /// one.
    ///
    /// # Errors
    /// Says what is wrong, and what to write instead.
    pub fn parse(text: &str, default_port: Option<u16>) -> Result<Self, HostError> {
        let text = text.trim();
        let owned = || text.to_owned();
        if text.is_empty() {
            return Err(HostError::Empty);
        }
        if text.contains("://") {
            return Err(HostError::Scheme(owned()));
        }
        if text.contains('/') {
            return Err(HostError::Path(owned()));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| HostError::Brackets(owned()))?;
            // The interface of a link-local address follows it, such as `fe80::1%eth0`.
            let (address, zone) = host.split_once('%').unwrap_or((host, "0"));
            if address.parse::<Ipv6Addr>().is_err() || zone.is_empty() {
                return Err(HostError::NotIpv6(owned()));
            }
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(HostError::BadPort(owned())),
            }
        } else {
            match text.split_once(':') {
                Some((_, port)) if port.contains(':') => return Err(HostError::Brackets(owned())),
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        if host.is_empty() {
            return Err(HostError::NoHost(owned()));
        }
        let zoned = host.contains(':');
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c) || (zoned && c == '%');
        if let Some(c) = host.chars().find(|c| !allowed(*c)) {
            return Err(HostError::Character(owned(), c));
        }
        if host.len() > HOST_BYTES_MAX {
            return Err(HostError::TooLong(owned()));
        }
        let port = match port {
            // A port has no sign, which `parse` would accept.
            Some(port) if port.bytes().all(|digit| digit.is_ascii_digit()) => port.parse().ok(),
            Some(_) => None,
            None => Some(default_port.ok_or_else(|| HostError::NoPort(owned()))?),
        };
        match port {
            Some(port) if port > 0 => Ok(Self {
                host: host.to_owned(),
                port,
            }),
            _ => Err(HostError::BadPort(owned())),
        }
    }
}

/// Parses a comma-separated list. Blanks around the addresses and empty elements are ignored; a repeated address is
/// listed once.
///
/// # Errors
/// The first mistake; a list without an address is one.
pub fn list(text: &str, default_port: Option<u16>) -> Result<Vec<HostPort>, HostError> {
    let mut hosts = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        let host = HostPort::parse(part, default_port)?;
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    if hosts.is_empty() {
        return Err(HostError::Empty);
    }
    Ok(hosts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<String, HostError> {
        let join = |hosts: Vec<HostPort>| {
            hosts
                .iter()
                .map(HostPort::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        list(text, Some(7400)).map(join)
    }

    #[test]
    fn lists_as_people_type_them() {
        for (typed, meant) in [
            ("zk-1:2181,zk-2:2181", "zk-1:2181,zk-2:2181"),
            ("zk-1:2181, zk-2:2181", "zk-1:2181,zk-2:2181"),
            (" zk-1:2181\t,\n zk-2 ,", "zk-1:2181,zk-2:7400"),
            (",127.0.0.1", "127.0.0.1:7400"),
            ("[::1]", "[::1]:7400"),
            ("[::1]:1, LOCALHOST:65535", "[::1]:1,LOCALHOST:65535"),
            ("[fe80::1%eth0]:1", "[fe80::1%eth0]:1"),
            ("a:1,a:1 ,a:2", "a:1,a:2"),
            ("under_score.example:07400", "under_score.example:7400"),
        ] {
            assert_eq!(read(typed).as_deref(), Ok(meant), "{typed:?}");
        }
    }

    #[test]
    fn what_can_never_work_is_refused_with_what_to_write() {
        for (typed, says) in [
            ("", "names no host"),
            (" , ,", "names no host"),
            (":7400", "names no host before the port"),
            ("a:", "ports are 1 to 65535"),
            ("a:0", "ports are 1 to 65535"),
            ("a:99999", "ports are 1 to 65535"),
            ("a:+1", "ports are 1 to 65535"),
            ("a:x", "ports are 1 to 65535"),
            ("[::1]7400", "ports are 1 to 65535"),
            ("http://a:7400", "without the part up to //"),
            ("tcp://a", "without the part up to //"),
            ("a:2181/app", "has a path"),
            ("a/", "has a path"),
            ("::1:7400", "needs brackets"),
            ("::1", "needs brackets"),
            ("[::1:7400", "needs brackets"),
            ("[localhost]:7400", "no IPv6 address in its brackets"),
            ("[fe80::1%]:1", "no IPv6 address in its brackets"),
            ("a%b:1", "contains '%'"),
            ("user@a:7400", "contains '@'"),
            ("a b:7400", "contains ' '"),
            ("a?x", "contains '?'"),
            ("n\u{e4}me:7400", "contains '\u{e4}'"),
            ("good:1,bad:0", "\"bad:0\""),
        ] {
            let error = read(typed).unwrap_err().to_string();
            assert!(error.contains(says), "{typed:?}: {error}");
        }
        assert_eq!(HostPort::parse("a", None), Err(HostError::NoPort("a".to_owned())));
        assert!(read(&"a".repeat(254)).is_err());
    }

    proptest! {
        /// An address that is parsed and formatted parses as the same address; no text causes a panic.
        #[test]
        fn what_is_read_is_written_the_same(text in "[a-z0-9:.,/ \\[\\]]{0,20}", other in ".{0,20}") {
            for text in [text, other] {
                if let Ok(hosts) = list(&text, Some(7400)) {
                    let again = hosts.iter().map(HostPort::to_string).collect::<Vec<_>>().join(" , ");
                    prop_assert_eq!(list(&again, None), Ok(hosts));
                }
            }
        }
    }
}
