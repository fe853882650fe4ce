//! The configuration in force: each value with where it comes from. Secrets are hidden.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Problem, Sources, toml_position::Positions};

/// One value in force.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct EffectiveValue {
    /// Key, with dots, such as `zookeeper.servers` or `instances.0.address`.
    pub key: String,
    /// Value as JSON.
    pub value: Value,
    /// `default`, `FILE:LINE`, `environment variable NAME` or `flag`.
    pub origin: String,
}

/// Computes all values.
type MakeValues = dyn Fn() -> Vec<EffectiveValue> + Send + Sync;

/// The configuration in force, for `/debug/config`. It keeps the sources, and computes the values when they are asked for: the
/// values of 5,000 instances take megabytes. Clones share it.
#[derive(Clone, Default)]
pub struct EffectiveConfig(Arc<Mutex<InForce>>);

#[derive(Clone, Default)]
struct InForce {
    /// Values of the start.
    started: Option<Arc<MakeValues>>,
    /// Values of the last reload, and the first parts of the keys that it changed.
    reloaded: Option<(Arc<MakeValues>, &'static [&'static str])>,
}

impl std::fmt::Debug for EffectiveConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EffectiveConfig")
    }
}

impl EffectiveConfig {
    /// The configuration that was extracted as `T` from these sources.
    pub fn of<T: DeserializeOwned + Serialize + 'static>(sources: Sources) -> Self {
        Self::made_by(move || match sources.extract::<T>() {
            Ok(config) => sources.effective(&config),
            // It was extracted before.
            Err(_) => Vec::new(),
        })
    }

    fn made_by(values: impl Fn() -> Vec<EffectiveValue> + Send + Sync + 'static) -> Self {
        let config = Self::default();
        config.lock().started = Some(Arc::new(values));
        config
    }

    fn lock(&self) -> MutexGuard<'_, InForce> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The values. Takes milliseconds for each hundred instances.
    pub fn get(&self) -> Vec<EffectiveValue> {
        let InForce { started, reloaded } = self.lock().clone();
        let mut values = started.map_or_else(Vec::new, |values| values());
        if let Some((newer, parts)) = reloaded {
            let changes = |value: &EffectiveValue| {
                let first = value.key.split('.').next().unwrap_or_default();
                parts.contains(&first)
            };
            values.retain(|value| !changes(value));
            values.extend(newer().into_iter().filter(changes));
        }
        values
    }

    /// Takes those values of a newer configuration that a reload changes: the ones whose first part of the key is in `parts`.
    pub fn reload(&self, newer: &Self, parts: &'static [&'static str]) {
        let newer = newer.lock().started.clone();
        self.lock().reloaded = newer.map(|newer| (newer, parts));
    }
}

impl Sources {
    /// The values of a configuration that was extracted from these sources, with their origins. What is neither set nor has
    /// a default is left out.
    fn effective<T: Serialize>(&self, config: &T) -> Vec<EffectiveValue> {
        let mut found = Vec::new();
        // Types that `extract` can build can be written too; a value that cannot is left out.
        flatten("", serde_json::to_value(config).unwrap_or_default(), &mut found);
        let file = self
            .file
            .as_ref()
            .map(|(file, text)| (file.as_path(), Positions::of(text)));
        found
            .into_iter()
            .map(|(key, value)| EffectiveValue {
                origin: self.origin(&key, file.as_ref()),
                value: hide(&key, value),
                key,
            })
            .collect()
    }

    fn origin(&self, key: &str, file: Option<&(&Path, Positions)>) -> String {
        let path = Problem::new(key, "").path;
        if super::contains(&self.flags, &path) {
            return "flag".to_owned();
        }
        // A variable may hold a whole table or list.
        let parts = (1..=path.len()).rev();
        if let Some(name) = parts.filter_map(|length| self.env_key(&path[..length])).next() {
            return format!("environment variable {name}");
        }
        let place = file.and_then(|(file, positions)| {
            let line = positions.line_of(&path)?;
            Some(format!("{}:{line}", file.display()))
        });
        place.unwrap_or_else(|| "default".to_owned())
    }
}

/// Collects the values of a tree. A list of plain values is one value.
fn flatten(key: &str, value: Value, found: &mut Vec<(String, Value)>) {
    let below = |part: &str| match key {
        "" => part.to_owned(),
        key => format!("{key}.{part}"),
    };
    match value {
        Value::Object(map) if !map.is_empty() => {
            map.into_iter()
                .for_each(|(part, value)| flatten(&below(&part), value, found));
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            let items = items.into_iter().enumerate();
            items.for_each(|(n, value)| flatten(&below(&n.to_string()), value, found));
        }
        Value::Null => {}
        value => found.push((key.to_owned(), value)),
    }
}

