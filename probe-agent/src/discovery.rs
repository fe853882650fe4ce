//! Finds servers on this host: by their configuration files, and by their processes. Says of each candidate why it
//! is taken or left. Works unprivileged within what `/proc` shows, and says what it could not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use redkeeper_core::agent::{info, prober::Command, reply::Reply};

use crate::redis::{self, Received, Target};

mod files;
mod processes;

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Globs of configuration files.
    pub config_files: Vec<String>,
    /// Names of processes that are looked at, as globs; none where processes are not to be looked at.
    pub process_names: Vec<String>,
}

/// Names of servers' processes. Sentinel and docker-proxy are listed so that they are explained.
pub const PROCESS_NAMES: [&str; 8] = [
    "redis-server",
    "valkey-server",
    "keydb-server",
    "dragonfly",
    "kvrocks",
    "[Gg]arnet*",
    "redis-sentinel",
    "docker-proxy",
];

/// How long a candidate may take to say a word.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);
/// Candidates that are spoken to at a time.
const CONFIRMED_AT_ONCE: usize = 16;

/// Something that may be a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// `host:port`, or a Unix socket path; empty where none is known.
    pub address: String,
    /// How it was found.
    pub source: String,
    /// It was found by its process, which therefore lives.
    pub lives: bool,
    /// It speaks TLS only.
    pub tls: bool,
    /// Why it is left; `None` where it is taken.
    pub left: Option<String>,
}

impl Candidate {
    fn new(address: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            source: source.into(),
            lives: false,
            tls: false,
            left: None,
        }
    }

    fn nowhere(source: impl Into<String>) -> Self {
        Self::new("", source)
    }

    fn left(self, why: impl Into<String>) -> Self {
        Self {
            left: Some(why.into()),
            ..self
        }
    }
}

/// What is known before looking.
#[derive(Default)]
pub struct Known {
    /// Addresses that are configured.
    pub addresses: BTreeSet<String>,
    /// `run_id` of servers that are watched under a configured address.
    pub run_ids: BTreeMap<String, String>,
}

/// Everything that is found, each confirmed by speaking to it in the way that `target` says; `None` where the look
/// itself failed.
pub async fn find(
    settings: Settings,
    known: &Known,
    target: impl Fn(&str) -> Result<Arc<Target>, String>,
) -> Option<Vec<Candidate>> {
    let looked = tokio::task::spawn_blocking(move || {
        let mut found = files::candidates(&settings.config_files);
        found.extend(processes::candidates(&settings.process_names));
        found
    });
    let mut found = match looked.await {
        Ok(found) => found,
        Err(e) => {
            // Its end is seen; the next look comes all the same.
            tracing::error!("discovery failed: {e}");
            return None;
        }
    };
    let mut addresses = BTreeSet::new();
    let mut asked = Vec::new();
    for (n, candidate) in found.iter_mut().enumerate().filter(|(_, c)| c.left.is_none()) {
        if known.addresses.contains(&candidate.address) {
            candidate.left = Some("is configured by name".to_owned());
        } else if !addresses.insert(candidate.address.clone()) {
            candidate.left = Some("was found already".to_owned());
        } else {
            match target(&candidate.address) {
                Ok(target) if candidate.tls && target.tls.is_none() => {
                    let why = "speaks TLS only: say whom to trust under [[access]] or [[instances]]";
                    candidate.left = Some(why.to_owned());
                }
                Ok(target) => asked.push(async move { (n, confirm(&target).await) }),
                Err(why) => candidate.left = Some(why),
            }
        }
    }
    let mut answers: Vec<_> = stream::iter(asked)
        .buffer_unordered(CONFIRMED_AT_ONCE)
        .collect()
        .await;
    // In the order of the candidates, so that of several addresses of one server the same is taken each time.
    answers.sort_by_key(|(n, _)| *n);
    let mut servers = BTreeMap::<String, String>::new();
    for (n, answer) in answers {
        let candidate = &mut found[n];
        candidate.left = match answer {
            Err(why) => Some(why),
            Ok(Some((run_id, _))) if known.run_ids.contains_key(&run_id) => {
                let other = known.run_ids.get(&run_id).map_or("", String::as_str);
                Some(format!("is the server that is configured as {other}"))
            }
            Ok(Some((run_id, port))) => {
                let other = servers.get(&format!("{run_id} {port}"));
                let left = other.map(|other| format!("is the server that is reached at {other}"));
                if left.is_none() {
                    servers.insert(format!("{run_id} {port}"), candidate.address.clone());
                }
                left
            }
            Ok(None) => None,
        };
    }
    Some(found)
}

/// Speaks to it. Any RESP answer proves a server; INFO, where it is allowed, tells which one it is: `run_id` and
/// `tcp_port`.
async fn confirm(target: &Target) -> Result<Option<(String, String)>, String> {
    let ask = async {
        let connected = redis::connect(target, CONFIRM_TIMEOUT).await;
        let mut connection =
            connected.map_err(|failure| format!("cannot be spoken to: {}", failure.words()))?;
        let auth = target.credentials.is_some().then_some(Command::Auth);
        let commands: Vec<_> = auth.into_iter().chain([Command::Ping, Command::Info]).collect();
        connection.send(&commands).await?;
        let mut told = None;
        for (n, command) in commands.iter().enumerate() {
            match connection.receive().await {
                Received::Reply(Reply::Text(text)) if *command == Command::Info => {
                    let run_id = info::parse(&text).run_id;
                    let port = info::fields(&text).find(|(key, _)| *key == "tcp_port");
                    let port = port.map_or("", |(_, port)| port).to_owned();
                    told = (!run_id.is_empty()).then_some((run_id, port));
                }
                Received::Reply(_) => {}
                // It said a word before, so it is one.
                Received::Closed(_) if n > 0 => break,
                Received::Closed(how) => return Err(format!("cannot be spoken to: {how}")),
                Received::Garbage(_) => return Err("does not speak RESP".to_owned()),
                Received::Refused(failure) => {
                    return Err(format!("cannot be spoken to: {}", failure.words()));
                }
            }
        }
        Ok(told)
    };
    tokio::time::timeout(CONFIRM_TIMEOUT, ask)
        .await
        .unwrap_or_else(|_| Err(format!("connected, but no answer within {CONFIRM_TIMEOUT:?}")))
}

/// The table of `discover --explain`.
pub fn explain(found: &[Candidate]) -> String {
    let mut text = format!(
        "{:<24} {:<6} {:<44} {}\n",
        "ADDRESS", "TAKEN", "FOUND BY", "WHY NOT"
    );
    for candidate in found {
        let address = if candidate.address.is_empty() {
            "-"
        } else {
            &candidate.address
        };
        let taken = if candidate.left.is_none() { "yes" } else { "no" };
        let line = format!(
            "{address:<24} {taken:<6} {:<44} {}",
            candidate.source,
            candidate.left.as_deref().unwrap_or("")
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
