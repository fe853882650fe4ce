//! Start and stop, common to both daemons: configuration, logs, exit code, result of the shutdown.

use std::{fmt, io::Write, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, Problem},
    exit, log_filter,
    profile::heap,
    supervise::Supervisor,
    telemetry::{self, LogFormat},
};

/// Log settings.
#[derive(Deserialize, Serialize, Debug, Clone)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Log filter such as `info` or `info,redkeeper_collector=debug`.
    pub filter: String,
    /// Format of log lines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        // The ZooKeeper client logs each reconnection at info; the coordinator logs what it means.
        Self {
            filter: "info,zookeeper_client=warn".to_owned(),
            format: LogFormat::Text,
        }
    }
}

impl Log {
    /// Mistakes in these settings.
    pub fn problems(&self) -> Vec<Problem> {
        let wrong = log_filter::parse(&self.filter).err();
        wrong
            .map(|text| Problem::new("log.filter", text))
            .into_iter()
            .collect()
    }
}

/// Settings of the pages below `/debug/`.
#[derive(Deserialize, Serialize, Debug, Clone, Default)]
#[serde(default, deny_unknown_fields)]
pub struct DebugPages {
    /// Whether allocations are sampled for heap profiles from the start. Off by default: it takes 3 % more CPU and 6 %
    /// more memory of an agent with 200 instances (`./bench agent-cost`).
    pub heap_profile: bool,
}

impl DebugPages {
    /// Applies them to this process.
    fn apply(&self) {
        match heap::set_sampling(self.heap_profile) {
            Ok(()) => {}
            Err(e) if self.heap_profile => tracing::warn!("debug.heap_profile: {e}"),
            Err(_) => {}
        }
    }
}

/// Parses an `ADDRESS:PORT` to listen on.
///
/// # Errors
/// When the address could not be used; the text says why and quotes `example`, a valid one.
pub fn listen_address(text: &str, example: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text
        .trim()
        .parse()
        .map_err(|_| format!("{text:?} is not a valid ADDRESS:PORT such as {example}"))?;
    if address.port() == 0 {
        return Err(format!(
            "{text:?} has port 0, which nobody could know; name one, such as {example}"
        ));
    }
    Ok(address)
}

/// Why a daemon could not run or did not stop well.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The runtime, a thread or the signal handlers could not be set up.
    #[error("cannot start: {0}")]
    Start(std::io::Error),
    /// A port is taken.
    #[error("cannot listen on {1} ({0}): {2}; free the port or set another one")]
    Bind(&'static str, SocketAddr, std::io::Error),
    /// A task ended that must not end.
    #[error("{0}")]
    Failed(String),
    /// Tasks that did not stop.
    #[error("some tasks did not stop within {0:?}")]
    Unclean(Duration),
}

