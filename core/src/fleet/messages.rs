//! The inputs and effects of the fleet core.

use std::time::Duration;

use super::{Adoption, SlotKey};
use crate::{
    fleet::message_order::Arrival,
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    status::{Identity, Verdict},
    time::{Mono, WallMs},
};

/// One instance as an agent reports it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Its handle.
    pub handle: Handle,
    /// Its identity.
    pub identity: Identity,
    /// The agent's verdict.
    pub verdict: Verdict,
    /// Age of the last completed probe round.
    pub probe_age: Option<Duration>,
    /// It is stalled after this long without a completed round.
    pub freshness_limit: Duration,
}

/// Content of one message of an agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Part of a snapshot; true on the last part.
    Snapshot(Vec<Report>, bool),
    /// Changed instances.
    Changes(Vec<Report>),
    /// Ages of the last completed rounds, and the agent's wall clock; zero if it does not send its time.
    Heartbeat(Vec<(Handle, Duration)>, WallMs),
    /// Instances to forget.
    Gone(Vec<Handle>),
}

/// What an agent says of itself in its Hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentInfo {
    /// Its name.
    pub agent: AgentId,
    /// Its boot.
    pub boot: BootId,
    /// Its version, for display.
    pub version: String,
    /// Its host, for display.
    pub host: String,
    /// The address that it connects from, for display; empty if it is not known.
    pub address: String,
    /// The collector that relays its messages; empty if it is heard directly.
    pub via: String,
    /// Its wall clock when it sent the Hello; zero if it does not send its time.
    pub clock: WallMs,
}

impl AgentInfo {
    /// Human-readable place where it runs, as far as that is known.
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
    /// What it says of itself.
    pub greeting: AgentInfo,
    /// Number of refusals.
    pub times: u64,
    /// Time of the last refusal.
    pub last: Mono,
}

impl Rival {
    /// Whether it still tries: an agent that is refused comes back within 15 s.
    pub fn is_present(&self, now: Mono) -> bool {
        now.since(self.last) < RIVAL_AGE_MAX
    }
}

/// How long a refused agent counts as present. Agents try again after 5 s at the latest, so two attempts may be lost.
const RIVAL_AGE_MAX: Duration = Duration::from_secs(15);

/// What the shell passes in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// A stream began. `stream` is a number that the shell never reuses.
    Hello(u64, AgentInfo),
    /// A message of an open stream.
    Message(u64, Seq, Message),
    /// Another collector begins to relay an agent. It heard the agent last, and its last heartbeat, this long ago.
    RelayBegins(u64, Box<AgentInfo>, Duration, Duration),
    /// A message that another collector relays, which heard it this long ago.
    Relayed(u64, Seq, Message, Duration),
    /// Statuses found in ZooKeeper: taken over where nothing fresher is known.
    Adopt(Adoption),
    /// A stream ended.
    Bye(u64),
    /// Time passes.
    Tick,
}

/// What the shell must do or know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// The status of this instance changed, or it is new.
    Changed(InstanceId),
    /// This instance is no longer known.
    Removed(InstanceId),
    /// Something about the agent in this slot changed, such as its progress.
    Agent(SlotKey),
    /// The agent that was in this slot is no longer known.
    Forgotten(SlotKey),
    /// How the message counted.
    Arrived(Arrival),
    /// The stream must be ended: its boot is superseded.
    Superseded(u64),
    /// The stream must be ended: the agent in this slot, which is alive, has its id.
    InUse(u64, SlotKey),
    /// The stream must be ended: a bound is reached.
    Full(u64, &'static str),
    /// Two agents report the same instance; the first keeps it.
    Conflict(InstanceId, AgentId),
    /// The stream must be ended so that its agent sends everything again: a report that lost a conflict would now win.
    Resend(u64),
    /// This process did not run for this long.
    Paused(Duration),
    /// What the brake [holds](super::Fleet::held) has changed.
    Held,
}
