//! Configuration: built-in defaults < file < environment < flags. All mistakes are reported at once, each with its
//! position and what to do. figment merges the layers; it stops at the first mistake and gives no line for most, which
//! this module compensates for.

use std::path::{Path, PathBuf};

pub use effective::{EffectiveConfig, EffectiveValue};
pub use errors::{ConfigError, Problem};
pub use figment::value::Dict;
use figment::{
    Figment, Profile,
    error::{Actual, Kind},
    providers::{Format, Serialized, Toml},
    value::Value,
};
use serde::de::DeserializeOwned;

use service_links::ServiceLinks;
use toml_position::{find, position};

mod effective;
mod errors;
mod service_links;
mod toml_position;

/// Maximum number of mistakes that are reported at once.
const PROBLEMS_MAX: usize = 50;

/// The sources of configuration values.
#[derive(Clone, Debug)]
pub struct Sources {
    file: Option<(PathBuf, String)>,
    env: Vec<(String, String)>,
    flags: Dict,
    /// Variables set by Kubernetes, which are ignored.
    ignored: Vec<String>,
}

/// Prefix of environment variables; `__` separates the parts of a key.
pub const ENV_PREFIX: &str = "REDKEEPER_";
/// Variables that belong to the command line, not to the daemons.
const ENV_OTHERS: &[&str] = &["REDKEEPER_ENDPOINTS", "REDKEEPER_CONFIG", "REDKEEPER_TEST_HOOK"];

/// The process environment, without variables that are not UTF-8: none of redkeeper's are.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
}

impl Sources {
    /// Reads the configuration file. A file named explicitly must exist; the default one may be missing.
    ///
    /// # Errors
    /// When the file cannot be read or is not valid TOML.
    pub fn read(
        named: Option<&Path>,
        default: &Path,
        env: impl IntoIterator<Item = (String, String)>,
        flags: Dict,
    ) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(default);
        let file = match std::fs::read_to_string(path) {
            Ok(text) => Some((path.to_owned(), text)),
            Err(e) if named.is_none() && e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => {
                return Err(ConfigError(vec![format!(
                    "{}: cannot be read: {e}",
                    path.display()
                )]));
            }
        };
        if let Some((path, text)) = &file
            && let Err(e) = text.parse::<toml_edit::DocumentMut>()
        {
            let at = e.span().map_or(0, |span| span.start);
            let (line, column) = position(text, at);
            let what = e.message().lines().next().unwrap_or("syntax error").to_owned();
            return Err(ConfigError(vec![format!(
                "{}:{line}:{column}: {what}",
                path.display()
            )]));
        }
        let with_prefix =
            |(key, _): &(String, String)| key.starts_with(ENV_PREFIX) && !ENV_OTHERS.contains(&key.as_str());
        let all: Vec<_> = env.into_iter().filter(with_prefix).collect();
        let links = ServiceLinks::find(all.iter().map(|(key, value)| (key.as_str(), value.as_str())));
        let (ignored, env): (Vec<_>, Vec<_>) = all.into_iter().partition(|(key, _)| links.contains(key));
        Ok(Self {
            file,
            env,
            flags,
            ignored: ignored.into_iter().map(|(key, _)| key).collect(),
        })
    }

    /// Human-readable remarks on a valid configuration. One sentence each.
    pub fn notes(&self) -> Vec<String> {
        if self.ignored.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "these environment variables are ignored, because Kubernetes sets them for a Service: {}",
            self.ignored.join(", ")
        )]
    }

    /// Deserialises the merged configuration as `T`.
    ///
    /// # Errors
    /// All mistakes that deserialising `T` finds.
    pub fn extract<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        let mut merged = self.merge()?;
        let mut problems = Vec::new();
        loop {
            let result = Figment::from(Serialized::defaults(&merged)).extract::<T>();
            let error = match result {
                Ok(config) if problems.is_empty() => return Ok(config),
                Ok(_) => return Err(self.error(problems)),
                Err(error) => error,
            };
            let mut path: Vec<String> = error.path.clone();
            if path
                .first()
                .is_some_and(|first| first == Profile::Default.as_str().as_str())
            {
                path.remove(0);
            }
            if let Kind::InvalidType(actual, expected) = &error.kind
                && expected.contains("string")
                && self.env_key(&path).is_some()
                && let Some(text) = scalar_text(actual)
                && set(&mut merged, &path, Some(Value::from(text)))
            {
                // Environment values are text; figment parsed this one as a number.
                continue;
            }
            if let Kind::MissingField(field) = &error.kind {
                let mut missing = path.clone();
                missing.push(field.to_string());
                problems.push(Problem {
                    path: missing,
                    message: "is missing; it must be set".to_owned(),
                });
            } else {
                problems.push(Problem {
                    path: path.clone(),
                    message: describe(&error.kind, path.last()),
                });
            }
            if problems.len() >= PROBLEMS_MAX {
                return Err(self.error(problems));
            }
            // Remove the wrong value, or else the smallest removable part around it, and check the rest again.
            while !set(&mut merged, &path, None) {
                if path.pop().is_none() {
                    return Err(self.error(problems));
                }
            }
        }
    }

    fn merge(&self) -> Result<Dict, ConfigError> {
        let mut figment = Figment::new();
        if let Some((_, text)) = &self.file {
            figment = figment.merge(Toml::string(text));
        }
        for (key, value) in &self.env {
            let path = key[ENV_PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
            // figment's own parsing of the text, without reading the process environment.
            let parsed: Value = value.parse().unwrap_or_else(|never| match never {});
            figment = figment.merge(Serialized::default(&path, parsed));
        }
        figment = figment.merge(Serialized::defaults(&self.flags));
        figment
            .extract::<Dict>()
            .map_err(|e| ConfigError(vec![e.to_string()]))
    }

    /// Adds positions to the mistakes that a daemon's own validation found.
    pub fn error(&self, problems: Vec<Problem>) -> ConfigError {
        ConfigError(
            problems
                .iter()
                .map(|p| format!("{}: {}", self.place(&p.path), p.message))
                .collect(),
        )
    }

    /// Returns where a key, written with dots, is set.
    pub fn place_of(&self, key: &str) -> String {
        self.place(&Problem::new(key, "").path)
    }

    fn place(&self, path: &[String]) -> String {
        let dotted = path.join(".");
        if contains(&self.flags, path) {
            return format!("flag: {dotted}");
        }
        if let Some(key) = self.env_key(path) {
            return format!("environment variable {key}: {dotted}");
        }
        match &self.file {
            Some((file, text)) => {
                let (line, column) = find(text, path).map_or((1, 1), |at| position(text, at));
                format!("{}:{line}:{column}: {dotted}", file.display())
            }
            None => dotted,
        }
    }

    fn env_key(&self, path: &[String]) -> Option<&str> {
        let wanted = format!("{ENV_PREFIX}{}", path.join("__").to_ascii_uppercase());
        self.env
            .iter()
            .map(|(key, _)| key.as_str())
            .find(|key| *key == wanted)
    }
}

