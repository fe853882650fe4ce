//! Reads the fields of INFO that redkeeper uses. Unknown flavours and missing fields are never an error.

use crate::{
    limits::{RUN_ID_BYTES_MAX, VERSION_BYTES_MAX},
    status::{Role, cut},
};

/// The fields that are used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Info {
    /// `run_id`; empty on servers without one (Dragonfly).
    pub run_id: String,
    /// Name of the server software, such as `redis` or `valkey`; empty where INFO does not say.
    pub server: &'static str,
    /// The server's own version; `redis_version` where it has none.
    pub version: String,
    /// `role`, or sentinel mode.
    pub role: Option<Role>,
    /// `master_host:master_port` of a replica.
    pub master_address: String,
    /// `process_id`, in the server's own namespace.
    pub process_id: Option<u32>,
    /// `uptime_in_seconds`.
    pub uptime_seconds: Option<u64>,
    /// `cluster_enabled`: the server answers CLUSTER INFO.
    pub cluster_enabled: bool,
    /// The fields that concern health.
    pub health: Health,
}

/// Fields that concern health.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Health {
    /// `loading`.
    pub loading: bool,
    /// `async_loading`: a replica loads what its master sent while it serves its former data.
    pub async_loading: bool,
    /// `loading_loaded_perc`, such as `43.70`.
    pub loaded_percent: String,
    /// `loading_eta_seconds`.
    pub loading_eta_seconds: Option<u64>,
    /// `master_link_status:down`.
    pub master_link_down: bool,
    /// `master_link_down_since_seconds:-1`: the link was never up since the start.
    pub master_never_reached: bool,
    /// `master_sync_in_progress`.
    pub syncing: bool,
    /// `rdb_last_bgsave_status:err` (`last_bgsave_status` of Kvrocks) or `aof_last_write_status:err`.
    pub persistence_failed: bool,
    /// `used_memory_rss`: what the kernel has to free when the process dies.
    pub resident: u64,
    /// `used_memory`.
    pub used_memory: u64,
    /// `mem_not_counted_for_evict`: buffers of replicas and of the AOF.
    pub not_counted: u64,
    /// `maxmemory`; 0 means no limit.
    pub max_memory: u64,
    /// `maxmemory_policy:noeviction`.
    pub noeviction: bool,
    /// `min_slaves_good_slaves`, which exists only where a minimum is configured.
    pub good_replicas: Option<u64>,
    /// `errorstat_NOREPLICAS`: writes that were refused for too few replicas, since the start.
    pub refused_for_replicas: u64,
    /// `errorstat_OOM`: commands that were refused for lack of memory, since the start.
    pub refused_for_memory: u64,
    /// `errorstat_MISCONF`: writes that were refused because saving fails, since the start.
    pub refused_for_persistence: u64,
    /// `errorstat_READONLY`: writes that were refused as by a replica, since the start.
    pub refused_as_replica: u64,
    /// `paused_actions`: an operator has paused writes (CLIENT PAUSE; Valkey 9.1).
    pub writes_paused: bool,
    /// `errorstat_MASTERDOWN`: reads that were refused without a master. Counted only where stale data is forbidden.
    pub refused_for_master: u64,
    /// `connected_clients` and `connected_slaves`, which count together against the limit.
    pub clients: u64,
    /// `maxclients`; 0 where INFO does not say.
    pub max_clients: u64,
}

/// The `key:value` lines of an INFO text. They are split by bytes for speed: an INFO has some 200 lines, and 200
/// instances send 20 a second; `lines` and `split_once` took twice the time of everything else that the agent does in
/// user space.
pub fn fields(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let bytes = text.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let (start, mut colon) = (at, None);
            while at < bytes.len() && bytes[at] != b'\n' {
                if bytes[at] == b':' && colon.is_none() {
                    colon = Some(at);
                }
                at += 1;
            }
            let end = at;
            at += 1;
            // All three are positions of ASCII bytes, and so at character boundaries.
            if let Some(colon) = colon {
                return Some((&text[start..colon], text[colon + 1..end].trim_ascii_end()));
            }
        }
        None
    })
}

