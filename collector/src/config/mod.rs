//! Configuration of the collector: raw as written, then validated into [`Config`].

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::Path, time::Duration};

use redkeeper_core::{
    fleet::BrakeSettings,
    hosts::{self, HostError},
    ids::CollectorId,
    relay_plan::overdue_after,
};
use redkeeper_runtime::{
    config::{ConfigError, Dict, EffectiveConfig, Problem, Sources},
    daemon::{Configuration, DebugPages, Log, listen_address},
};
use serde::{Deserialize, Serialize};

use self::places::{advertised, check_root, joined, reachable};
use crate::{cli::Cli, store::servers::ZOOKEEPER_PORT};

mod places;

/// Configuration file that is read when `--config` is not given, if it exists.
pub const DEFAULT_FILE: &str = "/etc/redkeeper/collector.toml";

#[derive(Deserialize, Serialize, Debug)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    id: Option<String>,
    standalone: bool,
    grpc_listen: String,
    advertise: Option<String>,
    http_listen: String,
    admin_listen: String,
    #[serde(with = "humantime_serde")]
    heartbeat_interval: Duration,
    #[serde(with = "humantime_serde")]
    silent_after: Duration,
    #[serde(with = "humantime_serde")]
    freshness_interval: Duration,
    #[serde(with = "humantime_serde")]
    shutdown_grace: Duration,
    brake: Brake,
    zookeeper: ZooKeeper,
    log: Log,
    debug: DebugPages,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            id: None,
            standalone: false,
            grpc_listen: "0.0.0.0:7400".to_owned(),
            advertise: None,
            http_listen: "0.0.0.0:7401".to_owned(),
            admin_listen: "127.0.0.1:7402".to_owned(),
            heartbeat_interval: Duration::from_secs(1),
            silent_after: Duration::from_secs(3),
            freshness_interval: Duration::from_secs(5),
            shutdown_grace: Duration::from_secs(10),
            brake: Brake::default(),
            zookeeper: ZooKeeper::default(),
            log: Log::default(),
            debug: DebugPages::default(),
        }
    }
}

#[derive(Deserialize, Serialize, Debug)]
#[serde(default, deny_unknown_fields)]
struct Brake {
    min_agents: usize,
    share: f64,
    #[serde(with = "humantime_serde")]
    hold: Duration,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            min_agents: 3,
            share: 0.5,
            hold: Duration::from_secs(60),
        }
    }
}

#[derive(Deserialize, Serialize, Debug)]
#[serde(default, deny_unknown_fields)]
struct ZooKeeper {
    servers: String,
    root: String,
    #[serde(with = "humantime_serde")]
    session_timeout: Duration,
    orphans_max_percent: u8,
}

impl Default for ZooKeeper {
    fn default() -> Self {
        Self {
            servers: "127.0.0.1:2181".to_owned(),
            root: "/redkeeper".to_owned(),
            session_timeout: Duration::from_secs(10),
            orphans_max_percent: 10,
        }
    }
}

/// The ZooKeeper to which statuses are published.
#[derive(Clone, Debug)]
pub struct ZooKeeperConfig {
    /// `host:port,host:port`.
    pub servers: String,
    /// Root path of all znodes.
    pub root: String,
    /// Requested session time-out.
    pub session_timeout: Duration,
    /// Largest share of the statuses that may be deleted as orphans, in percent.
    pub orphans_max_percent: u8,
}

/// The validated configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this collector.
    pub id: CollectorId,
    /// gRPC listen address.
    pub grpc_listen: SocketAddr,
    /// gRPC address that is given to others.
    pub advertise: String,
    /// HTTP listen address for everybody.
    pub http_listen: SocketAddr,
    /// HTTP listen address for the operator of this host.
    pub admin_listen: SocketAddr,
    /// Interval of the agents' heartbeats.
    pub heartbeat_interval: Duration,
    /// Silence after which an agent's instances are UNKNOWN.
    pub silent_after: Duration,
    /// Time between two freshness marks in ZooKeeper.
    pub freshness_interval: Duration,
    /// How long shutdown may take.
    pub shutdown_grace: Duration,
    /// When statuses are held in a mass silence.
    pub brake: BrakeSettings,
    /// ZooKeeper; `None` when standalone.
    pub zookeeper: Option<ZooKeeperConfig>,
    /// Log settings.
    pub log: Log,
    /// Settings of the pages below `/debug/`.
    pub debug: DebugPages,
    /// All values as written, with their origins.
    pub values: EffectiveConfig,
    /// Remarks on this configuration that an operator should read.
    pub notes: Vec<String>,
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "collector {}", self.id)
    }
}

impl Configuration for Config {
    fn log(&self) -> &Log {
        &self.log
    }

    fn debug(&self) -> &DebugPages {
        &self.debug
    }

