//! The agent's configuration: parsed as written, then validated into [`Config`].

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use glob::Pattern;
use redkeeper_core::{ids::AgentId, probe::ProbeConfig, status::Identity};
use redkeeper_runtime::{
    config::{ConfigError, EffectiveConfig, Sources},
    daemon::{DebugPages, Log},
};

use crate::{cli::Cli, redis::Target};

use access_rules::Rules;
use address_pattern::Placed;
pub(crate) use raw::PROCESS_NAMES;
use raw::Raw;
pub use required_files::NeededFiles;
use validate::validate;

mod access_rules;
mod address_pattern;
mod raw;
mod required_files;
mod validate;

/// Configuration file that is read if `--config` is not given and this file exists.
pub const DEFAULT_FILE: &str = "/etc/redkeeper/agent.toml";

/// Folders that systemd passes to a service through the environment.
struct Folders {
    /// Folder of `LoadCredential=`.
    credentials: Option<PathBuf>,
    /// State file of discovery, in the folder of `StateDirectory=`.
    state: Option<PathBuf>,
}

/// Where discovery looks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoverySettings {
    /// Globs of configuration files.
    pub config_files: Vec<String>,
    /// Globs of process names to inspect; empty if processes are not inspected.
    pub process_names: Vec<String>,
    /// Addresses that are ignored.
    pub ignore: Vec<Pattern>,
}

/// Settings of discovery, and the rules for what it finds.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Where to look.
    pub settings: DiscoverySettings,
    /// Time between two scans.
    pub interval: Duration,
    /// How long an instance is kept after it was last found.
    pub forget_after: Duration,
    /// File in which discovered instances are stored; not stored if absent.
    pub state_file: Option<PathBuf>,
    rules: Rules,
}

impl DiscoveryConfig {
    /// Builds the configuration of the instance at a discovered address.
    ///
    /// # Errors
    /// When no instance can have this address; the text says why.
    pub fn instance(&self, address: &str) -> Result<InstanceConfig, String> {
        self.rules.discovered(address, None)
    }

    /// Like [`instance`](Self::instance), with the given id.
    ///
    /// # Errors
    /// When no instance can have this address or id; the text says why.
    pub fn instance_as(&self, address: &str, id: &str) -> Result<InstanceConfig, String> {
        self.rules.discovered(address, Some(id))
    }

    /// An id that contains the whole address, for use when another instance has the default one.
    pub fn long_id(&self, address: &str) -> String {
        self.rules.long_id(address)
    }
}

/// One instance to probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceConfig {
    /// Id, cluster and address.
    pub identity: Identity,
    /// How to reach it.
    pub target: Arc<Target>,
    /// How to probe it.
    pub probe: ProbeConfig,
}

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this agent.
    pub id: AgentId,
    /// Host name, for display only.
    pub host: String,
    /// gRPC addresses of the collectors, `host:port`.
    pub collectors: Vec<String>,
    /// Address of the embedded HTTP server.
    pub admin_listen: SocketAddr,
    /// How long shutdown may take.
    pub shutdown_grace: Duration,
    /// A reload that drops a larger share of the instances, in percent, must be confirmed.
    pub reload_drop_max_percent: u8,
    /// Log settings.
    pub log: Log,
    /// Settings of the pages below `/debug/`.
    pub debug: DebugPages,
    /// All values as written, with their origins.
    pub values: EffectiveConfig,
    /// Human-readable remarks on a valid configuration.
    pub notes: Vec<String>,
    /// Files that instances need.
    pub files: NeededFiles,
    /// Address globs; each should match at least one address.
    patterns: Vec<Placed>,
    /// Configured instances.
    pub instances: Vec<InstanceConfig>,
    /// Discovery of further instances; off if absent.
    pub discovery: Option<DiscoveryConfig>,
    rules: Rules,
}

/// First parts of the keys that a reload applies.
const RELOADED: [&str; 5] = [
    "access",
    "discovery",
    "instances",
    "probe",
    "reload_drop_max_percent",
];

impl Config {
    /// Takes from a newer configuration what changes without a restart.
    pub(crate) fn reload(&mut self, newer: Self) {
        self.values.reload(&newer.values, &RELOADED);
        self.instances = newer.instances;
        self.reload_drop_max_percent = newer.reload_drop_max_percent;
        self.discovery = newer.discovery;
        self.files = newer.files;
    }

    /// Returns discovery as configured, or with these settings if it is off.
    pub fn discovery_or(&self, settings: DiscoverySettings) -> DiscoveryConfig {
        self.discovery.clone().unwrap_or(DiscoveryConfig {
            settings,
            interval: Duration::MAX,
            forget_after: Duration::MAX,
            state_file: None,
            rules: self.rules.clone(),
        })
    }

    /// Reports the address globs that match neither a configured address nor one that `find` returns, one line each.
    /// `find` is called only if there are globs and discovery is on.
    pub(crate) fn unmatched_patterns(
        &self,
        find: impl FnOnce(&DiscoverySettings) -> Vec<String>,
    ) -> Vec<String> {
        if self.patterns.is_empty() {
            return Vec::new();
        }
        let configured = self.instances.iter().map(|one| one.target.address.clone());
        let settings = self.discovery.as_ref().map(|discovery| &discovery.settings);
        let found = settings.map(find).unwrap_or_default();
        let addresses: Vec<_> = configured.chain(found).collect();
        address_pattern::unmatched(&self.patterns, &addresses)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {}, {} instance(s)", self.id, self.instances.len())
    }
}

