//! Configuration of the agent: raw as written, then validated into [`Config`].

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use redkeeper_core::{
    hosts::{self, HostPort},
    ids::AgentId,
    limits::AGENT_INSTANCES_MAX,
    probe::ProbeConfig,
    status::Identity,
};
use redkeeper_runtime::{
    config::{ConfigError, Problem, Sources},
    daemon::{Configuration, Log, listen_address},
};

use crate::{cli::Cli, discovery, redis::Target};

use access::Rules;
use address_pattern::Placed;
pub use files::NeededFiles;
use raw::{Instance, Probe, Raw};

mod access;
mod address_pattern;
mod files;
mod raw;

/// Port of a collector where none is named.
const COLLECTOR_PORT: u16 = 7400;

/// Read if `--config` is not given and it exists.
pub const DEFAULT_FILE: &str = "/etc/redkeeper/agent.toml";

/// What systemd gives to a service by the environment.
struct Folders {
    /// Of `LoadCredential=`.
    credentials: Option<PathBuf>,
    /// What discovery remembers, in the folder of `StateDirectory=`.
    state: Option<PathBuf>,
}

/// What is needed to look for instances.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Where to look.
    pub settings: discovery::Settings,
    /// How often.
    pub interval: Duration,
    /// How long an instance that is not found any more is kept.
    pub forget_after: Duration,
    /// Where what was discovered is remembered; nowhere if absent.
    pub state_file: Option<PathBuf>,
    rules: Rules,
}

impl DiscoveryConfig {
    /// How to probe what was found at an address.
    ///
    /// # Errors
    /// In words, when no instance can have this address.
    pub fn instance(&self, address: &str) -> Result<InstanceConfig, String> {
        self.rules.discovered(address, None)
    }

    /// The same, with this id.
    ///
    /// # Errors
    /// In words, when no instance can have this address or id.
    pub fn instance_as(&self, address: &str, id: &str) -> Result<InstanceConfig, String> {
        self.rules.discovered(address, Some(id))
    }

    /// An id that tells the whole address, where the usual one is another's.
    pub fn long_id(&self, address: &str) -> String {
        self.rules.long_id(address)
    }
}

/// One instance to probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InstanceConfig {
    /// Name, group, address.
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
    /// Host name, for people.
    pub host: String,
    /// gRPC addresses of the collectors, `host:port`.
    pub collectors: Vec<String>,
    /// Address of the embedded HTTP server.
    pub admin_listen: SocketAddr,
    /// How long shutdown may take.
    pub shutdown_grace: Duration,
    /// A reload that drops a larger share of the instances, in percent, must be confirmed.
    pub reload_drop_max_percent: u8,
    /// Logs.
    pub log: Log,
    /// What a person should know about it.
    pub notes: Vec<String>,
    /// Files that instances need.
    pub files: NeededFiles,
    /// Globs of addresses, which should match something.
    patterns: Vec<Placed>,
    /// What to probe.
    pub instances: Vec<InstanceConfig>,
    /// Where to look for more.
    pub discovery: Option<DiscoveryConfig>,
    rules: Rules,
}

impl Config {
    /// Discovery as configured, or with these settings where it is off.
    pub fn discovery_or(&self, settings: discovery::Settings) -> DiscoveryConfig {
        self.discovery.clone().unwrap_or(DiscoveryConfig {
            settings,
            interval: Duration::MAX,
            forget_after: Duration::MAX,
            state_file: None,
            rules: self.rules.clone(),
        })
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "agent {}, {} instance(s)", self.id, self.instances.len())
    }
}

impl Configuration for Config {
    fn log(&self) -> &Log {
        &self.log
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = self.files.faults();
        if !self.patterns.is_empty() {
            let configured = self.instances.iter().map(|one| one.target.address.clone());
            let settings = self.discovery.as_ref().map(|discovery| &discovery.settings);
            let found = settings.map(discovery::addresses).unwrap_or_default();
            let addresses: Vec<_> = configured.chain(found).collect();
            faults.extend(address_pattern::unmatched(&self.patterns, &addresses));
        }
        faults
    }
}

/// Reads and validates everything.
///
/// # Errors
/// All mistakes, each with its place.
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
            files: config.files.clone().placed(|key| sources.place_of(key)),
            patterns: config.patterns.iter().map(placed).collect(),
            ..config
        }),
        _ => Err(sources.error(problems)),
    }
}

