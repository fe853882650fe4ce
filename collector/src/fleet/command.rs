//! The commands that streams and the leader's session loop send to the aggregator.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    fleet::{Adoption, AgentInfo, AgentSnapshot, Message, message_order::Origin},
    ids::{AgentId, Seq},
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
    /// Statuses found in ZooKeeper. Answered when they are in the view.
    Adopt(Adoption, oneshot::Sender<()>),
}

impl Command {
    /// How much work it is, in reports and statuses.
    pub(super) fn work(&self) -> usize {
        match self {
            Self::Message(_, _, message) | Self::Relayed(_, _, message, _) => match message {
                Message::Snapshot(reports, _) | Message::Changes(reports) => reports.len(),
                Message::Heartbeat(..) | Message::Gone(_) => 1,
            },
            Self::Adopt(adoption, _) => adoption.statuses.len(),
            // To answer with what an agent has reported takes as long as some reports.
            Self::Snapshot(..) => 100,
            Self::Hello(..) | Self::RelayBegins(..) | Self::Bye(_) => 1,
        }
        .max(1)
    }
}

/// The aggregator has stopped, which happens at shutdown only.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the aggregator has stopped")]
pub struct Stopped;

/// Statuses that are adopted at a time, in one or two milliseconds: other commands wait no longer.
const ADOPTED_AT_A_TIME: usize = 1_000;

/// How statuses that were found are adopted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Adopting {
    /// True after another collector led.
    pub(crate) grace: bool,
    /// The same for all parts, and of no other adoption.
    pub(crate) number: u64,
}

/// Sends statuses to the aggregator, in parts, and waits until they are in the view.
///
/// # Errors
/// When the aggregator is gone, which happens at shutdown only.
pub(crate) async fn adopt(
    commands: &mpsc::Sender<Command>,
    mut statuses: Vec<(Arc<Status>, Origin)>,
    Adopting { grace, number }: Adopting,
) -> Result<(), Stopped> {
    while !statuses.is_empty() {
        let rest = statuses.split_off(statuses.len().min(ADOPTED_AT_A_TIME));
        let part = Adoption {
            statuses: std::mem::replace(&mut statuses, rest),
            grace,
            number,
        };
        let (done, adopted) = oneshot::channel();
        let sent = commands.send(Command::Adopt(part, done)).await;
        sent.map_err(|_| Stopped)?;
        adopted.await.map_err(|_| Stopped)?;
    }
    Ok(())
}
