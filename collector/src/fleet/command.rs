//! The commands that streams and the leader's session loop send to the aggregator.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    fleet::{AgentInfo, AgentSnapshot, Message, message_order::Origin},
    ids::{AgentId, Seq},
    publish::Record,
    status::Status,
};
use tokio::sync::{mpsc, oneshot};

use super::stream_status::StreamHandle;

/// Capacity of the command channel: one message of each of 2,000 agents, twice. When it is full, senders wait, which
/// slows down their own streams and no others.
pub const COMMANDS_MAX: usize = 4_096;
/// A command to the aggregator.
pub enum Command {
    /// A stream began.
    Hello(u64, AgentInfo, StreamHandle),
    /// A message of a stream.
    Message(u64, Seq, Message),
    /// Another collector begins to relay an agent, which it heard last, and whose last heartbeat it heard, this long ago.
    RelayBegins(u64, Box<AgentInfo>, StreamHandle, Box<[Duration; 2]>),
    /// A relayed message, which the other collector heard this long ago.
    Relayed(u64, Seq, Message, Duration),
    /// What is known of an agent that is heard directly.
    Snapshot(AgentId, oneshot::Sender<Option<AgentSnapshot>>),
    /// A stream ended.
    Bye(u64),
    /// Statuses found in ZooKeeper, and whether another collector led until now. Answered when they are in the view.
    Adopt(Vec<(Arc<Status>, Origin)>, bool, oneshot::Sender<()>),
}

/// The aggregator has stopped, which happens at shutdown only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the aggregator has stopped")]
pub struct Stopped;

/// Sends statuses to the aggregator and waits until they are in the view.
///
/// # Errors
/// When the aggregator is gone, which happens at shutdown only.
pub(crate) async fn adopt(
    commands: &mpsc::Sender<Command>,
    records: impl Iterator<Item = &Record>,
    grace: bool,
) -> Result<(), Stopped> {
    let (done, adopted) = oneshot::channel();
    let statuses = records.map(|record| (Arc::clone(&record.status), record.origin));
    let statuses = statuses.collect();
    commands
        .send(Command::Adopt(statuses, grace, done))
        .await
        .map_err(|_| Stopped)?;
    adopted.await.map_err(|_| Stopped)
}
