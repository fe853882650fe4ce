//! The agent's configuration as written, with its defaults, before validation.

use std::{collections::BTreeMap, time::Duration};

use redkeeper_runtime::daemon::{DebugPages, Log};
use serde::{Deserialize, Serialize};

use crate::{host::owner::DEFAULT_OWNERS, redis::tls::Verify};

/// Globs of server process names: distributions put versions into them, such as `redis6-server`. Sentinel and
/// docker-proxy are listed so that discovery can explain why they are rejected.
pub(crate) const PROCESS_NAMES: [&str; 10] = [
    "redis*-server*",
    "valkey*-server*",
    "keydb*-server*",
    "codis-server*",
    "dragonfly*",
    "kvrocks*",
    "[Gg]arnet*",
    "redis*-sentinel*",
    "valkey*-sentin*",
    "docker-proxy",
];

#[derive(Deserialize, Serialize, Debug)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Raw {
    pub(super) id: Option<String>,
    pub(super) collectors: Vec<String>,
    pub(super) admin_listen: String,
    #[serde(with = "humantime_serde")]
    pub(super) shutdown_grace: Duration,
    pub(super) reload_drop_max_percent: u8,
    pub(super) log: Log,
    pub(super) debug: DebugPages,
    pub(super) probe: Probe,
    pub(super) discovery: Discovery,
    pub(super) access: Vec<Access>,
    pub(super) instances: Option<Vec<Instance>>,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            id: None,
            collectors: vec!["127.0.0.1:7400".to_owned()],
            admin_listen: "127.0.0.1:7420".to_owned(),
            shutdown_grace: Duration::from_secs(5),
            reload_drop_max_percent: 50,
            log: Log::default(),
            debug: DebugPages::default(),
            probe: Probe::default(),
            discovery: Discovery::default(),
            access: Vec::new(),
            instances: None,
        }
    }
}

#[derive(Deserialize, Serialize, Debug, Clone)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Discovery {
    pub(super) config_files: Vec<String>,
    pub(super) processes: bool,
    pub(super) names: Vec<String>,
    pub(super) ignore: Vec<String>,
    pub(super) password_users: Vec<String>,
    #[serde(with = "humantime_serde")]
    pub(super) interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) forget_after: Duration,
    pub(super) state_file: Option<String>,
}

impl Default for Discovery {
    fn default() -> Self {
        Self {
            config_files: Vec::new(),
            processes: false,
            names: PROCESS_NAMES.map(str::to_owned).to_vec(),
            ignore: Vec::new(),
            password_users: DEFAULT_OWNERS.map(str::to_owned).to_vec(),
            interval: Duration::from_secs(30),
            forget_after: Duration::from_secs(600),
            state_file: None,
        }
    }
}

impl Discovery {
    pub(super) fn is_on(&self) -> bool {
        self.processes || !self.config_files.is_empty()
    }
}

#[derive(Deserialize, Serialize, Debug, Clone)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Probe {
    #[serde(with = "humantime_serde")]
    pub(super) interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) hang_after: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) info_interval: Duration,
    #[serde(with = "humantime_serde")]
    pub(super) connect_interval: Duration,
    pub(super) successes_before_up: u32,
    pub(super) failures_before_down: u32,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(1),
            hang_after: Duration::from_secs(3),
            info_interval: Duration::from_secs(10),
            connect_interval: Duration::from_secs(60),
            successes_before_up: 2,
            failures_before_down: 3,
        }
    }
}

#[derive(Deserialize, Serialize, Debug)]
#[serde(deny_unknown_fields)]
pub(super) struct Instance {
    pub(super) address: String,
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) cluster: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) password_credential: Option<String>,
    pub(super) tls: Option<RawTls>,
}

impl Instance {
    /// An entry with an address and nothing else.
    pub(super) fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            name: None,
            cluster: String::new(),
            labels: BTreeMap::new(),
            user: None,
            password_file: None,
            password_credential: None,
            tls: None,
        }
    }
}

/// How to connect to instances whose address matches; settings of the instance itself take precedence.
#[derive(Deserialize, Serialize, Debug, Clone, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct Access {
    pub(super) addresses: Vec<String>,
    pub(super) user: Option<String>,
    pub(super) password_file: Option<String>,
    pub(super) password_credential: Option<String>,
    pub(super) tls: Option<RawTls>,
}

#[derive(Deserialize, Serialize, Debug, Clone)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) ca_file: String,
    pub(super) cert_file: Option<String>,
    pub(super) key_file: Option<String>,
    pub(super) server_name: Option<String>,
    #[serde(default)]
    pub(super) verify: Verify,
}