    fn notes(&self) -> &[String] {
        &self.notes
    }
}

/// Reads and validates the configuration.
///
/// # Errors
/// All mistakes, each with its position.
pub fn load(cli: &Cli, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let mut flags = BTreeMap::new();
    if let Some(id) = &cli.id {
        flags.insert("id".to_owned(), id.clone().into());
    }
    if cli.standalone {
        flags.insert("standalone".to_owned(), true.into());
    }
    if let Some(servers) = &cli.zookeeper {
        let inner: Dict = [("servers".to_owned(), servers.clone().into())].into();
        flags.insert("zookeeper".to_owned(), inner.into());
    }
    let sources = Sources::read(cli.config.as_deref(), Path::new(DEFAULT_FILE), env, flags)?;
    let raw: Raw = sources.extract()?;
    let mut problems = Vec::new();
    match validate(raw, &mut problems) {
        Some(config) if problems.is_empty() => Ok(Config {
            notes: sources.notes(),
            values: EffectiveConfig::of::<Raw>(sources),
            ..config
        }),
        _ => Err(sources.error(problems)),
    }
}

fn validate(raw: Raw, problems: &mut Vec<Problem>) -> Option<Config> {
    problems.extend(raw.log.problems());
    let mut wrong = |path: &str, message: String| problems.push(Problem::new(path, message));
    let default_id = if raw.standalone { "standalone" } else { "" };
    let id = CollectorId::new(raw.id.as_deref().unwrap_or(default_id))
        .map_err(|e| {
            wrong(
                "id",
                format!("{e}; give each collector a name of its own, such as \"a\""),
            )
        })
        .ok();
    let mut address = |key: &str, text: &str| {
        let parsed = listen_address(text, "127.0.0.1:7400");
        parsed.map_err(|e| wrong(key, e)).ok()
    };
    let grpc_listen = address("grpc_listen", &raw.grpc_listen);
    let http_listen = address("http_listen", &raw.http_listen);
    let admin_listen = address("admin_listen", &raw.admin_listen);
    let mut range = |key: &str, value: Duration, min: u64, max: u64| {
        if value < Duration::from_millis(min) || value > Duration::from_millis(max) {
            wrong(key, format!("{value:?} is outside of {min} ms to {max} ms"));
        }
    };
    range("heartbeat_interval", raw.heartbeat_interval, 20, 60_000);
    range("silent_after", raw.silent_after, 100, 600_000);
    range("freshness_interval", raw.freshness_interval, 100, 60_000);
    range("shutdown_grace", raw.shutdown_grace, 100, 600_000);
    range(
        "zookeeper.session_timeout",
        raw.zookeeper.session_timeout,
        400,
        120_000,
    );
    range("brake.hold", raw.brake.hold, 0, 86_400_000);
    if !(0.0..=1.0).contains(&raw.brake.share) {
        wrong(
            "brake.share",
            format!("{} is not between 0 and 1", raw.brake.share),
        );
    }
    if raw.zookeeper.orphans_max_percent > 100 {
        let text = format!(
            "{} must be between 0 and 100 percent",
            raw.zookeeper.orphans_max_percent
        );
        wrong("zookeeper.orphans_max_percent", text);
    }
    if raw.silent_after < raw.heartbeat_interval * 2 {
        let text = format!(
            "{:?} is less than two heartbeats; one late heartbeat would silence an agent",
            raw.silent_after
        );
        wrong("silent_after", text);
    }
    let root = raw.zookeeper.root.trim_end_matches('/').to_owned();
    if let Err(e) = check_root(&root) {
        wrong("zookeeper.root", format!("{root:?} {e}"));
    }
    let servers = hosts::list(&raw.zookeeper.servers, Some(ZOOKEEPER_PORT));
    if let (false, Err(e)) = (raw.standalone, &servers) {
        let path = matches!(e, HostError::Path(_));
        let hint = if path { "; the path is `root`" } else { "" };
        wrong("zookeeper.servers", format!("{e}{hint}"));
    }
    let port = grpc_listen.map_or(7400, |address| address.port());
    let advertise = raw.advertise.as_deref().map(|text| advertised(text, port));
    if let Some(Err(e)) = &advertise {
        wrong("advertise", e.clone());
    }
    let zookeeper = (!raw.standalone).then_some(ZooKeeperConfig {
        servers: servers.map(joined).unwrap_or_default(),
        root,
        session_timeout: raw.zookeeper.session_timeout,
        orphans_max_percent: raw.zookeeper.orphans_max_percent,
    });
    let grpc_listen = grpc_listen?;
    Some(Config {
        id: id?,
        grpc_listen,
        advertise: advertise
            .and_then(Result::ok)
            .unwrap_or_else(|| reachable(grpc_listen)),
        http_listen: http_listen?,
        admin_listen: admin_listen?,
        heartbeat_interval: raw.heartbeat_interval,
        silent_after: raw.silent_after,
        freshness_interval: raw.freshness_interval,
        shutdown_grace: raw.shutdown_grace,
        brake: BrakeSettings {
            min_agents: raw.brake.min_agents,
            share: raw.brake.share,
            hold: raw.brake.hold,
            overdue_after: overdue_after(raw.heartbeat_interval, raw.silent_after),
        },
        zookeeper,
        log: raw.log,
        debug: raw.debug,
        values: EffectiveConfig::default(),
        notes: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_is_reported_with_its_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "grpc_listen = 'here'\nsilent_after = '1s'\nheartbeat_interval = '1s'\n[zookeeper]\nservers = 'zk:0'\nroot = 'x'\n\
                    [log]\nfilter = 'info,x=loud'\n";
        std::fs::write(file.path(), text).unwrap();
        let error = load(
            &Cli {
                config: Some(file.path().to_owned()),
                ..Cli::default()
            },
            [],
        )
        .unwrap_err()
        .to_string();
        for part in [
            "id: is empty; give each collector a name",
            ":1:1: grpc_listen: \"here\" is not a valid ADDRESS:PORT",
            ":2:1: silent_after: 1s is less than two heartbeats",
            ":5:1: zookeeper.servers: \"zk:0\" has no valid port",
            ":6:1: zookeeper.root: \"x\" is no path",
            ":8:1: log.filter: \"info,x=loud\" is no log filter",
        ] {
            assert!(error.contains(part), "{part}\nnot in\n{error}");
        }
    }

    #[test]
    fn servers_are_read_as_people_type_them() {
        let load = |servers: &str| {
            let mut raw = Raw {
                id: Some("a".to_owned()),
                ..Raw::default()
            };
            raw.zookeeper.servers = servers.to_owned();
            let mut problems = Vec::new();
            let config = validate(raw, &mut problems);
            let problems: String = problems.into_iter().map(|problem| problem.message).collect();
            (
                config.and_then(|config| config.zookeeper).map(|zk| zk.servers),
                problems,
            )
        };
        let (servers, problems) = load(" zk-1:2182, zk-2,\n[::1] ");
        assert_eq!(problems, "");
        assert_eq!(servers.as_deref(), Some("zk-1:2182,zk-2:2181,[::1]:2181"));
        for (servers, says) in [
            ("zk:2181/app", "the path is `root`"),
            ("http://zk", "is a URL"),
            ("", "names no host"),
            ("::1:2181", "needs brackets"),
        ] {
            let (_, problems) = load(servers);
            assert!(problems.contains(says), "{servers:?}: {problems}");
        }
    }

    /// The check also refuses what would fail at the start or could never work.
    #[test]
    fn what_can_never_work_is_refused() {
        let problems = |raw: Raw| {
            let mut problems = Vec::new();
            validate(raw, &mut problems);
            problems
                .into_iter()
                .map(|p| format!("{}: {}", p.path.join("."), p.message))
                .collect::<Vec<_>>()
                .join("\n")
        };
        let raw = || Raw {
            id: Some("a".to_owned()),
            ..Raw::default()
        };
        assert_eq!(problems(raw()), "");
        for (root, wanted) in [
            ("/a/../b", "has the part \"..\""),
            ("/a/./b", "has the part \".\""),
            ("/a//b", "has an empty part"),
            ("/", "is no path"),
            ("/a\u{1}b", "which ZooKeeper refuses"),
            ("/a\u{fff3}b", "which ZooKeeper refuses"),
            ("/zookeeper", "is ZooKeeper's own"),
        ] {
            let mut raw = raw();
            raw.zookeeper.root = root.to_owned();
            let problems = problems(raw);
            assert!(
                problems.starts_with("zookeeper.root: ") && problems.contains(wanted),
                "{root:?}: {problems}"
            );
        }
        for advertise in [
            "",
            "http://host",
            ":7400",
            "host:0",
            "host:99999",
            "0.0.0.0:7400",
            "[::]:7400",
            "a b:7400",
        ] {
            let raw = Raw {
                advertise: Some(advertise.to_owned()),
                ..raw()
            };
            assert!(problems(raw).starts_with("advertise: "), "{advertise:?}");
        }
        let raw = Raw {
            http_listen: "127.0.0.1:0".to_owned(),
            admin_listen: " 127.0.0.1:7402".to_owned(),
            ..raw()
        };
        let problems = problems(raw);
        assert!(
            problems.starts_with("http_listen: ") && problems.contains("has port 0"),
            "{problems}"
        );
        assert!(!problems.contains("admin_listen"), "{problems}");
    }
}
