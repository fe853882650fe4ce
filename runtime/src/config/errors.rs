//! Mistakes in a configuration, each with the key that it concerns.

use std::fmt;

/// One mistake.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Parts of the key, such as `instances`, `0`, `address`.
    pub path: Vec<String>,
    /// What is wrong and what to do.
    pub message: String,
}

impl Problem {
    /// Creates a mistake at a key written with dots.
    pub fn new(path: &str, message: impl Into<String>) -> Self {
        Self {
            path: path.split('.').map(str::to_owned).collect(),
            message: message.into(),
        }
    }
}

/// Why there is no configuration. Displays every mistake on a line of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(super) Vec<String>);

impl ConfigError {
    /// One line for each mistake.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.0 {
            writeln!(f, "error: {line}")?;
        }
        write!(
            f,
            "{} mistake(s) in the configuration; nothing was started",
            self.0.len()
        )
    }
}

impl std::error::Error for ConfigError {}
