//! `/debug/streams`: the stream to each collector, and how the last one ended.

use redkeeper_core::time::Mono;
use redkeeper_runtime::admin::Content;
use serde_json::{Value, json};

use super::times::{ago, duration, seconds_ago, seconds_until, until};
use crate::report::{Phase, StreamState, StreamStatus, Welcomed};

/// All streams.
pub(super) fn page(streams: &[(String, StreamStatus)], now: Mono) -> Content {
    let (mut text, mut rows) = (String::new(), Vec::new());
    for (collector, status) in streams {
        let state = status.get();
        text.push_str(&describe(collector, &state, now));
        rows.push(row(collector, &state, now));
    }
    let json = json!({ "streams": rows });
    Content { text, json }
}

/// Name of the state.
fn name(state: &StreamState) -> &'static str {
    let is_refused = state.last_end.as_ref().is_some_and(|end| end.is_refusal);
    match state.phase {
        Phase::NotStarted => "not started",
        Phase::Connecting(_) => "connecting",
        Phase::Open(_) => "open",
        Phase::Waiting(_) if is_refused => "refused",
        Phase::Waiting(_) => "waiting",
    }
}

fn describe(collector: &str, state: &StreamState, now: Mono) -> String {
    let mut lines = vec![("state", named(state, now))];
    lines.push(("attempts", format!("{} without a lasting stream", state.attempts)));
    if let Some(welcomed) = &state.welcomed {
        lines.push(("collector", terms(welcomed)));
    }
    if let Some((seq, at)) = state.last_sent {
        lines.push(("last sent", format!("{seq}, {}", ago(now, at), seq = seq.0)));
    }
    if let Some(seq) = state.last_acked {
        lines.push(("acknowledged", format!("up to {}", seq.0)));
    }
    let oldest = state.oldest_unacked;
    let oldest = oldest.map_or(String::new(), |at| format!(", the oldest sent {}", ago(now, at)));
    lines.push((
        "unacknowledged",
        format!("{count}{oldest}", count = state.unacked),
    ));
    if let Some(at) = state.answered_at {
        lines.push(("last answer", ago(now, at)));
    }
    if let Some(end) = &state.last_end {
        lines.push(("last end", format!("{}: {}", ago(now, end.at), end.text)));
    }
    let mut text = format!("{collector}\n");
    for (name, value) in lines {
        text.push_str(&format!("  {name:<16}{value}\n"));
    }
    text
}

/// The state, and since or until when.
fn named(state: &StreamState, now: Mono) -> String {
    let name = name(state);
    match state.phase {
        Phase::NotStarted => format!("{name}: the first discovery scan is not done"),
        Phase::Connecting(at) => format!("{name}, began {}", ago(now, at)),
        Phase::Open(at) => format!("{name}, since {}", ago(now, at)),
        Phase::Waiting(at) => format!("{name}, next attempt {}", until(now, at)),
    }
}

fn terms(welcomed: &Welcomed) -> String {
    format!(
        "{}, heartbeat each {}, silent after {}",
        welcomed.collector_id,
        duration(welcomed.heartbeat_interval),
        duration(welcomed.silent_after)
    )
}

fn row(collector: &str, state: &StreamState, now: Mono) -> Value {
    let (since, retry_at) = match state.phase {
        Phase::NotStarted => (None, None),
        Phase::Connecting(at) | Phase::Open(at) => (Some(at), None),
        Phase::Waiting(at) => (None, Some(at)),
    };
    let age = |at: Option<Mono>| at.map(|at| seconds_ago(now, at));
    let welcomed = state.welcomed.as_ref();
    let end = state.last_end.as_ref();
    json!({
        "address": collector,
        "state": name(state),
        "since_seconds_ago": age(since),
        "retry_in_seconds": retry_at.map(|at| seconds_until(now, at)),
        "attempts": state.attempts,
        "collector_id": welcomed.map(|welcomed| &welcomed.collector_id),
        "heartbeat_interval_seconds": welcomed.map(|welcomed| welcomed.heartbeat_interval.as_secs_f64()),
        "silent_after_seconds": welcomed.map(|welcomed| welcomed.silent_after.as_secs_f64()),
        "last_sent": state.last_sent.map(|(seq, _)| seq.0),
        "last_sent_seconds_ago": age(state.last_sent.map(|(_, at)| at)),
        "last_acknowledged": state.last_acked.map(|seq| seq.0),
        "last_answer_seconds_ago": age(state.answered_at),
        "unacknowledged": state.unacked,
        "oldest_unacknowledged_seconds_ago": age(state.oldest_unacked),
        "last_end": end.map(|end| json!({
            "seconds_ago": seconds_ago(now, end.at), "text": end.text, "is_refusal": end.is_refusal,
        })),
    })
}
