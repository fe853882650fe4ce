//! Conversion of the view to messages of the wire.

use std::time::Duration;

use redkeeper_core::{
    ids::{AgentId, Revision},
    status::Status as Known,
    time::{Mono, WallMs},
};
use redkeeper_proto::{convert, v1};
use redkeeper_runtime::clock::Clock;

use crate::{
    fleet::{
        change_log::Change,
        view::{AgentEntry, Entry, View},
    },
    grpc::errors::Failure,
};

const PAGE_DEFAULT: usize = 200;
const PAGE_MAX: usize = 1_000;
pub(super) fn page_size(wire: i32) -> Result<usize, Failure> {
    match usize::try_from(wire) {
        Ok(0) => Ok(PAGE_DEFAULT),
        Ok(size) => Ok(size.min(PAGE_MAX)),
        Err(_) => Err(Failure::InvalidArgument(format!("page_size: {wire} is negative"))),
    }
}

/// The time at which an answer is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Base for the ages of what was heard.
    pub(super) mono: Mono,
    /// Base for the ages of states, whose beginning is a wall-clock time.
    wall: WallMs,
}

impl Now {
    pub(super) fn of(clock: &Clock) -> Self {
        Self {
            mono: clock.now(),
            wall: clock.wall(),
        }
    }
}

/// How long ago that was, for display: the one place where a wall clock is subtracted from a time.
fn age(since: WallMs, now: WallMs) -> Option<Duration> {
    let known = since != WallMs::default();
    let millis = now.0.checked_sub(since.0).filter(|_| known)?;
    Some(Duration::from_millis(millis))
}

pub(super) fn instance(status: &Known, revision: Revision, progress: Option<Mono>, now: Now) -> v1::Instance {
    v1::Instance {
        id: status.identity.id.as_str().to_owned(),
        cluster: status
            .identity
            .cluster
            .as_ref()
            .map(|cluster| cluster.as_str().to_owned())
            .unwrap_or_default(),
        address: status.identity.address.to_string(),
        labels: (*status.identity.labels).clone(),
        agent_id: status.agent.as_str().to_owned(),
        verdict: Some(convert::verdict_to_wire(&status.verdict)),
        revision: revision.0,
        probe_age: progress.map(|at| convert::duration_to_wire(now.mono.since(at))),
        state_age: age(status.verdict.since, now.wall).map(convert::long_duration_to_wire),
        via: String::new(),
    }
}

/// The collector by which an agent is heard; empty if it is heard directly.
fn via(view: &View, agent: &AgentId) -> String {
    let greeting = view.agents.get(agent).and_then(|agent| agent.greeting.as_ref());
    greeting.map_or_else(String::new, |greeting| greeting.via.clone())
}

pub(super) fn entry(view: &View, entry: &Entry, now: Now) -> v1::Instance {
    v1::Instance {
        via: via(view, &entry.status.agent),
        ..instance(&entry.status, entry.revision, view.progress(&entry.status), now)
    }
}

pub(super) fn transition(view: &View, change: &Change, now: Now) -> v1::Transition {
    let previous = change.previous.as_ref().map(|status| status.verdict.reason);
    v1::Transition {
        revision: change.revision.0,
        instance: Some(instance(
            &change.status,
            change.revision,
            view.progress(&change.status),
            now,
        )),
        previous_state: previous.map_or(0, |reason| convert::state_to_wire(reason.state()).into()),
        previous_reason: previous.map_or(0, convert::reason_to_wire),
        removed: change.removed,
        left_filter: false,
        update: !change.is_transition(),
        time: convert::time_to_wire(change.time),
    }
}

pub(super) fn agent(id: &AgentId, entry: &AgentEntry, now: Now) -> v1::Agent {
    let greeting = entry.greeting.as_ref();
    v1::Agent {
        id: id.to_string(),
        boot_id: greeting.map(|g| g.boot.as_str().to_owned()).unwrap_or_default(),
        version: greeting.map(|g| g.version.clone()).unwrap_or_default(),
        host: greeting.map(|g| g.host.clone()).unwrap_or_default(),
        silent: entry.silent,
        heard_age: greeting.map(|_| convert::duration_to_wire(now.mono.since(entry.live.heard()))),
        sequence: entry.live.sequence(),
        instances: count(entry.ids.len()),
        connected_time: convert::time_to_wire(entry.connected),
        connected_age: age(entry.connected, now.wall).map(convert::long_duration_to_wire),
        clock_ahead: (entry.clock_ahead_ms != 0)
            .then(|| convert::signed_millis_to_wire(entry.clock_ahead_ms)),
        address: greeting.map(|g| g.address.clone()).unwrap_or_default(),
        via: greeting.map(|g| g.via.clone()).unwrap_or_default(),
        refused: entry.refused(now.mono).map(|rival| v1::RefusedAgent {
            boot_id: rival.greeting.boot.as_str().to_owned(),
            host: rival.greeting.host.clone(),
            address: rival.greeting.address.clone(),
            times: i64::try_from(rival.times).unwrap_or(i64::MAX),
            last_age: Some(convert::duration_to_wire(now.mono.since(rival.last))),
        }),
    }
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
