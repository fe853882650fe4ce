//! How one instance is probed: its entry in the configuration, and the rules for addresses that match a pattern.

use std::{path::PathBuf, sync::Arc};

use glob::Pattern;
use redkeeper_core::probe::{
    ProbeConfig,
    schedule::{self, Spread},
};
use redkeeper_proto::convert;

use super::{
    InstanceConfig,
    address_pattern::{Placed, address_pattern},
    files::NeededFiles,
    raw::{Access, Instance, Probe, RawTls},
};
use crate::{
    host::{owner::TrustedOwners, process::is_local},
    redis::{Credentials, Target, tls::Tls},
};

/// Stands for the folder of systemd's credentials where it gave none; `LoadCredential=` in the unit does.
const NO_CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY (not set by systemd; add LoadCredential= to the unit)";

/// What holds for all instances of an agent.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    agent: String,
    probe: Probe,
    access: Vec<(Vec<Pattern>, Access)>,
    credentials_directory: Option<PathBuf>,
    /// Whose servers get passwords, where they were merely found.
    password_users: TrustedOwners,
    /// Files that rules name, for instances that are discovered.
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
                    Err(e) => wrong(&place, format!("{text:?} is no pattern: {e}")),
                }
            }
            let mut is_right = true;
            let mut wrong_here = |key: &str, text| {
                is_right = false;
                wrong(&at(key), text);
            };
            let said = (&entry.user, &entry.password_file, &entry.password_credential);
            let credentials = rules.credentials(said, &mut wrong_here);
            // Names are checked with the address of each instance.
            let address = "localhost:1".to_owned();
            let tls = entry.tls.clone();
            let tls = tls.and_then(|raw| tls_of(raw, &address, &mut wrong_here));
            if !is_right {
                // Told here, and not for each instance again.
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

    /// How to probe what was found at an address, with this id or the usual one; in words why not.
    pub(super) fn discovered(&self, address: &str, id: Option<&str>) -> Result<InstanceConfig, String> {
        let socket = address.rsplit('/').next().filter(|_| address.starts_with('/'));
        let usual = || match address.parse() {
            // Such as that of a container: the port alone may be the same for many.
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

    /// Agent and whole address, in characters that an id may have.
    pub(super) fn long_id(&self, address: &str) -> String {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | ':' | '-');
        let address = address.trim_start_matches('/').replace(['[', ']'], "");
        let text: String = address
            .chars()
            .map(|c| if allowed(c) { c } else { '_' })
            .collect();
        format!("{}:{text}", self.agent)
    }

    /// The first rule for an address.
    fn access(&self, address: &str) -> Option<&Access> {
        let matches = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(address));
        self.access
            .iter()
            .find(|(patterns, _)| matches(patterns))
            .map(|(_, access)| access)
    }

    /// How to probe one instance.
    pub(super) fn instance(
        &self,
        mut entry: Instance,
        wrong: &mut impl FnMut(&str, String),
    ) -> Option<InstanceConfig> {
        let endpoint = match entry.address.strip_prefix('/') {
            Some(_) => Ok(None),
            None => host_port(&entry.address).map(Some),
        };
        let endpoint = endpoint.map_err(|e| wrong("address", e)).ok()?;
        let id = match (&entry.name, endpoint) {
            (Some(name), _) => name.clone(),
            (None, Some((_, port))) => format!("{}:{port}", self.agent),
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

    /// The file of a systemd credential.
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
