//! The `debug` command of both programs: asks a daemon's HTTP server for its debug pages, so that nobody has to know their
//! paths. `http` carries the requests.

mod http;

use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use redkeeper_core::hosts::{HostError, HostPort};

use http::{Answer, Request};

/// How long a daemon may take to make a profile or an archive, apart from the time that is sampled.
const MAKING_TIMEOUT: Duration = Duration::from_secs(90);

/// What to ask a running daemon.
#[derive(clap::Subcommand, Debug)]
pub enum DebugCommand {
    /// Tasks by kind: how many, how old, how long they wait.
    Tasks {
        /// Address of the daemon's HTTP server for debugging.
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        /// List all tasks of this kind.
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
    },
    /// Which functions hold memory.
    Heap {
        /// Address of the daemon's HTTP server for debugging.
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        /// Count what was freed too: who allocates much.
        #[arg(long)]
        allocated: bool,
        /// Save it: as a flame graph if the name ends with .svg, else for `go tool pprof`.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
        /// Switch the sampling of allocations, until the daemon ends.
        #[arg(long, value_name = "on|off", value_parser = ["on", "off"], conflicts_with_all = ["allocated", "save"])]
        sampling: Option<String>,
    },
    /// Which functions use the CPU. Takes up to 220 MiB of memory, and keeps up to 150 until the daemon ends.
    Profile {
        /// Address of the daemon's HTTP server for debugging.
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        /// How long to sample, 1 to 60.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=60))]
        seconds: u64,
        /// Save it: as a flame graph if the name ends with .svg, else for `go tool pprof`.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
    },
    /// Show the log filter, or change it for a time.
    LogLevel {
        /// Address of the daemon's HTTP server for debugging.
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        /// The new filter, such as debug or info,redkeeper_core=debug.
        #[arg(long, value_name = "FILTER")]
        set: Option<String>,
        /// How long the new filter lasts, 1s to 24h.
        #[arg(long = "for", value_name = "TIME", default_value = "10m", requires = "set")]
        lasts: String,
        /// Go back to the configured filter now.
        #[arg(long, conflicts_with = "set")]
        reset: bool,
    },
    /// Save all pages, metrics and the heap profile in one archive, for support.
    Bundle {
        /// Address of the daemon's HTTP server for debugging.
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        /// The archive's name; redkeeper-debug-HOST-PORT.tar.gz by default.
        #[arg(long, value_name = "FILE")]
        save: Option<PathBuf>,
    },
    /// Any other page, such as streams or instances/db01:6379; without a name, their list.
    Page {
        /// Address of the daemon's HTTP server for debugging.
        #[arg(value_name = "HOST:PORT")]
        address: Option<String>,
        /// The page: its path below /debug/.
        #[arg(long, default_value = "", value_name = "PATH")]
        name: String,
    },
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum DebugError {
    /// The address is wrong.
    #[error("{0}")]
    Address(#[from] HostError),
    /// The daemon cannot be asked.
    #[error("{0}: {1}; name the address that `admin_listen` of the daemon has")]
    Unreachable(String, String),
    /// The daemon refused.
    #[error("the daemon says {0}: {1}")]
    Refused(u16, String),
    /// The answer cannot be saved.
    #[error("{0}: {1}")]
    Save(String, std::io::Error),
}

/// Asks the daemon, and returns what to print. `default` is the address if the command names none.
///
/// # Errors
/// When the daemon cannot be asked or refuses, or the answer cannot be saved.
pub async fn run(
    command: &DebugCommand,
    default: &str,
    timeout: Duration,
    json: bool,
) -> Result<String, DebugError> {
    let asked = command.asked();
    let address = HostPort::parse(asked.address.as_deref().unwrap_or(default), None)?;
    let form = match (&asked.save, json) {
        (Some(file), _) if file.extension().is_some_and(|extension| extension == "svg") => "svg",
        (Some(_), _) => "pprof",
        (None, true) => "json",
        (None, false) => "text",
    };
    let Answer { status, body } = http::ask(
        &address,
        &Request {
            method: asked.method,
            path: format!(
                "{}{}format={form}",
                asked.path,
                if asked.path.contains('?') { '&' } else { '?' }
            ),
            body: asked.body,
        },
        timeout,
        asked.limit.max(timeout),
    )
    .await
    .map_err(|why| DebugError::Unreachable(address.to_string(), why))?;
    if status != 200 {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(DebugError::Refused(status, text));
    }
    let file = match (asked.save, asked.archive) {
        (Some(file), _) => file,
        (None, true) => archive_name(&address),
        (None, false) => return Ok(String::from_utf8_lossy(&body).into_owned()),
    };
    save(&file, &body).map_err(|e| DebugError::Save(file.display().to_string(), e))?;
    let next = match form {
        "pprof" if !asked.archive => format!("; go tool pprof -top {}", file.display()),
        _ => String::new(),
    };
    Ok(format!("saved {} ({} bytes){next}\n", file.display(), body.len()))
}

/// A request and what to do with its answer.
struct Asked {
    address: Option<String>,
    method: &'static str,
    path: String,
    body: String,
    save: Option<PathBuf>,
    archive: bool,
    limit: Duration,
}

impl DebugCommand {
    fn asked(&self) -> Asked {
        let get = |address: &Option<String>, path: String| Asked {
            address: address.clone(),
            method: "GET",
            path,
            body: String::new(),
            save: None,
            archive: false,
            limit: Duration::ZERO,
        };
        match self {
            Self::Tasks { address, kind } => {
                let kind = kind
                    .as_deref()
                    .map(|kind| format!("?kind={}", http::encoded(kind)));
                get(address, format!("/debug/tasks{}", kind.unwrap_or_default()))
            }
            Self::Heap {
                address,
                sampling: Some(switch),
                ..
            } => Asked {
                method: "PUT",
                body: switch.clone(),
                ..get(address, "/debug/pprof/heap".to_owned())
            },
            Self::Heap {
                address,
                allocated,
                save,
                ..
            } => Asked {
                save: save.clone(),
                limit: MAKING_TIMEOUT,
                ..get(
                    address,
                    format!("/debug/pprof/{}", if *allocated { "allocs" } else { "heap" }),
                )
            },
            Self::Profile {
                address,
                seconds,
                save,
            } => Asked {
                save: save.clone(),
                limit: MAKING_TIMEOUT + Duration::from_secs(*seconds),
                ..get(address, format!("/debug/pprof/profile?seconds={seconds}"))
            },
            Self::LogLevel {
                address,
                set: Some(filter),
                lasts,
                ..
            } => Asked {
                method: "PUT",
                body: filter.clone(),
                ..get(address, format!("/debug/log-level?for={}", http::encoded(lasts)))
            },
            Self::LogLevel { address, reset, .. } => Asked {
                method: if *reset { "DELETE" } else { "GET" },
                ..get(address, "/debug/log-level".to_owned())
            },
            Self::Bundle { address, save } => Asked {
                save: save.clone(),
                archive: true,
                limit: MAKING_TIMEOUT,
                ..get(address, "/debug/bundle".to_owned())
            },
            Self::Page { address, name } => {
                let parts: Vec<_> = name.split('/').map(http::encoded).collect();
                get(address, format!("/debug/{}", parts.join("/")))
            }
        }
    }
}

fn archive_name(address: &HostPort) -> PathBuf {
    let host = address.host.replace([':', '/'], "_");
    format!("redkeeper-debug-{host}-{}.tar.gz", address.port).into()
}

/// Writes a new file; one that exists is not overwritten.
fn save(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::File::options().write(true).create_new(true).open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(subcommand)]
        command: DebugCommand,
    }

