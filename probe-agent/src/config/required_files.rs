//! Files that instances need (passwords, certificates, keys) and file patterns that discovery reads. A missing file is
//! not a configuration mistake: its instance is UNKNOWN with the reason, all others are probed, and it recovers when
//! the file appears, because each connection reads the file anew. Present faults are reported by `--check-config`, and
//! once at a start and a reload.

use std::collections::BTreeSet;

use crate::redis::{Credentials, Target, tls::Tls};

/// A group of files that belong together.
#[derive(Clone, Debug)]
pub(super) enum Needed {
    /// A password file.
    Password(Credentials),
    /// Certificate authorities, and optionally a client certificate and its key.
    Tls(Tls),
    /// A pattern that must match at least one server configuration file.
    Match(String),
}

const UNKNOWN: &str = "its instances are UNKNOWN";

impl Needed {
    /// Returns what is wrong with the files, and what to do.
    fn fault(&self) -> Option<String> {
        match self {
            Self::Password(credentials) => credentials
                .password()
                .err()
                .map(|e| format!("{e}; make it readable for the agent's user, until then {UNKNOWN}")),
            Self::Tls(tls) => tls.load().err().map(|e| {
                format!("{e}; make it a PEM file that the agent's user can read, until then {UNKNOWN}")
            }),
            Self::Match(pattern) => {
                let found = glob::glob(pattern).is_ok_and(|mut paths| paths.next().is_some());
                (!found).then(|| format!("{pattern}: matches no file now"))
            }
        }
    }
}

/// All files that a configuration names, each with the position where it is named first.
#[derive(Clone, Debug, Default)]
pub struct NeededFiles(Vec<(String, Needed)>);

impl NeededFiles {
    /// Adds the files of one entry, named at `key` such as `instances.0`.
    pub(super) fn add(&mut self, key: &str, target: &Target) {
        if let Some(credentials) = &target.credentials {
            self.0.push((
                format!("{key}.password_file"),
                Needed::Password(credentials.clone()),
            ));
        }
        if let Some(tls) = &target.tls {
            self.0.push((format!("{key}.tls"), Needed::Tls(tls.clone())));
        }
    }

    /// Adds a pattern of `discovery.config_files`, named at `key`.
    pub(super) fn add_pattern(&mut self, key: String, pattern: String) {
        self.0.push((key, Needed::Match(pattern)));
    }

    /// Removes duplicates, and replaces each key by its position, as returned by `place`.
    pub(super) fn placed(self, place: impl Fn(&str) -> String) -> Self {
        let mut seen = BTreeSet::new();
        let first = |(_, needed): &(String, Needed)| seen.insert(format!("{needed:?}"));
        let all = self.0.into_iter().filter(first);
        Self(all.map(|(key, needed)| (place(&key), needed)).collect())
    }

    /// Returns the present faults, one line each. Reads all files, so it may block on a file system.
    pub fn faults(&self) -> Vec<String> {
        let fault = |(place, needed): &(String, Needed)| Some(format!("{place}: {}", needed.fault()?));
        self.0.iter().filter_map(fault).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_told_once_and_heals() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target {
            owners: None,
            address: "127.0.0.1:1".to_owned(),
            credentials: Some(Credentials {
                user: None,
                password_file: folder.path().join("password"),
            }),
            tls: None,
        };
        let mut needed = NeededFiles::default();
        needed.add("instances.0", &target);
        needed.add("instances.1", &target);
        let needed = needed.placed(|key| format!("agent.toml:3:1: {key}"));
        let faults = needed.faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].starts_with("agent.toml:3:1: instances.0.password_file: "),
            "{faults:?}"
        );
        let pattern = folder.path().join("*.conf").display().to_string();
        let mut patterns = NeededFiles::default();
        patterns.add_pattern("discovery.config_files.0".to_owned(), pattern);
        assert!(
            patterns.faults()[0].ends_with("*.conf: matches no file now"),
            "{:?}",
            patterns.faults()
        );
        std::fs::write(folder.path().join("redis.conf"), "").unwrap();
        assert_eq!(patterns.faults(), Vec::<String>::new());

        std::fs::write(folder.path().join("password"), "secret\n").unwrap();
        assert_eq!(needed.faults(), [""; 0]);
    }
}
