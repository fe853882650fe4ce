//! Flags of `redkeeper-agent`.

use std::path::PathBuf;

use redkeeper_runtime::debug_client::DebugCommand;

use crate::redis::tls::Verify;

/// Probes the local Redis instances and reports to every collector.
#[derive(clap::Parser, Debug, Default)]
#[command(version, about)]
pub struct Cli {
    /// Configuration file; without it, the default one if it exists.
    #[arg(long, short, env = "REDKEEPER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this agent; the host name by default.
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// gRPC addresses of all collectors.
    #[arg(long, value_delimiter = ',', value_name = "HOST:PORT,...")]
    pub collectors: Option<Vec<String>>,
    /// Check the configuration, say what is wrong with it, and exit with 0 or 78.
    #[arg(long)]
    pub check_config: bool,
    /// Subcommands, used instead of running the agent.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Subcommands, used instead of running the agent.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Diagnose one instance and print all findings. Exit code: 0 UP, 1 DEGRADED, 2 DOWN, 3 UNKNOWN.
    Probe(Probe),
    /// Look for instances on this host as the configuration says, or everywhere, and print what was found.
    Discover {
        /// Print each candidate with the reason why it is accepted or rejected.
        #[arg(long)]
        explain: bool,
    },
    /// Look into the running agent, through its HTTP server for debugging (`admin_listen`).
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print the smallest ACL user that the agent needs, for each server version.
    Acl {
        /// Name of the user.
        #[arg(long, default_value = "redkeeper", value_name = "NAME")]
        user: String,
    },
}

fn timeout(text: &str) -> Result<std::time::Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| e.to_string())?;
    let range = std::time::Duration::from_millis(10)..=std::time::Duration::from_secs(600);
    if range.contains(&time) {
        Ok(time)
    } else {
        Err("must be 10ms to 600s".to_owned())
    }
}

/// Options of `redkeeper-agent probe`.
#[derive(clap::Args, Debug)]
pub struct Probe {
    /// HOST:PORT, or a Unix socket path that starts with /.
    #[arg(value_name = "ADDRESS")]
    pub address: String,
    /// ACL user; the default user without it.
    #[arg(long, requires = "password_file", value_name = "NAME")]
    pub user: Option<String>,
    /// File whose first line is the password.
    #[arg(long, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// Use TLS, and trust the certificate authorities in this PEM file.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Client certificate chain, PEM.
    #[arg(long, requires_all = ["tls_ca", "tls_key"], value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the client certificate, PEM.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Name that the server's certificate must have; the host of ADDRESS by default.
    #[arg(long, requires = "tls_ca", value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// What the server's certificate must prove.
    #[arg(long, requires = "tls_ca", value_enum, default_value_t, value_name = "WHAT")]
    pub tls_verify: Verify,
    /// How long to wait for an answer, counted from the last one.
    #[arg(long, default_value = "3s", value_parser = timeout, value_name = "TIME")]
    pub timeout: std::time::Duration,
    /// Print one JSON object on one line.
    #[arg(long)]
    pub json: bool,
}
