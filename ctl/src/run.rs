//! What each command does.

use std::time::Duration;

use redkeeper_core::hosts::{self, HostPort};
use redkeeper_proto::v1::{self, watch_instances_response::Event};
use tonic::{Response, Status, Streaming};
use tonic_types::StatusExt;

use crate::{
    args::{Args, Command, Filter, Format},
    client::{self, Client},
    known, output,
};

/// Instances asked for at one time.
const PAGE: i32 = 1_000;
/// Port of a collector where none is named.
const DEFAULT_PORT: u16 = 7400;
/// Names the collectors where `--endpoints` does not.
const VARIABLE: &str = "REDKEEPER_ENDPOINTS";

/// A collector says every 5 s that a watcher misses nothing; after three times that it is gone.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// How often it is looked whether somebody still reads what a watch prints.
const READER_INTERVAL: Duration = Duration::from_millis(250);

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Nobody answers.
    #[error("no collector can be reached ({0})")]
    Unreachable(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The collector said no.
    #[error("{}", .0.message())]
    Refused(Status),
    /// The connection ended after an answer.
    #[error("the collector has gone away in the middle of the answers")]
    Gone,
    /// A value on the command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Standard output.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
    /// The answer says that something is wrong.
    #[error("{0} fault(s) in the cluster")]
    Faults(usize),
    /// The collector ended a watch.
    #[error("the collector ended the watch")]
    WatchEnded,
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        // What the library says of a broken connection is not for people.
        if status.get_details_error_info().is_some() {
            Self::Refused(status)
        } else {
            Self::Gone
        }
    }
}

impl Error {
    /// What to do.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) => {
                Some("name the collectors with --endpoints host:7400,... or REDKEEPER_ENDPOINTS")
            }
            Self::Refused(status) => match status.get_details_error_info()?.reason.as_str() {
                "INSTANCE_NOT_FOUND" => Some("`redkeeper list` shows the known ids"),
                _ => None,
            },
            Self::WatchEnded | Self::Gone => Some("start it again; another collector may answer"),
            Self::Usage(_) | Self::Output(_) | Self::Faults(_) => None,
        }
    }
}

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
        Command::Watch { filter } => asked.watch(filter).await,
    }
}

/// The flag, or the variable, or this host. A variable without content is none.
fn endpoints(flag: Option<&str>, variable: Option<String>) -> Result<Vec<HostPort>, Error> {
    let variable = variable.filter(|text| !text.trim().is_empty());
    let (name, text) = match (flag, &variable) {
        (Some(text), _) => ("--endpoints", text),
        (None, Some(text)) => (VARIABLE, text.as_str()),
        (None, None) => ("the default", "127.0.0.1"),
    };
    hosts::list(text, Some(DEFAULT_PORT)).map_err(|e| Error::Usage(format!("{name}: {e}")))
}

fn filter(filter: &Filter) -> Result<v1::InstanceFilter, Error> {
    let state = |text: &String| {
        v1::InstanceState::from_str_name(&format!("INSTANCE_STATE_{}", text.trim().to_uppercase()))
            .filter(|state| *state != v1::InstanceState::Unspecified)
            .map(i32::from)
            .ok_or_else(|| {
                Error::Usage(format!(
                    "--state: {text:?} is none of up, degraded, down, unknown"
                ))
            })
    };
    let reason = |text: &String| {
        let word = text.trim().to_uppercase();
        let word = word.strip_prefix("REASON_").unwrap_or(&word);
        let named = v1::Reason::from_str_name(&format!("REASON_{word}")).map(i32::from);
        // The number that stands for a reason of a newer version.
        let number = || word.parse().ok();
        named.or_else(number).filter(|number| *number > 0).ok_or_else(|| {
            let all = (1..=u8::MAX).map_while(|n| v1::Reason::try_from(i32::from(n)).ok());
            let all = all.map(|reason| reason.as_str_name().trim_start_matches("REASON_").to_owned());
            let all = all.collect::<Vec<_>>().join(", ");
            Error::Usage(format!("--reason: {text:?} is not known; there are {all}"))
        })
    };
    Ok(v1::InstanceFilter {
        states: filter.state.iter().map(state).collect::<Result<_, _>>()?,
        reasons: filter.reason.iter().map(reason).collect::<Result<_, _>>()?,
        clusters: filter.cluster.clone(),
        agent_ids: filter.host.clone(),
    })
}

/// Where and how something is asked.
struct Asked {
    endpoints: Vec<HostPort>,
    /// For each request.
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

