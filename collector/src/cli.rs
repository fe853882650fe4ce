//! Flags of `redkeeper-collector`.

use std::path::PathBuf;

/// Collects what agents see, answers tools, and publishes to ZooKeeper when elected.
#[derive(clap::Parser, Debug, Default)]
#[command(version, about)]
pub struct Cli {
    /// Configuration file; without it, the default one if it exists.
    #[arg(long, short, env = "REDKEEPER_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of this collector.
    #[arg(long, value_name = "NAME")]
    pub id: Option<String>,
    /// ZooKeeper servers.
    #[arg(long, value_name = "HOST:PORT,...")]
    pub zookeeper: Option<String>,
    /// Run alone, without ZooKeeper: for a trial, or where only queries are wanted.
    #[arg(long)]
    pub standalone: bool,
    /// Check the configuration, say what is wrong with it, and exit with 0 or 78.
    #[arg(long)]
    pub check_config: bool,
}
