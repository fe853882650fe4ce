//! Checkers of the invariants on recorded histories (`reference/robustness.md` section 2). Each says what broke
//! it, and each has a test that plants a violation.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use serde_json::Value;

use crate::history::{Op, Txn, status_writes};

/// What was wrong.
pub type Violation = String;

/// When something was so, in milliseconds: end excluded.
pub type Intervals = Vec<Range<u64>>;

/// What was true of each instance: the state that a perfect observer would publish, from when on, in order.
pub type Truth = BTreeMap<String, Vec<(u64, String)>>;

/// When each agent died, or lost its way to a collector, in order.
pub type Lost = BTreeMap<String, Vec<u64>>;

/// Longest time between two messages of an agent that is heard, in milliseconds.
const HEARTBEAT_MAX: u64 = 1_000;

/// I1: epochs grow, one session writes in each, and nobody writes statuses with another epoch than the newest.
/// Sessions in `others` are other hands of the test, which may write what they like.
///
/// # Errors
/// The first violation.
pub fn sole_writer(txns: &[Txn], others: &BTreeSet<i64>) -> Result<(), Violation> {
    let (mut epoch, mut leader) = (0, None);
    for txn in txns.iter().filter(|txn| !others.contains(&txn.session)) {
        for op in txn.ops.iter().filter(|op| op.is_write()) {
            let json = op.json();
            if op.path().ends_with("/epoch") && json["holder"] != "" {
                let claimed = json["epoch"].as_u64().unwrap_or(0);
                if claimed <= epoch {
                    return Err(format!("epoch {claimed} was claimed after epoch {epoch}"));
                }
                (epoch, leader) = (claimed, Some(txn.session));
            }
            if !op.path().contains("/instances/") {
                continue;
            }
            if leader != Some(txn.session) {
                return Err(format!(
                    "{} was written at {} by session {:#x}, which does not hold epoch {epoch}",
                    op.path(),
                    txn.at,
                    txn.session
                ));
            }
            if json["epoch"].as_u64().is_some_and(|written| written != epoch) {
                return Err(format!(
                    "{} tells epoch {} in epoch {epoch}",
                    op.path(),
                    json["epoch"]
                ));
            }
        }
    }
    Ok(())
}

/// I2: of one instance no status of an older message of the agent follows one of a newer, and no boot returns
/// after another, unless both say the same. What collectors say for want of messages is not a status of the agent.
///
/// # Errors
/// The first violation.
pub fn no_stale_overwrite(txns: &[Txn], others: &BTreeSet<i64>) -> Result<(), Violation> {
    let mut newest = BTreeMap::<&str, (Vec<String>, u64, [Value; 4])>::new();
    for (txn, id, op) in status_writes(txns) {
        let json = op.json();
        if matches!(op, Op::Delete(_)) {
            // With the znode goes the knowledge of what was published.
            newest.remove(id);
        }
        let (Some(boot), Some(seq)) = (json["boot"].as_str(), json["seq"].as_u64()) else {
            continue;
        };
        if is_collectors_own(&json["reason"]) || others.contains(&txn.session) {
            continue;
        }
        let says = ["reason", "role", "run_id", "addr"].map(|key| json[key].clone());
        let (boots, last, said) = newest.entry(id).or_default();
        if boots.last().is_some_and(|present| present == boot) {
            if seq < *last && says != *said {
                return Err(format!("{id}: message {seq} after {last}, at {}", txn.at));
            }
        } else if boots.iter().any(|former| former == boot) {
            return Err(format!("{id}: boot {boot} is back, at {}", txn.at));
        } else {
            boots.push(boot.to_owned());
            *last = 0;
        }
        (*last, *said) = (seq.max(*last), says);
    }
    Ok(())
}

