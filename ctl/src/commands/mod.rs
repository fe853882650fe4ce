//! Carries out the commands, each in a file of its own.

use std::time::Duration;

use redkeeper_core::hosts::{self, HostPort};
use tonic::{Response, Status};

use crate::{
    args::{Args, Command, Format},
    client::{self, Client},
    error::Error,
};

mod agents;
mod cluster;
mod debug;
mod filter;
mod get;
mod leader;
mod list;
mod watch;

/// Instances per request.
const PAGE: i32 = 1_000;
/// Default port of a collector.
const DEFAULT_PORT: u16 = 7400;
/// Environment variable with the collectors, used without `--endpoints`.
const VARIABLE: &str = "REDKEEPER_ENDPOINTS";

/// Carries out the command.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let json = args.output == Format::Json;
    let asked = Asked {
        endpoints: endpoints(args.endpoints.as_deref(), std::env::var(VARIABLE).ok())?,
        limit: args.timeout,
        json,
    };
    match args.command {
        Command::List { filter, limit } => asked.list(filter, limit.unwrap_or(usize::MAX)).await,
        Command::Get { id } => asked.get(id).await,
        Command::Cluster => asked.cluster().await,
        Command::Agents => asked.agents().await,
        Command::Leader(command) => asked.leader(command).await,
        Command::Debug(command) => asked.debug(&command).await,
        Command::Watch { filter } => asked.watch(filter).await,
    }
}

/// Returns the endpoints from the flag, or else the variable, or else this host. An empty variable counts as not set.
fn endpoints(flag: Option<&str>, variable: Option<String>) -> Result<Vec<HostPort>, Error> {
    let variable = variable.filter(|text| !text.trim().is_empty());
    let (name, text) = match (flag, &variable) {
        (Some(text), _) => ("--endpoints", text),
        (None, Some(text)) => (VARIABLE, text.as_str()),
        (None, None) => ("the default", "127.0.0.1"),
    };
    hosts::list(text, Some(DEFAULT_PORT)).map_err(|e| Error::Usage(format!("{name}: {e}")))
}

/// Endpoints and options of the requests.
struct Asked {
    endpoints: Vec<HostPort>,
    /// Time-out of each request.
    limit: Duration,
    json: bool,
}

impl Asked {
    async fn first<T>(
        &self,
        call: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
    ) -> Result<(Client, T), Error> {
        client::first(&self.endpoints, self.limit, call).await
    }

    async fn within<T>(&self, answer: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        match tokio::time::timeout(self.limit, answer).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_) => Err(Error::Timeout(self.limit)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_come_from_the_flag_the_variable_or_this_host() {
        let read = |flag, variable: Option<&str>| {
            let hosts = endpoints(flag, variable.map(str::to_owned)).map_err(|e| e.to_string())?;
            Ok::<_, String>(
                hosts
                    .iter()
                    .map(HostPort::to_string)
                    .collect::<Vec<_>>()
                    .join(" "),
            )
        };
        assert_eq!(read(None, None).as_deref(), Ok("127.0.0.1:7400"));
        assert_eq!(read(None, Some("")).as_deref(), Ok("127.0.0.1:7400"));
        assert_eq!(read(None, Some(" a, b:1 ,")).as_deref(), Ok("a:7400 b:1"));
        assert_eq!(read(Some("c"), Some("a")).as_deref(), Ok("c:7400"));
        let refused = read(Some(""), None).unwrap_err();
        assert_eq!(refused, "--endpoints: names no host");
        let refused = read(None, Some("http://a")).unwrap_err();
        assert!(
            refused.starts_with("REDKEEPER_ENDPOINTS: \"http://a\" is a URL"),
            "{refused}"
        );
    }
}
