//! What goes into the fleet core and what comes out.

use std::{sync::Arc, time::Duration};

use super::Place;
use crate::{
    fleet::message_order::{Arrival, Origin},
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    status::{Identity, Status, Verdict},
    time::{Mono, WallMs},
};

/// One instance as an agent reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Its short name.
    pub handle: Handle,
    /// Its identity.
    pub identity: Identity,
    /// The agent's verdict.
    pub verdict: Verdict,
    /// Age of the last completed probe round.
    pub probe_age: Option<Duration>,
    /// Without a completed round for this long it is stalled.
    pub freshness_limit: Duration,
}

/// What one message of an agent says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Part of a snapshot; true on the last part.
    Snapshot(Vec<Report>, bool),
    /// Changed instances.
    Changes(Vec<Report>),
    /// Ages of the last completed rounds, and the agent's wall clock; zero where it does not tell.
    Heartbeat(Vec<(Handle, Duration)>, WallMs),
    /// Instances to forget.
    Gone(Vec<Handle>),
}

/// Who an agent says it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// Its name.
    pub agent: AgentId,
    /// Its life.
    pub boot: BootId,
    /// Its version, for people.
    pub version: String,
    /// Its host, for people.
    pub host: String,
    /// The address that it came from, for people; empty where it is not known.
    pub address: String,
    /// Its wall clock when it said so; zero where it does not tell.
    pub clock: WallMs,
}

impl Greeting {
    /// Where it runs, as far as that is known.
    pub fn place(&self) -> String {
        match (self.host.as_str(), self.address.as_str()) {
            ("", "") => "an unknown host".to_owned(),
            ("", address) => address.to_owned(),
            (host, "") => format!("host {host}"),
            (host, address) => format!("host {host} ({address})"),
        }
    }
}

/// An agent that is refused because another one, which is alive, has its id.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rival {
    /// Who it says it is.
    pub greeting: Greeting,
    /// How often it was refused.
    pub times: u64,
    /// When it was refused the last time.
    pub last: Mono,
}

impl Rival {
    /// Whether it tries still: an agent that is refused comes back within 15 s.
    pub fn is_present(&self, now: Mono) -> bool {
        now.since(self.last) < RIVAL_AGE_MAX
    }
}

/// Agents try again after 5 s at the latest, so two attempts may be lost.
const RIVAL_AGE_MAX: Duration = Duration::from_secs(15);

/// What the shell brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A stream began. `stream` is a number that the shell never reuses.
    Hello(u64, Greeting),
    /// A message of a stream that began.
    Message(u64, Seq, Message),
    /// Statuses found in ZooKeeper: taken over where nothing fresher is known. True where another collector led
    /// until now: an agent of which that one had heard more then gets a full grace period.
    Adopt(Vec<(Arc<Status>, Origin)>, bool),
    /// A stream ended.
    Bye(u64),
    /// Time passes.
    Tick,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The status of this instance changed, or it is new.
    Changed(InstanceId),
    /// This instance is no longer known.
    Removed(InstanceId),
    /// Something about the agent at this place changed, its progress included.
    Agent(Place),
    /// The agent that was at this place is no longer known.
    Forgotten(Place),
    /// How the message counted.
    Arrived(Arrival),
    /// The stream must be ended: its boot is retired.
    Superseded(u64),
    /// The stream must be ended: the agent at this place, which is alive, has its id.
    InUse(u64, Place),
    /// The stream must be ended: a bound is reached.
    Full(u64, &'static str),
    /// Two agents report the same instance; the first keeps it.
    Conflict(InstanceId, AgentId),
    /// The stream must be ended so that its agent sends everything again: a report that lost a conflict would
    /// win now.
    Resend(u64),
    /// This process slept this long.
    Paused(Duration),
}
