//! Configuration of the agent: raw as written, then validated into [`Config`].

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use crate::{
    cli::Cli,
    discovery,
    redis::{Credentials, Target},
    tls::Tls,
};
use redkeeper_core::{
    agent::{prober::ProbeConfig, schedule},
    ids::AgentId,
    limits::AGENT_INSTANCES_MAX,
    status::Identity,
};
use redkeeper_proto::convert;
use redkeeper_runtime::{
    config::{ConfigError, Problem, Sources},
    daemon::{Configuration, Log},
};

mod raw;

use raw::{Instance, Probe, Raw, RawTls};

/// Read if `--config` is not given and it exists.
pub const DEFAULT_FILE: &str = "/etc/redkeeper/agent.toml";

/// What is needed to look for instances.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// Where to look.
    pub settings: discovery::Settings,
    /// How often.
    pub interval: Duration,
    /// How long an instance that is not found any more is kept.
    pub forget_after: Duration,
    agent: String,
    probe: Probe,
    user: Option<String>,
    password_file: Option<String>,
}

impl DiscoveryConfig {
    /// How to probe what was found at an address.
    ///
    /// # Errors
    /// In words, when no instance can have this address.
    pub fn instance(&self, address: &str) -> Result<InstanceConfig, String> {
        let socket = address.rsplit('/').next().filter(|_| address.starts_with('/'));
        let entry = Instance {
            address: address.to_owned(),
            name: socket.map(|name| format!("{}:{name}", self.agent)),
            cluster: String::new(),
            labels: BTreeMap::new(),
            user: self.user.clone(),
            password_file: self.password_file.clone(),
            tls: None,
        };
        let mut problems = Vec::new();
        let found = instance(0, entry, &self.agent, &self.probe, &mut |_: &str, text| {
            problems.push(text)
        });
        match found {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems.join("; ")),
        }
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
    /// What to probe.
    pub instances: Vec<InstanceConfig>,
    /// Where to look for more.
    pub discovery: Option<DiscoveryConfig>,
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
}

/// Reads and validates everything.
///
/// # Errors
/// All mistakes, each with its place.
pub fn load(cli: &Cli, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
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
    let config = validate(raw, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(sources.error(problems)),
    }
}

