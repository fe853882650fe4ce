//! Finds servers on this host: by their configuration files, and by their processes. Says of each candidate why it
//! is taken or left. Works unprivileged within what `/proc` shows, and says what it could not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use glob::Pattern;
use redkeeper_core::{
    probe::{Command, ConnectFailure},
    redis::{info, reply::Reply},
    status::Role,
};

use crate::{
    blocking::Bounded,
    config::InstanceConfig,
    redis::{self, Received, Target},
};

mod config_files;
mod processes;
pub mod registry;

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Globs of configuration files.
    pub config_files: Vec<String>,
    /// Names of processes that are looked at, as globs; none where processes are not to be looked at.
    pub process_names: Vec<String>,
    /// Addresses that are left alone.
    pub ignore: Vec<Pattern>,
}

/// Names of servers' processes, as globs: distributions put versions into them, such as `redis6-server`. Sentinel and
/// docker-proxy are listed so that they are explained.
pub const PROCESS_NAMES: [&str; 10] = [
    "redis*-server*",
    "valkey*-server*",
    "keydb*-server*",
    "codis-server*",
    "dragonfly*",
    "kvrocks*",
    "[Gg]arnet*",
    "redis*-sentinel*",
    "valkey*-sentin*",
    "docker-proxy",
];

/// How long reading files and `/proc` may take: either may stand on a file system that hangs.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);
static LOOKS: Bounded = Bounded::new(1);
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
    /// It has told which server it is, and is no other candidate.
    pub told: bool,
    /// Why it is left; `None` where it is taken.
    pub left: Option<Left>,
}

/// Why a candidate is left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Left {
    /// Its server is watched already, under a configured address.
    Configured(String),
    /// Its server is reached at another address, which is taken.
    Same(String),
    /// It was found in another way too.
    Twice,
    /// It is not to be watched, in words why.
    Unwanted(&'static str),
    /// Another reason, in words.
    Because(String),
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(address) if address.is_empty() => write!(f, "is configured by name"),
            Self::Configured(address) => write!(f, "is the server that is configured as {address}"),
            Self::Same(address) => write!(f, "is the server that is reached at {address}"),
            Self::Twice => write!(f, "was found already"),
            Self::Unwanted(why) => f.write_str(why),
            Self::Because(why) => f.write_str(why),
        }
    }
}

impl Candidate {
    fn new(address: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            source: source.into(),
            lives: false,
            tls: false,
            told: false,
            left: None,
        }
    }

    fn nowhere(source: impl Into<String>) -> Self {
        Self::new("", source)
    }

    fn left(self, why: impl Into<String>) -> Self {
        Self {
            left: Some(Left::Because(why.into())),
            ..self
        }
    }
}

/// A configured instance, as far as discovery must know it.
#[derive(Clone)]
pub struct Known {
    target: Arc<Target>,
    /// Which server it is, where its worker has learned it; else discovery asks.
    run_id: String,
}

impl Known {
    /// From the configuration and what its worker has learned.
    pub fn new(instance: &InstanceConfig, run_id: &str) -> Self {
        Self {
            target: Arc::clone(&instance.target),
            run_id: run_id.to_owned(),
        }
    }
}

/// What a server says of itself.
#[derive(Default)]
struct Told {
    run_id: String,
    port: String,
    role: Option<Role>,
}

/// Addresses of everything that is found, whether it is wanted or not. Reads files and `/proc`, speaks to nobody.
pub fn addresses(settings: &Settings) -> Vec<String> {
    let found = look(settings).into_iter().map(|candidate| candidate.address);
    found.filter(|address| !address.is_empty()).collect()
}

fn look(settings: &Settings) -> Vec<Candidate> {
    let mut found = config_files::candidates(&settings.config_files);
    found.extend(processes::candidates(&settings.process_names));
    found
}

/// Everything that is found, each confirmed by speaking to it in the way that `target` says; `None` where the look
/// itself failed.
pub async fn find(
    settings: Settings,
    known: Vec<Known>,
    target: impl Fn(&str) -> Result<Arc<Target>, String>,
) -> Option<Vec<Candidate>> {
    let ignore = settings.ignore.clone();
    let Some(mut found) = LOOKS.run(LOOK_TIMEOUT, move || look(&settings)).await else {
        // Its end is seen; the next look comes all the same.
        tracing::error!("discovery failed, or took longer than {LOOK_TIMEOUT:?}");
        return None;
    };
    let configured: BTreeSet<_> = known.iter().map(|known| known.target.address.clone()).collect();
    let mut addresses = BTreeSet::new();
    let mut asked = Vec::new();
    for (n, candidate) in found.iter_mut().enumerate().filter(|(_, c)| c.left.is_none()) {
        candidate.left = if configured.contains(&candidate.address) {
            Some(Left::Configured(String::new()))
        } else if !addresses.insert(candidate.address.clone()) {
            Some(Left::Twice)
        } else if ignore.iter().any(|pattern| pattern.matches(&candidate.address)) {
            Some(Left::Unwanted("discovery.ignore says so"))
        } else {
            match target(&candidate.address) {
                Ok(target) if candidate.tls && target.tls.is_none() => {
                    let why = "speaks TLS only: say whom to trust under [[access]] or [[instances]]";
                    Some(Left::Because(why.to_owned()))
                }
                Ok(target) => {
                    asked.push(async move { (n, confirm(&target).await) });
                    None
                }
                Err(why) => Some(Left::Because(why)),
            }
        };
    }
    let mut answers: Vec<_> = stream::iter(asked)
        .buffer_unordered(CONFIRMED_AT_ONCE)
        .collect()
        .await;
    // In the order of the candidates, so that of several addresses of one server the same is taken each time.
    answers.sort_by_key(|(n, _)| *n);
    let watched = if answers.is_empty() {
        BTreeMap::new()
    } else {
        run_ids(known).await
    };
    let mut servers = BTreeMap::<String, String>::new();
    for (n, answer) in answers {
        let candidate = &mut found[n];
        candidate.left = match answer {
            // Its process lives: it is an instance, and its status says what is wrong with it.
            Err(Unconfirmed::NoAnswer(_)) if candidate.lives => None,
            Err(Unconfirmed::NoAnswer(why) | Unconfirmed::IsNone(why)) => Some(Left::Because(why)),
            Ok(told) if told.role == Some(Role::Sentinel) => Some(Left::Unwanted(SENTINEL)),
            // It does not say which server it is.
            Ok(told) if told.run_id.is_empty() => None,
            Ok(told) => match watched.get(&told.run_id) {
                Some(address) => Some(Left::Configured(address.clone())),
                None => {
                    let server = format!("{} {}", told.run_id, told.port);
                    let left = servers.get(&server).cloned().map(Left::Same);
                    servers.entry(server).or_insert_with(|| candidate.address.clone());
                    candidate.told = left.is_none();
                    left
                }
            },
        };
    }
    Some(found)
}