/// Hides a value that may be a secret: one whose key says so, a label, and whatever may hold a password, as in a URL. No key
/// of redkeeper holds a secret, because passwords are in files; somebody may have put one where it does not belong.
fn hide(key: &str, value: Value) -> Value {
    const HIDDEN: &str = "(hidden)";
    let key = key.to_ascii_lowercase();
    if !value.is_null() && key.split('.').any(|part| part == "labels" || is_secret(part)) {
        return HIDDEN.into();
    }
    match value {
        Value::String(text) if text.contains('@') || text.to_ascii_lowercase().contains("password=") => {
            HIDDEN.into()
        }
        Value::Array(items) => items.into_iter().map(|item| hide("", item)).collect(),
        other => other,
    }
}

/// Whether a part of a key names a secret.
fn is_secret(part: &str) -> bool {
    const WORDS: [&str; 8] = [
        "passw",
        "passphrase",
        "pwd",
        "secret",
        "token",
        "credential",
        "apikey",
        "api_key",
    ];
    // Keys of redkeeper that name where a secret is, or whose.
    const OWN: [&str; 3] = ["password_credential", "password_file", "password_users"];
    !OWN.contains(&part) && WORDS.iter().any(|word| part.contains(word))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Serialize, Default)]
    #[serde(default)]
    struct Config {
        id: Option<String>,
        limit: u32,
        servers: Vec<String>,
        log: BTreeMap<String, String>,
        table: BTreeMap<String, String>,
        instances: Vec<BTreeMap<String, String>>,
    }

    fn sources(text: &str) -> Sources {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let env = [("LIMIT", "7"), ("TABLE", "{a=\"1\"}")];
        let env = env.map(|(key, value)| (format!("REDKEEPER_{key}"), value.to_owned()));
        let flags = [("id".to_owned(), "x".into())].into();
        Sources::read(Some(file.path()), file.path(), env, flags).unwrap()
    }

    #[test]
    fn each_value_has_its_origin() {
        let text = "id = 'y'\nlimit = 3\n[log]\nfilter = 'info'\n[[instances]]\naddress = 'a'\n[[instances]]\naddress = 'b'\n";
        let sources = sources(text);
        let values = EffectiveConfig::of::<Config>(sources).get();
        let of = |key: &str| {
            let value = values.iter().find(|value| value.key == key).unwrap();
            let origin = value.origin.rsplit('/').next().unwrap().to_owned();
            let line = origin.rsplit_once(':').map(|(_, line)| line.to_owned());
            (value.value.to_string(), line.unwrap_or(origin))
        };
        let row = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
        assert_eq!(of("id"), row("\"x\"", "flag"));
        assert_eq!(of("limit"), row("7", "environment variable REDKEEPER_LIMIT"));
        assert_eq!(
            of("table.a"),
            row("\"1\"", "environment variable REDKEEPER_TABLE")
        );
        assert_eq!(of("servers"), row("[]", "default"));
        assert_eq!(of("log.filter"), row("\"info\"", "4"));
        assert_eq!(of("instances.1.address"), row("\"b\"", "8"));
    }

    #[test]
    fn secrets_are_hidden() {
        for (key, text) in [
            ("instances.0.labels.rack", "x"),
            ("a.api_token", "x"),
            ("a.dbPassword", "x"),
            ("a.db_passwd_prod", "x"),
            ("secrets.db", "x"),
            ("servers", "redis://user:pw@host:1/0"),
            ("servers", "redis://:p/w@host"),
            ("servers", "a://x,user:pw@h:1"),
            ("servers", "http://h/?Password=x"),
        ] {
            assert_eq!(hide(key, text.into()), "(hidden)", "{key} {text}");
        }
        assert_eq!(
            hide("servers", vec!["http://u:p@h"].into()),
            Value::from(vec!["(hidden)"])
        );
        for key in [
            "instances.0.password_file",
            "access.0.password_credential",
            "tls.key_file",
            "discovery.password_users",
            "servers",
        ] {
            assert_eq!(hide(key, "host:1".into()), "host:1", "{key}");
        }
        assert_eq!(hide("labels.key", Value::Null), Value::Null);
    }

    #[test]
    fn a_reload_changes_what_it_applies() {
        let value = |key: &str, value: i32| EffectiveValue {
            key: key.to_owned(),
            value: value.into(),
            origin: String::new(),
        };
        let present = EffectiveConfig::made_by(move || {
            vec![value("id", 1), value("probe.interval", 1), value("probe.gone", 1)]
        });
        let newer = EffectiveConfig::made_by(move || vec![value("id", 2), value("probe.interval", 2)]);
        present.reload(&newer, &["probe"]);
        assert_eq!(present.get(), [value("id", 1), value("probe.interval", 2)]);
    }
}
