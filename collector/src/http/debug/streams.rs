//! `/debug/streams`: the open streams of agents, and the agents that have none.

use std::{collections::BTreeSet, time::Duration};

use redkeeper_core::{fleet::silent_at, ids::AgentId};
use redkeeper_runtime::{
    admin::{Content, short},
    clock::rfc3339,
};
use serde_json::{Value, json};

use super::{Now, Sources};
use crate::fleet::{
    open_streams::OpenStream,
    view::{AgentEntry, View},
};

/// A line of text, and the same as JSON.
type Row = (String, Value);

/// The page.
pub(super) fn page(sources: &Sources) -> Content {
    // In this order, so that an agent whose stream has just begun is not shown without one.
    let (view, mut streams) = (sources.view.get(), sources.open_streams.all());
    let now = Now::of(sources.clock);
    streams.sort_by(|a, b| (&a.agent, a.number).cmp(&(&b.agent, b.number)));
    let open: BTreeSet<&AgentId> = streams.iter().map(|stream| &stream.agent).collect();
    let rows: Vec<_> = streams
        .iter()
        .map(|stream| stream_row(&view, stream, now))
        .collect();
    let without = view.agents.values().filter(|agent| !open.contains(&agent.name));
    let without: Vec<_> = without
        .map(|agent| agent_row(agent, sources.silent_after, now))
        .collect();

    let mut text = format!(
        "{} open streams of {} agents, {} agents without a stream\n",
        rows.len(),
        open.len(),
        without.len()
    );
    text.push_str(
        "Sequences count an agent's messages to all collectors; LAG is what is not yet applied of them.\n\n",
    );
    text.push_str(
        "AGENT                    HOST                     PEER                     STREAM   OPEN SINCE            \
         RECEIVED    APPLIED     ACKED       LAG     MESSAGES    LAST FRAME\n",
    );
    text.extend(rows.iter().map(|(line, _)| line.as_str()));
    text.push_str(
        "\nWITHOUT A STREAM         HOST                     INSTANCES  SILENT SINCE          LAST HEARD\n",
    );
    text.extend(without.iter().map(|(line, _)| line.as_str()));
    let json = |rows: Vec<Row>| rows.into_iter().map(|(_, json)| json).collect::<Vec<_>>();
    Content {
        text,
        json: json!({ "streams": json(rows), "agents_without_stream": json(without) }),
    }
}

fn stream_row(view: &View, stream: &OpenStream, now: Now) -> Row {
    let (sequences, agent) = (stream.sequences(), stream.agent.as_str());
    // The view tells the host of the newest boot only.
    let greeting = view.agents.get(&stream.agent);
    let greeting = greeting.and_then(|agent| agent.greeting.as_ref());
    let host = greeting.filter(|greeting| greeting.boot == stream.boot);
    let host = host.map_or("", |greeting| greeting.host.as_str());
    let peer = stream.peer.map(|peer| peer.to_string());
    let line = format!(
        "{agent:<25}{:<25}{:<25}{:<9}{:<22}{:<12}{:<12}{:<12}{:<8}{:<12}{} ago\n",
        or_dash(host),
        peer.as_deref().unwrap_or("-"),
        stream.number,
        rfc3339(stream.opened),
        sequences.received,
        sequences.applied,
        sequences.acknowledged,
        sequences.lag(),
        stream.messages(),
        short(now.mono.since(stream.heard())),
    );
    let json = json!({
        "agent": agent,
        "boot": stream.boot.as_str(),
        "host": host,
        "peer": peer,
        "stream": stream.number,
        "open_since": rfc3339(stream.opened),
        "received": sequences.received,
        "applied": sequences.applied,
        "acknowledged": sequences.acknowledged,
        "lag": sequences.lag(),
        "messages": stream.messages(),
        "last_frame_seconds_ago": now.seconds_since(stream.heard()),
    });
    (line, json)
}

fn agent_row(agent: &AgentEntry, silent_after: Duration, now: Now) -> Row {
    let (name, instances, live) = (agent.name.as_str(), agent.ids.len(), &agent.live);
    let host = agent
        .greeting
        .as_ref()
        .map_or("", |greeting| greeting.host.as_str());
    // An agent that is known from ZooKeeper only was never heard.
    let heard = agent.greeting.as_ref().map(|_| live.heard());
    let silent_since = silent_at(live.heard(), live.heartbeat_at(), silent_after);
    let silent_since = agent.silent.then(|| rfc3339(now.wall_of(silent_since)));
    let line = format!(
        "{name:<25}{:<25}{instances:<11}{:<22}{}\n",
        or_dash(host),
        silent_since.as_deref().unwrap_or("not yet"),
        heard.map_or_else(|| "never".to_owned(), |at| now.relative(at)),
    );
    let json = json!({
        "agent": name,
        "host": host,
        "instances": instances,
        "silent": agent.silent,
        "silent_since": silent_since,
        "heard_seconds_ago": heard.map(|at| now.seconds_since(at)),
    });
    (line, json)
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