/// A validated configuration, as far as `main` needs it.
pub trait Configuration: fmt::Display {
    /// Log settings.
    fn log(&self) -> &Log;
    /// Settings of the pages below `/debug/`.
    fn debug(&self) -> &DebugPages;
    /// Human-readable remarks on a valid configuration. One sentence each.
    fn notes(&self) -> &[String];
    /// Present faults of a part of the daemon, such as a missing file: the rest works, and the part recovers by itself.
    /// May read files. One line each.
    fn faults(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The rest of `main`, once flags and configuration have been read: reports mistakes or the result of `--check-config`,
/// or runs the daemon.
pub fn main<C: Configuration + Send + Sync + 'static>(
    loaded: Result<C, ConfigError>,
    check_only: bool,
    run: impl FnOnce(C) -> Result<(), DaemonError>,
) -> ExitCode {
    let config = match loaded {
        Ok(config) => config,
        Err(error) => {
            // If this cannot be written, the exit code still tells.
            writeln!(std::io::stderr(), "{error}").ok();
            return exit::config();
        }
    };
    if check_only {
        let config = Arc::new(config);
        let notes = config.notes().iter().map(|note| format!("note: {note}\n"));
        let faults = faults(&config, FAULTS_TIMEOUT)
            .into_iter()
            .map(|fault| format!("warning: {fault}\n"));
        let ok = format!("configuration ok: {config}\n");
        let text: String = notes.chain(faults).chain([ok]).collect();
        // If this cannot be written, the exit code still tells.
        std::io::stdout().write_all(text.as_bytes()).ok();
        return exit::OK;
    }
    let log = config.log();
    if let Err(error) = telemetry::init(&log.filter, log.format) {
        writeln!(std::io::stderr(), "error: log.filter: {error}").ok();
        return exit::config();
    }
    let _last_lines = telemetry::Finish;
    match raise_descriptor_limit() {
        Ok(limit) => tracing::debug!(limit, "file descriptors"),
        Err(e) => tracing::warn!("the limit of file descriptors cannot be raised: {e}"),
    }
    config.debug().apply();
    for note in config.notes() {
        tracing::info!("{note}");
    }
    match run(config) {
        Ok(()) => exit::OK,
        Err(error) => {
            tracing::error!("{error}");
            exit::failure()
        }
    }
}

/// How long `--check-config` looks for faults: a file system may hang.
const FAULTS_TIMEOUT: Duration = Duration::from_secs(40);

/// Looks for faults on a thread of its own, which is left behind if it takes longer than `limit`.
fn faults<C: Configuration + Send + Sync + 'static>(config: &Arc<C>, limit: Duration) -> Vec<String> {
    let (sender, found) = std::sync::mpsc::channel();
    let config = Arc::clone(config);
    let looking = std::thread::Builder::new()
        .name("check".to_owned())
        // Nobody waits for the result of a search that was given up.
        .spawn(move || sender.send(config.faults()).ok());
    let why = match looking.map(|_| found.recv_timeout(limit)) {
        Ok(Ok(faults)) => return faults,
        Ok(Err(_)) => format!("takes longer than {limit:?}, or failed; does a file system hang?"),
        Err(e) => format!("cannot start: {e}"),
    };
    vec![format!("the check of files and processes {why}")]
}

/// Raises the soft limit of file descriptors to the hard one: each instance and each stream takes one, and the usual
/// soft limit of 1,024 is for programs that use `select`.
///
/// # Errors
/// What the kernel said.
pub fn raise_descriptor_limit() -> Result<u64, nix::errno::Errno> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(hard)
}

/// Result of the shutdown. `clean` means that all tasks ended within `grace`.
///
/// # Errors
/// When the daemon stopped because of a failure, or when tasks did not end.
pub fn verdict(supervisor: &Supervisor, clean: bool, grace: Duration) -> Result<(), DaemonError> {
    match supervisor.failure() {
        Some(why) => Err(DaemonError::Failed(why)),
        None if clean => Ok(()),
        None => Err(DaemonError::Unclean(grace)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration whose check of files takes this long.
    struct Slow(Duration);

    impl fmt::Display for Slow {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("slow")
        }
    }

    impl Configuration for Slow {
        fn log(&self) -> &Log {
            unimplemented!("not asked for")
        }

        fn debug(&self) -> &DebugPages {
            unimplemented!("not asked for")
        }

        fn notes(&self) -> &[String] {
            &[]
        }

        fn faults(&self) -> Vec<String> {
            std::thread::sleep(self.0);
            vec!["a fault".to_owned()]
        }
    }

    #[test]
    fn a_check_that_hangs_is_given_up_and_said() {
        let limit = Duration::from_secs(20);
        assert_eq!(faults(&Arc::new(Slow(Duration::ZERO)), limit), ["a fault"]);
        let hung = faults(&Arc::new(Slow(limit)), Duration::from_millis(10));
        assert!(hung[0].contains("takes longer than 10ms"), "{hung:?}");
    }
}
