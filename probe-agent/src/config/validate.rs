//! Validates the configuration: converts [`Raw`] into [`Config`], or reports all mistakes.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use redkeeper_core::{
    hosts::{self, HostPort},
    ids::AgentId,
    limits::AGENT_INSTANCES_MAX,
};
use redkeeper_runtime::{
    config::{EffectiveConfig, Problem},
    daemon::listen_address,
};

use super::{
    Config, DiscoveryConfig, DiscoverySettings, Folders,
    access_rules::Rules,
    address_pattern::{Placed, address_pattern},
    raw::{Instance, Probe, Raw},
};

/// Default port of a collector.
const COLLECTOR_PORT: u16 = 7400;

/// Validates everything and adds each mistake to `problems`. Returns `None` without a valid id and `admin_listen`.
pub(super) fn validate(raw: Raw, folders: Folders, problems: &mut Vec<Problem>) -> Option<Config> {
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
        let text = format!(
            "{} must be between 0 and 100 percent",
            raw.reload_drop_max_percent
        );
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
            Err(e) => wrong(&key, format!("{pattern:?} is not a valid pattern: {e}")),
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
                format!("{name:?} is not a valid pattern: {e}"),
            );
        }
    }
    let (mut ignore, mut patterns) = (Vec::new(), rules.patterns.clone());
    for (n, text) in raw.discovery.ignore.iter().enumerate() {
        let place = format!("discovery.ignore.{n}");
        match address_pattern(text) {
            Ok(pattern) => {
                ignore.push(pattern.clone());
                patterns.push(Placed {
                    place,
                    pattern,
                    text: text.clone(),
                });
            }
            Err(e) => wrong(&place, format!("{text:?} is not a valid pattern: {e}")),
        }
    }
    let names = if raw.discovery.processes {
        raw.discovery.names
    } else {
        Vec::new()
    };
    let discovery = discovers.then_some(DiscoveryConfig {
        settings: DiscoverySettings {
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
        debug: raw.debug,
        values: EffectiveConfig::default(),
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
