//! Determines how one instance is probed: from its own configuration entry, and from the access rules whose address
//! patterns match.

use std::{path::PathBuf, sync::Arc};

use glob::Pattern;
use redkeeper_core::{
    hosts::HostPort,
    probe::{
        ProbeConfig,
        schedule::{self, Spread},
    },
};
use redkeeper_proto::convert;

use super::{
    InstanceConfig,
    address_pattern::{Placed, address_pattern},
    raw::{Access, Instance, Probe, RawTls},
    required_files::NeededFiles,
};
use crate::{
    host::{owner::TrustedOwners, process::is_local},
    redis::{Credentials, Target, tls::Tls},
};

/// Placeholder for the folder of systemd credentials if systemd provides none; `LoadCredential=` in the unit does.
const NO_CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY (not set by systemd; add LoadCredential= to the unit)";

/// Settings that apply to all instances of an agent.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    agent: String,
    probe: Probe,
    access: Vec<(Vec<Pattern>, Access)>,
    credentials_directory: Option<PathBuf>,
    /// Owners of discovered servers to which passwords may be sent.
    password_users: TrustedOwners,
    /// Files named by rules, for discovered instances.
    pub(super) files: NeededFiles,
    /// The globs of `access`.
    pub(super) patterns: Vec<Placed>,
}

impl Rules {
    /// Checks the patterns.
    pub(super) fn new(
        agent: String,
        probe: Probe,
        access: Vec<Access>,
        credentials_directory: Option<PathBuf>,
        password_users: Vec<String>,
        wrong: &mut impl FnMut(&str, String),
    ) -> Self {
        let mut rules = Self {
            agent,
            probe,
            access: Vec::new(),
            credentials_directory,
            password_users: TrustedOwners::new(password_users),
            files: NeededFiles::default(),
            patterns: Vec::new(),
        };
        for (n, entry) in access.into_iter().enumerate() {
            let at = |key: &str| format!("access.{n}.{key}");
            if entry.addresses.is_empty() {
                wrong(
                    &at("addresses"),
                    "is empty; name the addresses that are meant, such as \"10.0.0.*:*\"".to_owned(),
                );
            }
            let mut patterns = Vec::new();
            for (m, text) in entry.addresses.iter().enumerate() {
                let place = at(&format!("addresses.{m}"));
                match address_pattern(text) {
                    Ok(pattern) => {
                        patterns.push(pattern.clone());
                        rules.patterns.push(Placed {
                            place,
                            pattern,
                            text: text.clone(),
                        });
                    }
                    Err(e) => wrong(&place, format!("{text:?} is not a valid pattern: {e}")),
                }
            }
            let mut is_right = true;
            let mut wrong_here = |key: &str, text| {
                is_right = false;
                wrong(&at(key), text);
            };
            let said = (&entry.user, &entry.password_file, &entry.password_credential);
            let credentials = rules.credentials(said, &mut wrong_here);
            // The server name is checked with the address of each instance.
            let address = "localhost:1".to_owned();
            let tls = entry.tls.clone();
            let tls = tls.and_then(|raw| tls_of(raw, &address, &mut wrong_here));
            if !is_right {
                // Reported here once, not again for each instance.
                rules.access.push((patterns, Access::default()));
                continue;
            }
            let target = Target {
                owners: None,
                address,
                credentials,
                tls,
            };
            rules.files.add(&format!("access.{n}"), &target);
            rules.access.push((patterns, entry));
        }
        rules
    }

    /// Builds the configuration of a discovered address, with the given id or the default one; the error says why that
    /// is impossible.
    pub(super) fn discovered(&self, address: &str, id: Option<&str>) -> Result<InstanceConfig, String> {
        let socket = address.rsplit('/').next().filter(|_| address.starts_with('/'));
        let usual = || match address.parse() {
            // For example the address of a container: many containers may use the same port.
            Ok(elsewhere) if !is_local(&elsewhere) => Some(self.long_id(address)),
            _ => socket.map(|name| format!("{}:{name}", self.agent)),
        };
        let entry = Instance {
            name: id.map(str::to_owned).or_else(usual),
            ..Instance::at(address)
        };
        let mut problems = Vec::new();
        let found = self.instance(entry, &mut |_: &str, text| problems.push(text));
        match found {
            Some(config) if problems.is_empty() => {
                let target = Target {
                    owners: Some(self.password_users.clone()),
                    ..(*config.target).clone()
                };
                Ok(InstanceConfig {
                    target: Arc::new(target),
                    ..config
                })
            }
            _ => Err(problems.join("; ")),
        }
    }