/// I3: whatever was true for at least `bound`, is published by then, within `time`.
///
/// # Errors
/// The first violation.
pub fn published_in_time(
    txns: &[Txn],
    truth: &Truth,
    time: &Range<u64>,
    bound: u64,
) -> Result<(), Violation> {
    let published = published(txns);
    for (id, states) in truth {
        let ends = states.iter().skip(1).map(|(at, _)| *at).chain([time.end]);
        for ((from, state), end) in states.iter().zip(ends) {
            let (from, end) = ((*from).max(time.start), end.min(time.end));
            if end < from + bound {
                continue;
            }
            let seen = published
                .get(id.as_str())
                .is_some_and(|list| held_in(list, from..from + bound).any(|held| held == Some(state)));
            if !seen {
                return Err(format!(
                    "{id} was {state} from {from} to {end}; not published by {}",
                    from + bound
                ));
            }
        }
    }
    Ok(())
}

/// I4: each DOWN that is written was true at some time in the `lag` before.
///
/// # Errors
/// The first violation.
pub fn no_false_down(txns: &[Txn], truth: &Truth, others: &BTreeSet<i64>, lag: u64) -> Result<(), Violation> {
    for (txn, id, op) in status_writes(txns).filter(|(txn, ..)| !others.contains(&txn.session)) {
        if op.json()["state"] != "DOWN" {
            continue;
        }
        let was = truth.get(id).is_some_and(|states| {
            let list: Vec<_> = states
                .iter()
                .map(|(at, state)| (*at, Some(state.clone())))
                .collect();
            held_in(&list, txn.at.saturating_sub(lag)..txn.at + 1)
                .any(|state| state.is_some_and(|s| s == "DOWN"))
        });
        if !was {
            return Err(format!("{id} was written DOWN at {}, and was not", txn.at));
        }
    }
    Ok(())
}

/// I5: between `time.start` and `time.end`, in which collectors came and went and nothing else happened, no status
/// changed.
///
/// # Errors
/// The first violation.
pub fn neutral(txns: &[Txn], time: &Range<u64>) -> Result<(), Violation> {
    let mut held = BTreeMap::<&str, (String, String)>::new();
    for (txn, id, op) in status_writes(txns) {
        let json = op.json();
        let text = |key: &str| json[key].as_str().unwrap_or("").to_owned();
        let now = (text("state"), text("reason"));
        match held.insert(id, now.clone()) {
            Some(before) if before != now && time.contains(&txn.at) => {
                return Err(format!("{id}: {before:?} became {now:?} at {}", txn.at));
            }
            _ => {}
        }
    }
    Ok(())
}

/// I6: an agent is published as silent only where nobody could hear it: `deaf` are the times in which no collector
/// could, by agent.
///
/// # Errors
/// The first violation.
pub fn silence_is_real(txns: &[Txn], deaf: &BTreeMap<String, Intervals>, lag: u64) -> Result<(), Violation> {
    for (txn, id, op) in status_writes(txns) {
        let json = op.json();
        if json["reason"] != "AGENT_SILENT" {
            continue;
        }
        let agent = json["agent"].as_str().unwrap_or_default();
        let span = txn.at.saturating_sub(lag)..txn.at + 1;
        let real = deaf.get(agent).is_some_and(|list| {
            list.iter()
                .any(|deaf| deaf.start < span.end && span.start < deaf.end)
        });
        if !real {
            return Err(format!(
                "{id}: silence of {agent} was written at {}, and it could be heard",
                txn.at
            ));
        }
    }
    Ok(())
}

/// One event of a watcher: revision, instance, state before (empty for the first), state after.
pub type Event = (u64, String, String, String);

/// I7: events come in the order of their revisions, each once, and none is missing: each begins with the state in
/// which the one before of the same instance ended. `events` may come from several streams, resumed one after
/// the other.
///
/// # Errors
/// The first violation.
pub fn watch_history(events: &[Event]) -> Result<(), Violation> {
    let (mut revision, mut states) = (0, BTreeMap::<&str, &str>::new());
    for (number, id, before, after) in events {
        if *number <= revision {
            return Err(format!("revision {number} of {id} after {revision}"));
        }
        revision = *number;
        let known = states.insert(id, after);
        if known.is_some_and(|known| known != before) {
            return Err(format!(
                "{id}: {} before revision {number}, which begins with {before}",
                known.unwrap_or("")
            ));
        }
    }
    Ok(())
}