    fn asked(words: &str) -> Result<(&'static str, String, String), String> {
        let cli = Cli::try_parse_from(["x"].into_iter().chain(words.split(' ')));
        let asked = cli.map_err(|e| e.to_string())?.command.asked();
        Ok((asked.method, asked.path, asked.body))
    }

    #[test]
    fn each_command_asks_for_its_page() {
        for (words, method, path, body) in [
            ("tasks h:1", "GET", "/debug/tasks", ""),
            ("tasks --kind a&b", "GET", "/debug/tasks?kind=a%26b", ""),
            ("heap --allocated", "GET", "/debug/pprof/allocs", ""),
            ("heap --sampling on", "PUT", "/debug/pprof/heap", "on"),
            ("profile --seconds 3", "GET", "/debug/pprof/profile?seconds=3", ""),
            ("log-level", "GET", "/debug/log-level", ""),
            (
                "log-level --set debug --for 1h",
                "PUT",
                "/debug/log-level?for=1h",
                "debug",
            ),
            ("log-level --reset", "DELETE", "/debug/log-level", ""),
            ("bundle", "GET", "/debug/bundle", ""),
            ("page", "GET", "/debug/", ""),
            (
                "page --name instances/h:/run/a.sock",
                "GET",
                "/debug/instances/h%3A/run/a.sock",
                "",
            ),
        ] {
            let wanted = (method, path.to_owned(), body.to_owned());
            assert_eq!(asked(words), Ok(wanted), "{words}");
        }
        assert!(asked("profile --seconds 61").is_err());
        assert!(asked("log-level --set debug --reset").is_err());
    }

    #[test]
    fn a_file_that_exists_is_not_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        save(&file, b"1").unwrap();
        assert!(save(&file, b"2").is_err());
        assert_eq!(std::fs::read(&file).unwrap(), b"1");
    }
}