fn validate(raw: Raw, problems: &mut Vec<Problem>) -> Option<Config> {
    let mut wrong = |path: &str, message: String| problems.push(Problem::new(path, message));
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default();
    let id = AgentId::new(raw.id.as_deref().unwrap_or(&host))
        .map_err(|e| wrong("id", format!("{e}; set `id` to a name for this host")))
        .ok();
    let admin_listen = raw
        .admin_listen
        .parse::<SocketAddr>()
        .map_err(|_| {
            wrong(
                "admin_listen",
                format!("{:?} is no ADDRESS:PORT such as 127.0.0.1:7420", raw.admin_listen),
            )
        })
        .ok();
    if raw.collectors.is_empty() {
        wrong(
            "collectors",
            "is empty; name the gRPC address of every collector".to_owned(),
        );
    }
    for (n, address) in raw.collectors.iter().enumerate() {
        if let Err(e) = host_port(address) {
            wrong(&format!("collectors.{n}"), e);
        }
        if raw.collectors[..n].contains(address) {
            wrong(&format!("collectors.{n}"), format!("{address} is named twice"));
        }
    }
    if raw.reload_drop_max_percent > 100 {
        let text = format!("{} is no share in percent", raw.reload_drop_max_percent);
        wrong("reload_drop_max_percent", text);
    }
    check_probe(&raw.probe, &mut wrong);
    let default = Instance {
        address: "127.0.0.1:6379".to_owned(),
        name: None,
        cluster: String::new(),
        labels: BTreeMap::new(),
        user: None,
        password_file: None,
        tls: None,
    };
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
    let mut seen = BTreeMap::new();
    let mut instances = Vec::new();
    for (n, entry) in list.into_iter().enumerate() {
        let Some(config) = instance(n, entry, &agent, &raw.probe, &mut wrong) else {
            continue;
        };
        if let Some(first) = seen.insert(config.identity.id.clone(), n) {
            let text = format!(
                "the id {} is already that of instances.{first}; give one a `name`",
                config.identity.id
            );
            wrong(&format!("instances.{n}"), text);
        }
        instances.push(config);
    }
    if raw.discovery.interval < Duration::from_secs(1) {
        let text = format!("{:?} is shorter than 1 s", raw.discovery.interval);
        wrong("discovery.interval", text);
    }
    if raw.discovery.user.is_some() && raw.discovery.password_file.is_none() {
        wrong("discovery.user", "needs a `password_file` too".to_owned());
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
        },
        interval: raw.discovery.interval,
        forget_after: raw.discovery.forget_after,
        agent,
        probe: raw.probe,
        user: raw.discovery.user,
        password_file: raw.discovery.password_file,
    });
    Some(Config {
        id: id?,
        discovery,
        host,
        collectors: raw.collectors,
        admin_listen: admin_listen?,
        shutdown_grace: raw.shutdown_grace,
        reload_drop_max_percent: raw.reload_drop_max_percent,
        log: raw.log,
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

fn instance(
    n: usize,
    entry: Instance,
    agent: &str,
    probe: &Probe,
    wrong: &mut impl FnMut(&str, String),
) -> Option<InstanceConfig> {
    let at = |key: &str| format!("instances.{n}.{key}");
    let endpoint = match entry.address.strip_prefix('/') {
        Some(_) => Ok(None),
        None => host_port(&entry.address).map(Some),
    };
    let endpoint = endpoint.map_err(|e| wrong(&at("address"), e)).ok()?;
    let id = match (&entry.name, endpoint) {
        (Some(name), _) => name.clone(),
        (None, Some((_, port))) => format!("{agent}:{port}"),
        (None, None) => {
            wrong(
                &at("name"),
                "is missing; an instance behind a Unix socket needs a name".to_owned(),
            );
            return None;
        }
    };
    let identity = convert::identity(&id, &entry.cluster, &entry.address, &entry.labels, agent)
        .map_err(|e| wrong(&at(if e.field == "id" { "name" } else { &e.field }), e.problem))
        .ok()?;
    if entry.user.is_some() && entry.password_file.is_none() {
        wrong(&at("user"), "needs a `password_file` too".to_owned());
    }
    let credentials = entry.password_file.map(|file| {
        let credentials = Credentials {
            user: entry.user,
            password_file: file.into(),
        };
        if let Err(e) = credentials.password() {
            wrong(
                &at("password_file"),
                format!("{e}; make it readable for the agent's user"),
            );
        }
        credentials
    });
    let tls = entry
        .tls
        .and_then(|raw| tls(raw, &entry.address, &mut |key: &str, text| wrong(&at(key), text)));
    let probe = ProbeConfig {
        interval: probe.interval,
        phase: schedule::phase(&identity.id, probe.interval),
        connect_timeout: probe.connect_timeout,
        hang_after: probe.hang_after,
        info_interval: probe.info_interval,
        connect_interval: probe.connect_interval,
        successes_before_up: probe.successes_before_up,
        failures_before_down: probe.failures_before_down,
        authenticate: credentials.is_some(),
    };
    Some(InstanceConfig {
        target: Arc::new(Target {
            address: entry.address,
            credentials,
            tls,
        }),
        identity,
        probe,
    })
}

fn tls(raw: RawTls, address: &str, wrong: &mut impl FnMut(&str, String)) -> Option<Tls> {
    if address.starts_with('/') {
        wrong(
            "tls",
            "is not spoken over a Unix socket; remove one of both".to_owned(),
        );
        return None;
    }
    if raw.cert_file.is_some() != raw.key_file.is_some() {
        wrong("tls", "needs both of cert_file and key_file, or none".to_owned());
        return None;
    }
    let tls = Tls {
        ca_file: raw.ca_file.into(),
        client: raw
            .cert_file
            .zip(raw.key_file)
            .map(|(cert, key)| (cert.into(), key.into())),
        server_name: raw.server_name,
    };
    if let Err(e) = tls.load() {
        wrong(
            "tls",
            format!("{e}; make it a PEM file that the agent's user can read"),
        );
    }
    if let Err(e) = tls.name(address) {
        wrong("tls", e);
    }
    Some(tls)
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
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        load(
            &Cli {
                config: Some(file.path().to_owned()),
                ..Cli::default()
            },
            [],
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
            ":12:1: instances.1.password_file: ",
            ":14:1: instances.2: the id h:1 is already that of instances.1",
        ] {
            assert!(error.contains(part), "{part}\nnot in\n{error}");
        }
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