    async fn list(&self, by: Filter, most: usize) -> Result<(), Error> {
        let mut request = v1::ListInstancesRequest {
            page_size: i32::try_from(most).map_or(PAGE, |most| most.clamp(1, PAGE)),
            page_token: String::new(),
            filter: Some(filter(&by)?),
        };
        let asked = &request;
        let (mut client, mut page) = self
            .first(async |client| client.list_instances(asked.clone()).await)
            .await?;
        // Each page is printed when it comes, so that a list of a million needs no memory for it.
        let mut list = output::List::new(self.json);
        loop {
            page.instances.truncate(most - list.printed());
            list.print(&page.instances)?;
            if page.next_page_token.is_empty() || list.printed() >= most {
                break;
            }
            request.page_token = std::mem::take(&mut page.next_page_token);
            page = self.within(client.list_instances(request.clone())).await?;
        }
        list.end(page.total_size, page.header.as_ref())?;
        self.unknown(&mut client, &by).await;
        Ok(())
    }

    /// Says which values of the filter nobody has. Where that cannot be asked, the answer stands without it.
    async fn unknown(&self, client: &mut Client, by: &Filter) {
        for note in known::unknown_values(client, by, self.limit).await {
            output::complain(&format!("note: {note}"));
        }
    }

    async fn get(&self, id: String) -> Result<(), Error> {
        let request = v1::GetInstanceRequest { id };
        let get = async |client: &mut Client| client.get_instance(request.clone()).await;
        let (_, answer) = self.first(get).await?;
        if self.json {
            output::json(&answer)?;
        } else {
            output::get(&answer.instance.unwrap_or_default(), answer.header.as_ref())?;
        }
        Ok(())
    }

    async fn cluster(&self) -> Result<(), Error> {
        let get = async |client: &mut Client| client.get_cluster_status(v1::GetClusterStatusRequest {}).await;
        let (_, answer) = self.first(get).await?;
        if self.json {
            output::json(&answer)?;
        } else {
            output::cluster(&answer)?;
        }
        match answer.warnings.len() {
            0 => Ok(()),
            faults => Err(Error::Faults(faults)),
        }
    }

    async fn agents(&self) -> Result<(), Error> {
        let mut request = v1::ListAgentsRequest {
            page_size: PAGE,
            page_token: String::new(),
        };
        let asked = &request;
        let (mut client, mut all) = self
            .first(async |client| client.list_agents(asked.clone()).await)
            .await?;
        while !all.next_page_token.is_empty() {
            request.page_token = std::mem::take(&mut all.next_page_token);
            let page = self.within(client.list_agents(request.clone())).await?;
            all.agents.extend(page.agents);
            (all.header, all.next_page_token) = (page.header, page.next_page_token);
        }
        if self.json {
            output::json(&all)?;
        } else {
            output::agents(&all.agents, all.header.as_ref())?;
        }
        Ok(())
    }

    async fn watch(&self, by: Filter) -> Result<(), Error> {
        let request = v1::WatchInstancesRequest {
            filter: Some(filter(&by)?),
            resume_token: String::new(),
        };
        let open = async |client: &mut Client| client.watch_instances(request.clone()).await;
        let (mut client, mut events) = self.first(open).await?;
        loop {
            let message = next(&mut events).await?;
            if self.json {
                output::json(&message)?;
            }
            match &message.event {
                Some(Event::SnapshotEnd(_)) => self.unknown(&mut client, &by).await,
                Some(Event::Instance(instance)) if !self.json => output::present(instance)?,
                // News of an instance whose state did not change: for programs, which ask for JSON.
                Some(Event::Change(change)) if change.update => {}
                Some(Event::Change(transition)) if !self.json => output::change(transition)?,
                Some(_) | None => {}
            }
        }
    }
}

/// The next message of a watch. Ends, too, when nobody reads any more what is printed, although nothing changes.
async fn next(
    events: &mut Streaming<v1::WatchInstancesResponse>,
) -> Result<v1::WatchInstancesResponse, Error> {
    let mut quiet = Duration::ZERO;
    loop {
        match tokio::time::timeout(READER_INTERVAL, events.message()).await {
            Ok(message) => return message?.ok_or(Error::WatchEnded),
            Err(_) if output::reader_is_gone() => {
                return Err(Error::Output(std::io::ErrorKind::BrokenPipe.into()));
            }
            Err(_) => quiet += READER_INTERVAL,
        }
        if quiet >= QUIET_MAX {
            return Err(Error::Timeout(QUIET_MAX));
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

    #[test]
    fn filters_take_words_and_numbers() {
        let by = |state: &str, reason: &str| Filter {
            state: vec![state.to_owned()],
            reason: vec![reason.to_owned()],
            cluster: Vec::new(),
            host: Vec::new(),
        };
        let read = filter(&by("Down", "connection_refused")).unwrap();
        assert_eq!((read.states, read.reasons), (vec![3], vec![2]));
        assert_eq!(filter(&by("up", "REASON_77")).unwrap().reasons, [77]);
        for (state, reason) in [
            ("nope", "OK"),
            ("unspecified", "OK"),
            ("up", "nope"),
            ("up", "-1"),
            ("up", "UNSPECIFIED"),
        ] {
            assert!(
                matches!(filter(&by(state, reason)), Err(Error::Usage(_))),
                "{state} {reason}"
            );
        }
    }
}