/// I8: from `healed` on, somebody leads and everything true is published within `bound`.
///
/// # Errors
/// The first violation.
pub fn live_again(txns: &[Txn], truth: &Truth, healed: u64, bound: u64) -> Result<(), Violation> {
    let until = healed + bound;
    let before: Vec<_> = txns.iter().filter(|txn| txn.at <= until).cloned().collect();
    let publisher = before
        .iter()
        .flat_map(|txn| &txn.ops)
        .rfind(|op| op.path().ends_with("/publisher"));
    if publisher.is_none_or(|op| op.json()["phase"] != "live") {
        return Err(format!("nobody was live at {until}: {publisher:?}"));
    }
    let published = published(&before);
    for (id, states) in truth {
        let Some((_, state)) = states.iter().rfind(|(at, _)| *at <= healed) else {
            continue;
        };
        let held = published
            .get(id.as_str())
            .and_then(|list| list.last())
            .and_then(|(_, s)| s.clone());
        if held.as_ref() != Some(state) {
            return Err(format!("{id} is {state}, published is {held:?} at {until}"));
        }
    }
    Ok(())
}

fn is_collectors_own(reason: &Value) -> bool {
    reason == "AGENT_SILENT" || reason == "PROBE_STALLED"
}

/// I5: a new leader gives every agent the whole of `silent_after` before it replaces what its predecessor published
/// by "silent". What it heard as well as the predecessor, and no longer hears since an agent was lost (`lost`, by agent),
/// is silent `silent_after` later, whoever leads then.
///
/// # Errors
/// The first violation.
pub fn no_hasty_silence(txns: &[Txn], lost: &Lost, silent_after: u64) -> Result<(), Violation> {
    // By instance: in the term that was claimed then, a status of its agent was written.
    let (mut claimed, mut held) = (0, BTreeMap::<&str, Option<u64>>::new());
    // One that leads again after itself knows all that it published.
    let (mut holder, mut again) = (Value::Null, false);
    for txn in txns {
        for op in txn.ops.iter().filter(|op| op.is_write()) {
            let json = op.json();
            if op.path().ends_with("/epoch") && json["holder"] != "" {
                claimed = txn.at;
                again = holder == json["holder"];
                holder = json["holder"].clone();
            }
            let Some(id) = op.instance() else { continue };
            // Where nothing is published there is nothing to keep.
            let kept = !matches!(op, Op::Delete(_)) && !is_collectors_own(&json["reason"]);
            let before = held.insert(id, kept.then_some(claimed)).flatten();
            let taken_over = !again && before.is_some_and(|term| term != claimed);
            // One heartbeat less than `silent_after` passes between the loss and the verdict.
            let due = (txn.at + HEARTBEAT_MAX).saturating_sub(silent_after);
            let losses = id.split(':').next().and_then(|agent| lost.get(agent));
            let is_lost = losses.is_some_and(|losses| losses.first().is_some_and(|at| *at <= due));
            let hasty = !is_lost && txn.at < claimed + silent_after;
            if json["reason"] == "AGENT_SILENT" && taken_over && hasty {
                return Err(format!(
                    "{id} was called silent at {}, claimed was at {claimed}",
                    txn.at
                ));
            }
        }
    }
    Ok(())
}

type Held<'a> = BTreeMap<&'a str, Vec<(u64, Option<String>)>>;

/// State of each status znode over time; `None` where there is none.
fn published(txns: &[Txn]) -> Held<'_> {
    let mut all = Held::new();
    for (txn, id, op) in status_writes(txns) {
        let state = match op {
            Op::Delete(_) => None,
            op => op.json()["state"].as_str().map(str::to_owned),
        };
        all.entry(id).or_default().push((txn.at, state));
    }
    all
}

/// Everything that held at some instant of `span`.
fn held_in(list: &[(u64, Option<String>)], span: Range<u64>) -> impl Iterator<Item = Option<&String>> {
    let ends = list.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
    list.iter()
        .zip(ends)
        .filter(move |((from, _), end)| *from < span.end && span.start < *end)
        .map(|((_, state), _)| state.as_ref())
}

#[cfg(test)]
mod tests;