/// Reads and validates everything.
///
/// # Errors
/// All mistakes, each with its position.
pub fn load(cli: &Cli, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let env: Vec<_> = env.into_iter().collect();
    let folder = |name: &str| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, path)| PathBuf::from(path))
    };
    let folders = Folders {
        credentials: folder("CREDENTIALS_DIRECTORY"),
        state: folder("STATE_DIRECTORY").map(|folder| folder.join("discovered.json")),
    };
    let mut flags = BTreeMap::new();
    if let Some(id) = &cli.id {
        flags.insert("id".to_owned(), id.clone().into());
    }
    if let Some(collectors) = &cli.collectors {
        flags.insert("collectors".to_owned(), collectors.clone().into());
    }
    let sources = Sources::read(cli.config.as_deref(), Path::new(DEFAULT_FILE), env, flags)?;
    let raw: Raw = sources.extract()?;
    let mut problems = Vec::new();
    let config = validate(raw, folders, &mut problems);
    let placed = |one: &Placed| Placed {
        place: sources.place_of(&one.place),
        ..one.clone()
    };
    match config {
        Some(config) if problems.is_empty() => Ok(Config {
            notes: sources.notes(),
            values: EffectiveConfig::of::<Raw>(sources.clone()),
            files: config.files.clone().placed(|key| sources.place_of(key)),
            patterns: config.patterns.iter().map(placed).collect(),
            ..config
        }),
        _ => Err(sources.error(problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Config, ConfigError> {
        check_with(text, [])
    }

    fn check_with(
        text: &str,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(
            &Cli {
                config: Some(file.path().to_owned()),
                ..Cli::default()
            },
            env,
        )
    }

    #[test]
    fn without_anything_the_local_instance_is_probed() {
        let config = check("id = 'h'").unwrap();
        assert_eq!(config.instances[0].identity.id.as_str(), "h:6379");
        assert_eq!(&*config.instances[0].identity.address, "127.0.0.1:6379");
    }

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let text = "id = 'h'\n\n[probe]\ninterval = '1s'\nhang_after = '1s'\n\n[[instances]]\naddress = 'nowhere'\n\n\
                    [[instances]]\naddress = '127.0.0.1:1'\npassword_file = '/no/such/file'\n\n\
                    [[instances]]\naddress = '127.0.0.1:1'\n";
        let error = check(text).unwrap_err().to_string();
        for part in [
            ":5:1: probe.hang_after: 1s is less than two intervals",
            ":8:1: instances.0.address: \"nowhere\" has no port; write it as HOST:PORT",
            ":14:1: instances.2: the id h:1 is already that of instances.1",
        ] {
            assert!(error.contains(part), "{part}\nnot in\n{error}");
        }
    }

    #[test]
    fn access_is_given_by_pattern_and_by_systemd() {
        let text = "id = 'h'\n[[access]]\naddresses = ['10.0.0.*:*', '/run/*']\nuser = 'redkeeper'\n\
                    password_credential = 'redis'\n[[instances]]\naddress = '10.0.0.7:6379'\n\
                    [[instances]]\naddress = '127.0.0.1:6379'\nname = 'other'\n\
                    [[instances]]\naddress = '/run/redis.sock'\nname = 'socket'\n";
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("redis"), "secret\n").unwrap();
        let env = (
            "CREDENTIALS_DIRECTORY".to_owned(),
            folder.path().display().to_string(),
        );
        let config = check_with(text, [env]).unwrap();
        let users = config.instances.iter().map(|i| {
            let credentials = i.target.credentials.as_ref()?;
            assert_eq!(credentials.password().unwrap(), b"secret");
            credentials.user.as_deref()
        });
        assert_eq!(
            users.collect::<Vec<_>>(),
            [Some("redkeeper"), None, Some("redkeeper")]
        );

        // A missing credentials folder does not prevent the start; the instance that needs the password reports it.
        let faults = check(text).unwrap().files.faults().join("\n");
        assert!(
            faults.contains("access.0.password_file: $CREDENTIALS_DIRECTORY (not set by systemd"),
            "{faults}"
        );
        let twice =
            "id = 'h'\n[[access]]\naddresses = ['[']\npassword_file = '/a'\npassword_credential = 'b'\n";
        let error = check(twice).unwrap_err().to_string();
        for part in [
            ":3:",
            "is not a valid pattern",
            "access.0.password_credential: is named beside",
        ] {
            assert!(error.contains(part), "{part} not in {error}");
        }
        // The mistake is not repeated for each matching instance.
        let everywhere = format!(
            "{}[[instances]]\naddress = '127.0.0.1:1'\n",
            twice.replace("'['", "'*'")
        );
        let error = check(&everywhere).unwrap_err();
        assert_eq!(error.lines().len(), 1, "{error}");
    }

    #[test]
    fn a_number_is_no_duration() {
        let error = check("id = 'h'\n[probe]\ninterval = 5\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(":3:1: probe.interval: ") && error.contains("\"500ms\""),
            "{error}"
        );
    }
}
