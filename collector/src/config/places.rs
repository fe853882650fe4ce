//! Checks of paths and addresses in the configuration.

use std::net::{IpAddr, SocketAddr};

use redkeeper_core::hosts::HostPort;

/// Maximum length of the root: with the longest id, a path stays below 300 bytes.
const ROOT_BYTES_MAX: usize = 100;

/// Checks that ZooKeeper accepts the root as a path, and that this collector can work with it.
pub(super) fn check_root(root: &str) -> Result<(), String> {
    let parts = root.strip_prefix('/').ok_or("is no path such as /redkeeper")?;
    if root.len() > ROOT_BYTES_MAX {
        return Err(format!("has more than {ROOT_BYTES_MAX} bytes"));
    }
    let refused =
        |c: char| c.is_control() || ('\u{e000}'..='\u{f8ff}').contains(&c) || ('\u{fff0}'..).contains(&c);
    if let Some(c) = root.chars().find(|c| refused(*c)) {
        return Err(format!("contains {c:?}, which ZooKeeper refuses"));
    }
    match parts.split('/').find(|part| ["", ".", ".."].contains(part)) {
        Some("") => Err("has an empty part; write it as /redkeeper".to_owned()),
        Some(part) => Err(format!("has the part {part:?}, which ZooKeeper refuses")),
        None if parts == "zookeeper" || parts.starts_with("zookeeper/") => {
            Err("is ZooKeeper's own; name another one".to_owned())
        }
        None => Ok(()),
    }
}

pub(super) fn joined(hosts: Vec<HostPort>) -> String {
    hosts
        .iter()
        .map(HostPort::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

/// The configured address as others can use it; the gRPC port is added where it has none.
pub(super) fn advertised(text: &str, port: u16) -> Result<String, String> {
    let address = HostPort::parse(text, Some(port))
        .map_err(|e| format!("{e}, such as db01.example:7400; without it, the host's name is used"))?;
    if address.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
        return Err(format!(
            "{text:?} is reachable for nobody; name the host or one of its addresses"
        ));
    }
    Ok(address.to_string())
}

/// The address that others can use: a wildcard is replaced by the host's name.
pub(super) fn reachable(listen: SocketAddr) -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    match host {
        Some(host) if listen.ip().is_unspecified() => format!("{host}:{}", listen.port()),
        _ => listen.to_string(),
    }
}