/// Why a Sentinel is left.
const SENTINEL: &str = "is a Sentinel, which holds no data";

/// Which servers are configured, by `run_id`; those whose workers do not know it yet are asked.
async fn run_ids(known: Vec<Known>) -> BTreeMap<String, String> {
    let asked = known.into_iter().map(|known| async move {
        let run_id = if known.run_id.is_empty() {
            confirm(&known.target)
                .await
                .map(|told| told.run_id)
                .unwrap_or_default()
        } else {
            known.run_id
        };
        (run_id, known.target.address.clone())
    });
    let told: Vec<_> = stream::iter(asked)
        .buffer_unordered(CONFIRMED_AT_ONCE)
        .collect()
        .await;
    told.into_iter()
        .filter(|(run_id, _)| !run_id.is_empty())
        .collect()
}

/// Why a candidate was not confirmed.
enum Unconfirmed {
    /// Nothing contradicts that it is a server: it hangs, or the agent itself could not ask.
    NoAnswer(String),
    /// It is none, or is not there.
    IsNone(String),
}

impl From<ConnectFailure> for Unconfirmed {
    fn from(failure: ConnectFailure) -> Self {
        let why = format!("cannot be spoken to: {}", failure.words());
        match failure {
            ConnectFailure::TimedOut
            | ConnectFailure::TlsSilent
            | ConnectFailure::Own(_)
            | ConnectFailure::OwnDelay(_) => Self::NoAnswer(why),
            _ => Self::IsNone(why),
        }
    }
}

/// Speaks to it. Any RESP answer proves a server; INFO, where it is allowed, tells which one it is: `run_id` and
/// `tcp_port`.
async fn confirm(target: &Target) -> Result<Told, Unconfirmed> {
    let ask = async {
        let mut connection = redis::connect(target, CONFIRM_TIMEOUT).await?;
        let auth = target.credentials.is_some().then_some(Command::Auth);
        let commands: Vec<_> = auth.into_iter().chain([Command::Ping, Command::Info]).collect();
        let is_none = |how: String| Unconfirmed::IsNone(format!("cannot be spoken to: {how}"));
        connection.send(&commands).await.map_err(is_none)?;
        let mut told = Told::default();
        for (n, command) in commands.iter().enumerate() {
            match connection.receive().await {
                Received::Reply(Reply::Text(text)) if *command == Command::Info => {
                    let info = info::parse(&text);
                    let port = info::fields(&text).find(|(key, _)| *key == "tcp_port");
                    told = Told {
                        run_id: info.run_id,
                        port: port.map_or("", |(_, port)| port).to_owned(),
                        role: info.role,
                    };
                }
                Received::Reply(_) => {}
                // It said a word before, so it is one.
                Received::Closed(_) if n > 0 => break,
                Received::Closed(how) => return Err(is_none(how)),
                Received::Garbage(_) => return Err(Unconfirmed::IsNone("does not speak RESP".to_owned())),
                Received::Refused(failure) => return Err(failure.into()),
            }
        }
        Ok(told)
    };
    let late = |_| {
        let why = format!("connected, but no answer within {CONFIRM_TIMEOUT:?}");
        Err(Unconfirmed::NoAnswer(why))
    };
    tokio::time::timeout(CONFIRM_TIMEOUT, ask)
        .await
        .unwrap_or_else(late)
}

/// The table of `discover --explain`; `ids` of what is taken, by address.
pub fn explain(found: &[Candidate], ids: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "{:<24} {:<6} {:<24} {:<44} {}\n",
        "ADDRESS", "TAKEN", "INSTANCE", "FOUND BY", "WHY NOT"
    );
    for candidate in found {
        let address = match candidate.address.as_str() {
            "" => "-",
            address => address,
        };
        let id = ids.get(address).filter(|_| candidate.left.is_none());
        let (taken, id, why) = match (&candidate.left, id) {
            (None, Some(id)) => ("yes", id.as_str(), String::new()),
            (None, None) => (
                "no",
                "-",
                "no instance can have this address; the log says why".to_owned(),
            ),
            (Some(left), _) => ("no", "-", left.to_string()),
        };
        let line = format!("{address:<24} {taken:<6} {id:<24} {:<44} {why}", candidate.source);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
