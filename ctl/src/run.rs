//! What each command does.

use std::time::Duration;

use redkeeper_proto::v1::{self, watch_instances_response::Event};
use tonic_types::StatusExt;

use crate::{
    args::{Args, Command, Filter, Format},
    client::{self, Client},
    output,
};

/// Instances asked for at one time.
const PAGE: i32 = 1_000;

/// A collector says every 5 s that a watcher misses nothing; after three times that it is gone.
const QUIET_MAX: Duration = Duration::from_secs(15);

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
    Refused(tonic::Status),
    /// A value on the command line is wrong.
    #[error("{0}")]
    Usage(String),
    /// Standard output.
    #[error("cannot write the answer: {0}")]
    Output(#[from] std::io::Error),
    /// The collector ended a watch.
    #[error("the collector ended the watch")]
    WatchEnded,
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(status)
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
            Self::WatchEnded => Some("start it again; another collector may answer"),
            Self::Usage(_) | Self::Output(_) => None,
        }
    }
}

/// Carries out the command.
pub(crate) async fn run(args: Args) -> Result<(), Error> {
    let json = args.output == Format::Json;
    let mut client = client::connect(&args.endpoints, args.timeout).await?;
    let limit = args.timeout;
    match args.command {
        Command::List { filter, limit: most } => within(limit, list(&mut client, filter, most, json)).await,
        Command::Get { id } => within(limit, get(&mut client, id, json)).await,
        Command::Cluster => within(limit, cluster(&mut client, json)).await,
        Command::Agents => within(limit, agents(&mut client, json)).await,
        Command::Watch { filter } => watch(&mut client, filter, limit, json).await,
    }
}

async fn within(limit: Duration, command: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    tokio::time::timeout(limit, command)
        .await
        .unwrap_or(Err(Error::Timeout(limit)))
}

fn filter(filter: Filter) -> Result<v1::InstanceFilter, Error> {
    let state = |text: &String| {
        v1::InstanceState::from_str_name(&format!("INSTANCE_STATE_{}", text.to_uppercase()))
            .map(i32::from)
            .ok_or_else(|| {
                Error::Usage(format!(
                    "--state: {text:?} is none of up, degraded, down, unknown"
                ))
            })
    };
    let reason = |text: &String| {
        v1::Reason::from_str_name(&format!("REASON_{}", text.to_uppercase()))
            .map(i32::from)
            .ok_or_else(|| {
                Error::Usage(format!(
                    "--reason: {text:?} is not known; CONNECTION_REFUSED is an example"
                ))
            })
    };
    Ok(v1::InstanceFilter {
        states: filter.state.iter().map(state).collect::<Result<_, _>>()?,
        reasons: filter.reason.iter().map(reason).collect::<Result<_, _>>()?,
        clusters: filter.cluster,
        agent_ids: filter.host,
    })
}

async fn list(client: &mut Client, by: Filter, most: Option<usize>, json: bool) -> Result<(), Error> {
    let most = most.unwrap_or(usize::MAX);
    let mut request = v1::ListInstancesRequest {
        page_size: PAGE,
        page_token: String::new(),
        filter: Some(filter(by)?),
    };
    let mut all = v1::ListInstancesResponse::default();
    loop {
        let page = client.list_instances(request.clone()).await?.into_inner();
        all.instances.extend(page.instances);
        (all.header, all.total_size) = (page.header, page.total_size);
        if page.next_page_token.is_empty() || all.instances.len() >= most {
            break;
        }
        request.page_token = page.next_page_token;
    }
    all.instances.truncate(most);
    if json {
        output::json(&all)?
    } else {
        output::list(&all.instances, all.total_size, all.header.as_ref())?
    }
    Ok(())
}

async fn get(client: &mut Client, id: String, json: bool) -> Result<(), Error> {
    let answer = client
        .get_instance(v1::GetInstanceRequest { id })
        .await?
        .into_inner();
    if json {
        output::json(&answer)?;
    } else {
        output::get(&answer.instance.unwrap_or_default(), answer.header.as_ref())?;
    }
    Ok(())
}

async fn cluster(client: &mut Client, json: bool) -> Result<(), Error> {
    let answer = client
        .get_cluster_status(v1::GetClusterStatusRequest {})
        .await?
        .into_inner();
    if json {
        output::json(&answer)?
    } else {
        output::cluster(&answer)?
    }
    Ok(())
}

async fn agents(client: &mut Client, json: bool) -> Result<(), Error> {
    let mut request = v1::ListAgentsRequest {
        page_size: PAGE,
        page_token: String::new(),
    };
    let mut all = v1::ListAgentsResponse::default();
    loop {
        let page = client.list_agents(request.clone()).await?.into_inner();
        all.agents.extend(page.agents);
        all.header = page.header;
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if json {
        output::json(&all)?
    } else {
        output::agents(&all.agents, all.header.as_ref())?
    }
    Ok(())
}

async fn watch(client: &mut Client, by: Filter, limit: Duration, json: bool) -> Result<(), Error> {
    let request = v1::WatchInstancesRequest {
        filter: Some(filter(by)?),
        resume_token: String::new(),
    };
    let opened = tokio::time::timeout(limit, client.watch_instances(request)).await;
    let mut events = opened.map_err(|_| Error::Timeout(limit))??.into_inner();
    loop {
        let message = tokio::time::timeout(QUIET_MAX, events.message())
            .await
            .map_err(|_| Error::Timeout(QUIET_MAX))??;
        let Some(message) = message else {
            return Err(Error::WatchEnded);
        };
        if json {
            output::json(&message)?;
            continue;
        }
        match &message.event {
            Some(Event::Instance(instance)) => output::present(instance)?,
            Some(Event::Change(transition)) => output::change(transition)?,
            Some(Event::SnapshotEnd(_) | Event::Progress(_)) | None => {}
        }
    }
}