fn validate(raw: Raw, folders: Folders, problems: &mut Vec<Problem>) -> Option<Config> {
    problems.extend(raw.log.problems());
    let mut wrong = |path: &str, message: String| problems.push(Problem::new(path, message));
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let id = AgentId::new(raw.id.as_deref().unwrap_or(&host))
        .map_err(|e| wrong("id", format!("{e}; set `id` to a name for this host")))
        .ok();
    let admin_listen = listen_address(&raw.admin_listen, "127.0.0.1:7420")
        .map_err(|e| wrong("admin_listen", e))
        .ok();
    if raw.collectors.is_empty() {
        wrong(
            "collectors",
            "is empty; name the gRPC address of every collector".to_owned(),
        );
    }
    let mut collectors: Vec<String> = Vec::new();
    for (n, text) in raw.collectors.iter().enumerate() {
        match hosts::list(text, Some(COLLECTOR_PORT)) {
            Ok(listed) => {
                for address in listed.iter().map(HostPort::to_string) {
                    if collectors.contains(&address) {
                        wrong(&format!("collectors.{n}"), format!("{address} is named twice"));
                    }
                    collectors.push(address);
                }
            }
            Err(e) => wrong(&format!("collectors.{n}"), e.to_string()),
        }
    }
    if raw.reload_drop_max_percent > 100 {
        let text = format!("{} is no share in percent", raw.reload_drop_max_percent);
        wrong("reload_drop_max_percent", text);
    }
    check_probe(&raw.probe, &mut wrong);
    let default = Instance::at("127.0.0.1:6379");
    let discovers = raw.discovery.is_on();
    let list = raw
        .instances
        .unwrap_or_else(|| if discovers { Vec::new() } else { vec![default] });
    if list.len() > AGENT_INSTANCES_MAX {
        wrong(
            "instances",
            format!(
                "has {} entries, at most {AGENT_INSTANCES_MAX} are allowed",
                list.len()
            ),
        );
    }
    let agent = id.as_ref().map_or("", AgentId::as_str).to_owned();
    let rules = Rules::new(
        agent,
        raw.probe,
        raw.access,
        folders.credentials,
        raw.discovery.password_users.clone(),
        &mut wrong,
    );
    let mut seen = BTreeMap::new();
    let (mut instances, mut files) = (Vec::new(), rules.files.clone());
    for (n, pattern) in raw.discovery.config_files.iter().enumerate() {
        let key = format!("discovery.config_files.{n}");
        match glob::Pattern::new(pattern) {
            Ok(_) => files.add_pattern(key, pattern.clone()),
            Err(e) => wrong(&key, format!("{pattern:?} is no pattern: {e}")),
        }
    }
    for (n, entry) in list.into_iter().enumerate() {
        let mut wrong_here = |key: &str, text| wrong(&format!("instances.{n}.{key}"), text);
        let Some(config) = rules.instance(entry, &mut wrong_here) else {
            continue;
        };
        if let Some(first) = seen.insert(config.identity.id.clone(), n) {
            let text = format!(
                "the id {} is already that of instances.{first}; give one a `name`",
                config.identity.id
            );
            wrong(&format!("instances.{n}"), text);
        }
        files.add(&format!("instances.{n}"), &config.target);
        instances.push(config);
    }
    if raw.discovery.interval < Duration::from_secs(1) {
        let text = format!("{:?} is shorter than 1 s", raw.discovery.interval);
        wrong("discovery.interval", text);
    }
    for (n, name) in raw.discovery.names.iter().enumerate() {
        if let Err(e) = glob::Pattern::new(name) {
            wrong(
                &format!("discovery.names.{n}"),
                format!("{name:?} is no pattern: {e}"),
            );
        }
    }
    let (mut ignore, mut patterns) = (Vec::new(), rules.patterns.clone());
    for (n, text) in raw.discovery.ignore.iter().enumerate() {
        let place = format!("discovery.ignore.{n}");
        match address_pattern::address_pattern(text) {
            Ok(pattern) => {
                ignore.push(pattern.clone());
                patterns.push(Placed {
                    place,
                    pattern,
                    text: text.clone(),
                });
            }
            Err(e) => wrong(&place, format!("{text:?} is no pattern: {e}")),
        }
    }
    let names = if raw.discovery.processes {
        raw.discovery.names
    } else {
        Vec::new()
    };
    let discovery = discovers.then_some(DiscoveryConfig {
        settings: discovery::Settings {
            config_files: raw.discovery.config_files,
            process_names: names,
            ignore,
        },
        interval: raw.discovery.interval,
        forget_after: raw.discovery.forget_after,
        state_file: raw.discovery.state_file.map(PathBuf::from).or(folders.state),
        rules: rules.clone(),
    });
    Some(Config {
        rules,
        id: id?,
        discovery,
        host,
        collectors,
        admin_listen: admin_listen?,
        shutdown_grace: raw.shutdown_grace,
        reload_drop_max_percent: raw.reload_drop_max_percent,
        log: raw.log,
        notes: Vec::new(),
        files,
        patterns,
        instances,
    })
}

fn check_probe(probe: &Probe, wrong: &mut impl FnMut(&str, String)) {
    let mut range = |key: &str, value: Duration, min: u64, max: u64| {
        if value < Duration::from_millis(min) || value > Duration::from_millis(max) {
            wrong(
                &format!("probe.{key}"),
                format!("{value:?} is outside of {min} ms to {max} ms"),
            );
        }
    };
    range("interval", probe.interval, 10, 60_000);
    range("connect_timeout", probe.connect_timeout, 10, 60_000);
    range("hang_after", probe.hang_after, 50, 600_000);
    range("info_interval", probe.info_interval, 100, 3_600_000);
    range("connect_interval", probe.connect_interval, 1_000, 86_400_000);
    if probe.hang_after < probe.interval * 2 {
        let text = format!(
            "{:?} is less than two intervals; one late reply would count as a hang",
            probe.hang_after
        );
        wrong("probe.hang_after", text);
    }
    if probe.successes_before_up == 0 || probe.successes_before_up > 100 {
        wrong("probe.successes_before_up", "must be 1 to 100".to_owned());
    }
    if probe.failures_before_down == 0 || probe.failures_before_down > 100 {
        wrong("probe.failures_before_down", "must be 1 to 100".to_owned());
    }
}

fn host_port(text: &str) -> Result<(String, u16), String> {
    let problem = || format!("{text:?} is no HOST:PORT such as 127.0.0.1:6379 or [::1]:6379");
    let (host, port) = text.rsplit_once(':').ok_or_else(problem)?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0).ok_or_else(problem)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if host.is_empty() || (bare.is_none() && host.contains(':')) {
        return Err(problem());
    }
    Ok((host.to_owned(), port))
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
            ":8:1: instances.0.address: \"nowhere\" is no HOST:PORT",
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

        // Without systemd's folder nothing is stopped; what needs the password says so.
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
            "is no pattern",
            "access.0.password_credential: is named beside",
        ] {
            assert!(error.contains(part), "{part} not in {error}");
        }
        // Not for each instance that it matches again.
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
