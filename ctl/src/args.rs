//! The command-line arguments.

use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use redkeeper_runtime::debug_client::DebugCommand;

/// Asks a redkeeper collector which Redis instances are alive.
#[derive(Parser, Debug)]
#[command(name = "redkeeper", version, about)]
pub(crate) struct Args {
    /// Collectors to ask, in this order, until one answers. Default: REDKEEPER_ENDPOINTS, or else 127.0.0.1:7400.
    #[arg(long, global = true, value_name = "HOST:PORT,...")]
    pub endpoints: Option<String>,
    /// How long to wait for each answer, such as 500ms or 5s.
    #[arg(long, global = true, default_value = "5s", value_parser = duration)]
    pub timeout: Duration,
    /// Output format.
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Command to run.
    #[command(subcommand)]
    pub command: Command,
}

fn duration(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|e| format!("{e}; write it as 500ms or 5s"))?;
    if (Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&time) {
        Ok(time)
    } else {
        Err("must be 1ms to 1day".to_owned())
    }
}

/// Output format.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    /// Human-readable tables.
    Table,
    /// One JSON document with the fields of the gRPC answer; for `watch`, one per line.
    Json,
}

/// Command to run.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List instances.
    List {
        /// Which instances to print.
        #[command(flatten)]
        filter: Filter,
        /// Print at most this many.
        #[arg(long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show one instance.
    Get {
        /// Its id.
        id: String,
    },
    /// Print the present state, then every change, until ctrl-c.
    Watch {
        /// Which instances to print.
        #[command(flatten)]
        filter: Filter,
    },
    /// Show the leader, the collectors and the counts.
    Cluster,
    /// List agents.
    Agents,
    /// Change which collector leads.
    #[command(subcommand)]
    Leader(LeaderCommand),
    /// Look into a running daemon, through its HTTP server for debugging (`admin_listen`).
    #[command(subcommand)]
    Debug(DebugCommand),
}

/// Changes of the leader.
#[derive(Subcommand, Debug)]
pub(crate) enum LeaderCommand {
    /// Make another collector the leader, for example before work on the host of this one. Nothing is lost.
    StepDown {
        /// The collector that is to lead. Default: the next in line.
        #[arg(long, value_name = "ID")]
        to: Option<String>,
    },
}

/// Which instances. Values of one option are alternatives; different options must all match.
#[derive(Group, Debug)]
pub(crate) struct Filter {
    /// up, degraded, down, unknown.
    #[arg(long, value_delimiter = ',', value_name = "STATE,...")]
    pub state: Vec<String>,
    /// Such as CONNECTION_REFUSED.
    #[arg(long, value_delimiter = ',', value_name = "REASON,...")]
    pub reason: Vec<String>,
    /// Names of clusters.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub cluster: Vec<String>,
    /// Names of agents: the column AGENT, not the column HOST of `agents`.
    #[arg(long, value_delimiter = ',', value_name = "NAME,...")]
    pub host: Vec<String>,
}