fn scalar_text(actual: &Actual) -> Option<String> {
    match actual {
        Actual::Bool(v) => Some(v.to_string()),
        Actual::Unsigned(v) => Some(v.to_string()),
        Actual::Signed(v) => Some(v.to_string()),
        Actual::Float(v) => Some(v.to_string()),
        _ => None,
    }
}

fn describe(kind: &Kind, key: Option<&String>) -> String {
    match kind {
        Kind::UnknownField(field, known) => {
            let near = known
                .iter()
                .map(|name| (strsim::damerau_levenshtein(field, name), name))
                .filter(|(distance, _)| *distance <= 3)
                .min();
            match near {
                Some((_, name)) => format!("unknown key; did you mean `{name}`?"),
                None => format!("unknown key; known here are {}", known.join(", ")),
            }
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let hint = if expected.contains("duration")
                || expected.contains("string") && matches!(actual, Actual::Unsigned(_))
            {
                "; durations are written as \"500ms\", \"10s\""
            } else {
                ""
            };
            format!("expected {expected}, found {actual}{hint}")
        }
        Kind::Message(text) => text.clone(),
        other => format!("{other} ({})", key.map_or("", String::as_str)),
    }
}

/// Replaces or removes the value at `path`. Returns false if there is none.
fn set(dict: &mut Dict, path: &[String], value: Option<Value>) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return false;
    };
    if rest.is_empty() {
        return match value {
            Some(value) => dict.insert(first.clone(), value).is_some(),
            None => dict.remove(first).is_some(),
        };
    }
    dict.get_mut(first)
        .is_some_and(|inner| set_in(inner, rest, value))
}

fn set_in(inner: &mut Value, path: &[String], value: Option<Value>) -> bool {
    match inner {
        Value::Dict(_, dict) => set(dict, path, value),
        Value::Array(_, items) => {
            let Some(index) = path[0].parse::<usize>().ok().filter(|i| *i < items.len()) else {
                return false;
            };
            match (&path[1..], value) {
                // Emptied, not removed: the indexes of the other entries must stay the same.
                ([], None) => {
                    let was_empty = matches!(&items[index], Value::Dict(_, dict) if dict.is_empty());
                    items[index] = Value::from(Dict::new());
                    !was_empty
                }
                ([], Some(value)) => {
                    items[index] = value;
                    true
                }
                (rest, value) => set_in(&mut items[index], rest, value),
            }
        }
        _ => false,
    }
}

fn contains(dict: &Dict, path: &[String]) -> bool {
    let Some((first, rest)) = path.split_first() else {
        return true;
    };
    match dict.get(first) {
        Some(Value::Dict(_, inner)) if !rest.is_empty() => contains(inner, rest),
        Some(_) => rest.is_empty(),
        None => false,
    }
}

#[cfg(test)]
mod tests;