    /// Builds an id from the agent and the whole address, in characters that an id may contain.
    pub(super) fn long_id(&self, address: &str) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        let address = address.trim_start_matches('/').replace(['[', ']'], "");
        let text: String = address
            .chars()
            .map(|c| if allowed(c) { c } else { '_' })
            .collect();
        format!("{}:{text}", self.agent)
    }

    /// Returns the first rule that matches an address.
    fn access(&self, address: &str) -> Option<&Access> {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(address));
        self.access
            .iter()
            .find(|(patterns, _)| matches(patterns))
            .map(|(_, access)| access)
    }

    /// Builds the configuration of one instance.
    pub(super) fn instance(
        &self,
        mut entry: Instance,
        wrong: &mut impl FnMut(&str, String),
    ) -> Option<InstanceConfig> {
        let endpoint = match entry.address.strip_prefix('/') {
            Some(_) => Ok(None),
            None => HostPort::parse(&entry.address, None).map(Some),
        };
        let endpoint = endpoint.map_err(|e| wrong("address", e.to_string())).ok()?;
        if let Some(endpoint) = &endpoint {
            entry.address = endpoint.to_string();
        }
        let id = match (&entry.name, endpoint) {
            (Some(name), _) => name.clone(),
            (None, Some(HostPort { port, .. })) => format!("{}:{port}", self.agent),
            (None, None) => {
                let text = "is missing; an instance behind a Unix socket needs a name";
                wrong("name", text.to_owned());
                return None;
            }
        };
        let identity = convert::identity(&id, &entry.cluster, &entry.address, &entry.labels, &self.agent)
            .map_err(|e| wrong(if e.field == "id" { "name" } else { &e.field }, e.problem))
            .ok()?;
        if let Some(access) = self.access(&entry.address) {
            if entry.user.is_none() && entry.password_file.is_none() && entry.password_credential.is_none() {
                entry.user.clone_from(&access.user);
                entry.password_file.clone_from(&access.password_file);
                entry.password_credential.clone_from(&access.password_credential);
            }
            let over_tcp = !entry.address.starts_with('/');
            entry.tls = entry.tls.or_else(|| access.tls.clone().filter(|_| over_tcp));
        }
        let said = (&entry.user, &entry.password_file, &entry.password_credential);
        let credentials = self.credentials(said, wrong);
        let tls = entry.tls.and_then(|raw| tls_of(raw, &entry.address, wrong));
        let probe = ProbeConfig {
            interval: self.probe.interval,
            phase: schedule::phase(&identity.id, self.probe.interval),
            spread: Spread::of(&identity.id),
            connect_timeout: self.probe.connect_timeout,
            hang_after: self.probe.hang_after,
            info_interval: self.probe.info_interval,
            connect_interval: self.probe.connect_interval,
            successes_before_up: self.probe.successes_before_up,
            failures_before_down: self.probe.failures_before_down,
            authenticate: credentials.is_some(),
            tls: tls.is_some(),
            vanished: false,
        };
        Some(InstanceConfig {
            target: Arc::new(Target {
                owners: None,
                address: entry.address,
                credentials,
                tls,
            }),
            identity,
            probe,
        })
    }

    fn credentials(
        &self,
        (user, file, credential): (&Option<String>, &Option<String>, &Option<String>),
        wrong: &mut impl FnMut(&str, String),
    ) -> Option<Credentials> {
        let path = match (file, credential) {
            (Some(_), Some(_)) => {
                wrong(
                    "password_credential",
                    "is named beside `password_file`; remove one of them".to_owned(),
                );
                return None;
            }
            (Some(file), None) => PathBuf::from(file),
            (None, Some(name)) => self.credential(name, wrong)?,
            (None, None) => {
                if user.is_some() {
                    wrong(
                        "user",
                        "needs a `password_file` or a `password_credential` too".to_owned(),
                    );
                }
                return None;
            }
        };
        Some(Credentials {
            user: user.clone(),
            password_file: path,
        })
    }

    /// Returns the file of a systemd credential.
    fn credential(&self, name: &str, wrong: &mut impl FnMut(&str, String)) -> Option<PathBuf> {
        let key = "password_credential";
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            wrong(
                key,
                format!("{name:?} is no name of a credential; name a file with `password_file`"),
            );
            return None;
        }
        let none_given = || PathBuf::from(NO_CREDENTIALS);
        Some(
            self.credentials_directory
                .clone()
                .unwrap_or_else(none_given)
                .join(name),
        )
    }
}

fn tls_of(raw: RawTls, address: &str, wrong: &mut impl FnMut(&str, String)) -> Option<Tls> {
    if address.starts_with('/') {
        let text = "is not spoken over a Unix socket; remove one of them";
        wrong("tls", text.to_owned());
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
        verify: raw.verify,
    };
    if let Err(e) = tls.name(address) {
        wrong("tls", e);
    }
    Some(tls)
}