/// Parses an INFO text.
pub fn parse(text: &str) -> Info {
    let mut info = Info::default();
    let (mut redis_version, mut own_version) = ("", "");
    let (mut master_host, mut master_port) = ("", "");
    for (key, value) in fields(text) {
        match key {
            "run_id" => info.run_id = cut(value, RUN_ID_BYTES_MAX),
            "redis_version" => redis_version = value,
            "valkey_version" => (info.server, own_version) = ("valkey", value),
            "dragonfly_version" => (info.server, own_version) = ("dragonfly", value),
            "kvrocks_version" => (info.server, own_version) = ("kvrocks", value),
            "garnet_version" => (info.server, own_version) = ("garnet", value),
            // KeyDB has no field with its name; only KeyDB has this field.
            "mvcc_depth" => info.server = "keydb",
            "role" if info.role != Some(Role::Sentinel) => {
                info.role = match value {
                    "master" => Some(Role::Master),
                    "slave" | "replica" => Some(Role::Replica),
                    // KeyDB: an active replica replicates from others and takes writes of clients all the same.
                    "active-replica" => Some(Role::Master),
                    _ => None,
                }
            }
            "redis_mode" | "server_mode" if value == "sentinel" => info.role = Some(Role::Sentinel),
            "master_host" => master_host = value,
            "master_port" => master_port = value,
            "process_id" => info.process_id = value.parse().ok(),
            "uptime_in_seconds" => info.uptime_seconds = seconds(value),
            "cluster_enabled" => info.cluster_enabled = value == "1",
            _ => info.health.field(key, value),
        }
    }
    if info.server.is_empty() && !redis_version.is_empty() {
        info.server = "redis";
    }
    let version = if own_version.is_empty() {
        redis_version
    } else {
        own_version
    };
    info.version = cut(version, VERSION_BYTES_MAX);
    if info.role == Some(Role::Replica) && !master_host.is_empty() {
        info.master_address = cut(
            &match master_host.contains(':') {
                true => format!("[{master_host}]:{master_port}"),
                false => format!("{master_host}:{master_port}"),
            },
            crate::limits::ADDRESS_BYTES_MAX,
        );
    }
    info
}

impl Health {
    /// True if no new client was let in when INFO was answered.
    pub fn is_full(&self) -> bool {
        self.max_clients > 0 && self.clients >= self.max_clients
    }

    /// Memory that counts against the limit.
    pub fn counted_memory(&self) -> u64 {
        self.used_memory.saturating_sub(self.not_counted)
    }

    fn field(&mut self, key: &str, value: &str) {
        match key {
            "loading" => self.loading = value == "1",
            "async_loading" => self.async_loading = value == "1",
            "loading_loaded_perc" => self.loaded_percent = cut(value, 6),
            "loading_eta_seconds" => self.loading_eta_seconds = seconds(value),
            "master_link_status" => self.master_link_down = value == "down",
            "master_link_down_since_seconds" => self.master_never_reached = value == "-1",
            // Garnet writes `True`.
            "master_sync_in_progress" => self.syncing = matches!(value, "1" | "True"),
            "rdb_last_bgsave_status" | "last_bgsave_status" | "aof_last_write_status" => {
                self.persistence_failed |= value == "err"
            }
            "used_memory_rss" => self.resident = value.parse().unwrap_or(0),
            "used_memory" => self.used_memory = value.parse().unwrap_or(0),
            "mem_not_counted_for_evict" => self.not_counted = value.parse().unwrap_or(0),
            "maxmemory" => self.max_memory = value.parse().unwrap_or(0),
            "maxmemory_policy" => self.noeviction = value == "noeviction",
            "min_slaves_good_slaves" => self.good_replicas = value.parse().ok(),
            "errorstat_NOREPLICAS" => self.refused_for_replicas = count(value),
            "errorstat_OOM" => self.refused_for_memory = count(value),
            "errorstat_MISCONF" => self.refused_for_persistence = count(value),
            "errorstat_READONLY" => self.refused_as_replica = count(value),
            "paused_actions" => self.writes_paused = matches!(value, "write" | "all"),
            "errorstat_MASTERDOWN" => self.refused_for_master = count(value),
            "connected_clients" | "connected_slaves" => {
                self.clients = self.clients.saturating_add(value.parse().unwrap_or(0));
            }
            "maxclients" => self.max_clients = value.parse().unwrap_or(0),
            _ => {}
        }
    }
}

