//! `watch` prints the present state of the instances that match, and then each change.

use std::time::Duration;

use redkeeper_proto::v1::{self, watch_instances_response::Event};
use tonic::Streaming;

use super::{Asked, filter::filter};
use crate::{args::Filter, client::Client, error::Error, output};

/// A collector confirms every 5 s that a watcher misses nothing; after three times that without a message, it counts as
/// gone.
const QUIET_MAX: Duration = Duration::from_secs(15);
/// How often a watch checks whether its output is still read.
const READER_INTERVAL: Duration = Duration::from_millis(250);

impl Asked {
    pub(super) async fn watch(&self, by: Filter) -> Result<(), Error> {
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
                // An update without a change of state is only printed as JSON, for programs.
                Some(Event::Change(change)) if change.update => {}
                Some(Event::Change(transition)) if !self.json => output::change(transition)?,
                Some(_) | None => {}
            }
        }
    }
}

/// Returns the next message of a watch. Also ends when the output is no longer read, even if nothing changes.
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
