//! The `debug` command of both programs: asks a daemon's HTTP server for its debug pages, so that nobody has to know their
//! paths. `http` carries the requests.

mod http;

use std::{
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use hyper::body::Bytes;
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
    #[error("{0}: {1}; is that the `admin_listen` of a running daemon?")]
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
    let limits = (timeout, asked.limit.max(timeout));
    let request = asked.request(form);
    let file = match (asked.save, asked.archive) {
        (Some(file), _) => file,
        (None, true) => archive_name(&address),
        (None, false) => {
            let body = ask(&address, &request, limits).await?;
            return Ok(String::from_utf8_lossy(&body).into_owned());
        }
    };
    let failed = |e| DebugError::Save(file.display().to_string(), e);
    // Before the daemon is asked, because that may take a minute.
    let mut created = create(&file).map_err(failed)?;
    let saved = match ask(&address, &request, limits).await {
        Ok(body) => created.write_all(&body).map(|()| body.len()).map_err(failed),
        Err(e) => Err(e),
    };
    // An incomplete file must not look like an answer.
    let bytes = saved.inspect_err(|_| drop(std::fs::remove_file(&file)))?;
    let next = match form {
        "pprof" if !asked.archive => format!("; go tool pprof -top {}", file.display()),
        _ => String::new(),
    };
    Ok(format!("saved {} ({bytes} bytes){next}\n", file.display()))
}

/// Gets an answer. The limits are those of the connection and of the whole answer.
async fn ask(
    address: &HostPort,
    request: &Request,
    (connect, whole): (Duration, Duration),
) -> Result<Bytes, DebugError> {
    let Answer { status, body } = http::ask(address, request, connect, whole)
        .await
        .map_err(|why| DebugError::Unreachable(address.to_string(), why))?;
    if status == 200 {
        return Ok(body);
    }
    Err(DebugError::Refused(
        status,
        String::from_utf8_lossy(&body).trim().to_owned(),
    ))
}

/// A new file, which only its owner may read; one that exists is not overwritten.
fn create(file: &Path) -> std::io::Result<std::fs::File> {
    let mut options = std::fs::File::options();
    options.write(true).create_new(true).mode(0o600).open(file)
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

impl Asked {
    /// The request for an answer in this form.
    fn request(&self, form: &str) -> Request {
        let separator = if self.path.contains('?') { '&' } else { '?' };
        Request {
            method: self.method,
            path: format!("{}{separator}format={form}", self.path),
            body: self.body.clone(),
        }
    }
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

    #[tokio::test]
    async fn a_file_is_new_and_complete_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a");
        let command = DebugCommand::Bundle {
            address: None,
            save: Some(file.clone()),
        };
        // Nobody listens there: the port was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let asked = || run(&command, "", Duration::from_secs(5), false);
        assert!(matches!(asked().await, Err(DebugError::Address(_))));
        let asked = async |address: String| run(&command, &address, Duration::from_secs(5), false).await;
        assert!(matches!(
            asked(free.to_string()).await,
            Err(DebugError::Unreachable(..))
        ));
        assert!(!file.exists());
        std::fs::write(&file, "1").unwrap();
        assert!(matches!(asked(free.to_string()).await, Err(DebugError::Save(..))));
        assert_eq!(std::fs::read(&file).unwrap(), b"1");
    }
}