/// Upper bound of a duration, longer than any server has run. More is a time of day in the wrong field, or a number
/// that wrapped.
const SECONDS_MAX: u64 = 50 * 365 * 86_400;

/// A duration in seconds, if it is plausible.
fn seconds(value: &str) -> Option<u64> {
    value.parse().ok().filter(|seconds| *seconds < SECONDS_MAX)
}

/// The number in a value such as `count=12`.
fn count(value: &str) -> u64 {
    value
        .strip_prefix("count=")
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
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
        let dragonfly = parse("redis_version:7.4.0\ndragonfly_version:df-v1.30.0\n");
        assert_eq!(
            (dragonfly.server, dragonfly.version.as_str()),
            ("dragonfly", "df-v1.30.0")
        );
        let replica = parse("role:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n");
        assert_eq!(replica.master_address, "10.0.0.1:6379");
    }

    /// The fields that are read.
    const KNOWN: &[&str] = &[
        "run_id",
        "redis_version",
        "valkey_version",
        "kvrocks_version",
        "mvcc_depth",
        "role",
        "redis_mode",
        "server_mode",
        "master_host",
        "master_port",
        "process_id",
        "uptime_in_seconds",
        "cluster_enabled",
        "loading",
        "async_loading",
        "loading_loaded_perc",
        "loading_eta_seconds",
        "master_link_status",
        "master_link_down_since_seconds",
        "master_sync_in_progress",
        "rdb_last_bgsave_status",
        "aof_last_write_status",
        "used_memory_rss",
        "used_memory",
        "mem_not_counted_for_evict",
        "maxmemory",
        "maxmemory_policy",
        "min_slaves_good_slaves",
        "errorstat_NOREPLICAS",
        "errorstat_OOM",
        "errorstat_MISCONF",
        "errorstat_READONLY",
        "errorstat_MASTERDOWN",
        "paused_actions",
        "connected_clients",
        "connected_slaves",
        "maxclients",
        "cluster_state",
        "tcp_port",
    ];

    fn value() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|n| n.to_string()),
            any::<u128>().prop_map(|n| n.to_string()),
            any::<u64>().prop_map(|n| format!("count={n}")),
            prop::sample::select(vec![
                "1",
                "0",
                "-1",
                "up",
                "down",
                "err",
                "ok",
                "master",
                "slave",
                "replica",
                "sentinel",
                "noeviction",
                "fail",
                "write",
                "True",
                "6.2.14",
                "7.0",
                "::1",
                "",
            ])
            .prop_map(str::to_owned),
            ".{0,80}",
        ]
    }

    proptest! {
        #[test]
        fn fields_are_the_lines_with_a_colon(text in "[a-zé:\r\n ]{0,80}") {
            let slow = text.split('\n').filter_map(|line| line.split_once(':')).map(|(k, v)| (k, v.trim_ascii_end()));
            prop_assert!(fields(&text).eq(slow));
        }

        /// Known fields with any values, followed by any changes of single characters.
        #[test]
        fn any_text_is_harmless(
            lines in proptest::collection::vec((0..KNOWN.len(), value()), 0..40),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<char>()), 0..4),
        ) {
            let text: String = lines.iter().map(|(n, value)| format!("{}:{value}\r\n", KNOWN[*n])).collect();
            let mut text: Vec<char> = text.chars().collect();
            for (at, c) in changes {
                if !text.is_empty() {
                    let at = at.index(text.len());
                    text[at] = c;
                }
            }
            let text: String = text.into_iter().collect();
            let info = parse(&text);
            crate::redis::restrictions::judge(&info, Some(&text), Default::default());
            prop_assert!(info.run_id.len() <= RUN_ID_BYTES_MAX && info.version.len() <= VERSION_BYTES_MAX);
        }
    }
}
