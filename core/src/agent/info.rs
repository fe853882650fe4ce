//! The fields of INFO that redkeeper uses. Unknown flavours and missing fields are never an error.

use crate::{
    limits::{RUN_ID_BYTES_MAX, VERSION_BYTES_MAX},
    status::{Role, cut},
};

/// What INFO told.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info {
    /// `run_id`; empty on servers without one (Dragonfly).
    pub run_id: String,
    /// `valkey_version`, else `redis_version`.
    pub version: String,
    /// `role`, or sentinel mode.
    pub role: Option<Role>,
    /// `master_host:master_port` of a replica.
    pub master_address: String,
}

/// Reads an INFO text.
pub fn parse(text: &str) -> Info {
    let mut info = Info::default();
    let (mut redis_version, mut valkey_version) = ("", "");
    let (mut master_host, mut master_port) = ("", "");
    for line in text.lines() {
        let Some((key, value)) = line.trim_end().split_once(':') else {
            continue;
        };
        match key {
            "run_id" => info.run_id = cut(value, RUN_ID_BYTES_MAX),
            "redis_version" => redis_version = value,
            "valkey_version" => valkey_version = value,
            "role" if info.role != Some(Role::Sentinel) => {
                info.role = match value {
                    "master" => Some(Role::Master),
                    "slave" | "replica" => Some(Role::Replica),
                    _ => None,
                }
            }
            "redis_mode" | "server_mode" if value == "sentinel" => info.role = Some(Role::Sentinel),
            "master_host" => master_host = value,
            "master_port" => master_port = value,
            _ => {}
        }
    }
    let version = if valkey_version.is_empty() {
        redis_version
    } else {
        valkey_version
    };
    info.version = cut(version, VERSION_BYTES_MAX);
    if info.role == Some(Role::Replica) && !master_host.is_empty() {
        info.master_address = cut(
            &format!("{master_host}:{master_port}"),
            crate::limits::ADDRESS_BYTES_MAX,
        );
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_redis_and_valkey() {
        let redis = parse(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:abc\r\nrole:master\r\n",
        );
        assert_eq!(
            (redis.version.as_str(), redis.role, redis.run_id.as_str()),
            ("7.0.15", Some(Role::Master), "abc")
        );
        let valkey = parse("redis_version:7.2.4\nvalkey_version:8.1.8\nserver_mode:sentinel\nrole:master\n");
        assert_eq!(
            (valkey.version.as_str(), valkey.role),
            ("8.1.8", Some(Role::Sentinel))
        );
        let replica = parse("role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n");
        assert_eq!(replica.master_address, "10.0.0.1:6379");
    }

    proptest! {
        #[test]
        fn any_text_is_harmless(text in ".{0,400}") {
            let info = parse(&text);
            prop_assert!(info.run_id.len() <= RUN_ID_BYTES_MAX && info.version.len() <= VERSION_BYTES_MAX);
        }
    }
}
