//! Flags of `redkeeper-agent`.

use std::path::PathBuf;

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
}
