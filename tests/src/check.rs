//! Checkers of the invariants I1 to I8 (`ARCHITECTURE.md`) on recorded histories. Each returns the first violation, and
//! each has a test that plants one.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::history::{Op, Txn, status_writes};

/// Description of a violated invariant.
pub type Violation = String;

/// Intervals in which a condition held, in milliseconds, in order. The last one may still be open.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Intervals(Vec<Range<u64>>);

impl Intervals {
    /// The condition holds from `at` on. Extends the last interval if that has not ended by then.
    pub fn begin(&mut self, at: u64) {
        match self.0.last_mut().filter(|last| last.end > at) {
            Some(last) => last.end = u64::MAX,
            None => self.0.push(at..u64::MAX),
        }
    }

    /// Ends the present interval at `at` and begins a new one.
    pub fn begin_anew(&mut self, at: u64) {
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(at);
        }
        self.begin(at);
    }

    /// The condition holds until `at` at most: ends an open interval.
    pub fn end(&mut self, at: u64) {
        if let Some(last) = self.0.last_mut().filter(|last| last.end == u64::MAX) {
            last.end = at;
        }
    }

    /// Whether one interval covers `from` to `until`, if its end is extended by `lag` milliseconds.
    fn lasts(&self, from: u64, until: u64, lag: u64) -> bool {
        let lasts = |one: &Range<u64>| one.start <= from && until < one.end.saturating_add(lag);
        self.0.iter().any(lasts)
    }
}

/// True states of each instance: the state that a perfect observer would publish, with its start, in order.
pub type Truth = BTreeMap<String, Vec<(u64, String)>>;

/// Times at which each agent was dead, or cut off from some collector.
pub type Lost = BTreeMap<String, Intervals>;

/// Times at which a collector could not hear an agent, by agent and collector.
pub type Deaf = BTreeMap<(String, String), Intervals>;

/// When an agent counts as silent, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// `silent_after` of the collectors.
    pub after: u64,
    /// Longest time between two messages of an agent that is heard. The verdict may come this much earlier than `after`
    /// after the loss, because silence counts from the last message.
    pub heartbeat: u64,
    /// How old a status may be when it is written.
    pub lag: u64,
}

impl Silence {
    /// Latest time at which an agent may have been lost that is called silent at `at`.
    fn lost_by(&self, at: u64) -> u64 {
        (at + self.heartbeat).saturating_sub(self.after)
    }
}

/// I1: epochs grow, one session writes in each, and no status is written with an epoch other than the newest. Sessions
/// in `others` belong to the test and may write anything.
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

/// I2: for each instance, no status from an older message of the agent follows one from a newer message, and no boot
/// returns after another, unless both statuses are equal. A status that a collector writes for lack of messages is not
/// the agent's.
///
/// # Errors
/// The first violation.
pub fn no_stale_overwrite(txns: &[Txn], others: &BTreeSet<i64>) -> Result<(), Violation> {
    let mut newest = BTreeMap::<&str, (Vec<String>, u64, [Value; 4])>::new();
    for (txn, id, op) in status_writes(txns) {
        let json = op.json();
        if matches!(op, Op::Delete(_)) {
            // A deleted znode takes with it the knowledge of what was published.
            newest.remove(id);
        }
        let (Some(boot), Some(seq)) = (json["boot"].as_str(), json["seq"].as_u64()) else {
            continue;
        };
        if is_collector_verdict(&json["reason"]) || others.contains(&txn.session) {
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

/// The present time in milliseconds since 1970, as in the transactions of the servers in an end-to-end test.
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Number of writes of one status that are free, and in milliseconds what each write costs once they are used up, and the
/// quiet time after which they are free again (`core::publish::rate_limit`).
const RATE_LIMIT: (u64, u64, u64) = (4, 1_000, 10_000);

/// Time from which an instance that was written at these times, in order, may be written again.
fn writable_at(writes: impl Iterator<Item = u64>) -> u64 {
    let (free, cost, quiet) = RATE_LIMIT;
    let (mut since, mut count) = (0, 0);
    for at in writes {
        if count == 0 || at >= since + count * cost + quiet {
            (since, count) = (at, 0);
        }
        count += 1;
    }
    if count >= free { since + count * cost } else { 0 }
}

/// I3: within `time`, every state that was true for at least `bound` milliseconds is published by then; the status of an
/// instance that was written too often is published as soon as the rate limit allows. Returns how many states were
/// judged by `bound` alone.
///
/// # Errors
/// The first violation.
pub fn published_in_time(
    txns: &[Txn],
    truth: &Truth,
    time: &Range<u64>,
    bound: u64,
) -> Result<usize, Violation> {
    let published = published(txns);
    let mut judged = 0;
    for (id, states) in truth {
        let list = published.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let ends = states.iter().skip(1).map(|(at, _)| *at).chain([time.end]);
        for ((from, state), end) in states.iter().zip(ends) {
            let (from, end) = ((*from).max(time.start), end.min(time.end));
            let writes = list.iter().map(|(at, _)| *at).take_while(|at| *at < from + bound);
            let writable = writable_at(writes).max(from);
            let due = writable + bound;
            if end < due {
                continue;
            }
            if !held_in(list, from..due).any(|held| held == Some(state)) {
                return Err(format!(
                    "{id} was {state} from {from} to {end}; not published by {due}"
                ));
            }
            judged += usize::from(writable == from);
        }
    }
    Ok(judged)
}

/// I4: each DOWN that is written was true at some time within the preceding `lag`.
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

/// I5: no status changed between `time.start` and `time.end`, during which collectors started and stopped and nothing
/// else happened.
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

/// I6: an agent is published as silent only by a collector that could not hear it (`deaf`) for the whole time that
/// `silence` requires.
///
/// # Errors
/// The first violation.
pub fn silence_is_real(
    txns: &[Txn],
    deaf: &Deaf,
    others: &BTreeSet<i64>,
    silence: Silence,
) -> Result<(), Violation> {
    let mut holder = String::new();
    for txn in txns.iter().filter(|txn| !others.contains(&txn.session)) {
        for op in txn.ops.iter().filter(|op| op.is_write()) {
            let json = op.json();
            let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
            if op.path().ends_with("/epoch") && json["holder"] != "" {
                holder = text("holder");
            }
            let Some(id) = op.instance().filter(|_| json["reason"] == "AGENT_SILENT") else {
                continue;
            };
            let agent = text("agent");
            let spells = deaf.get(&(agent.clone(), holder.clone()));
            if !spells.is_some_and(|spells| spells.lasts(silence.lost_by(txn.at), txn.at, silence.lag)) {
                return Err(format!(
                    "{id}: silence of {agent} was written at {} by {holder}, which could hear it: {spells:?}",
                    txn.at
                ));
            }
        }
    }
    Ok(())
}

/// One event of a watcher: revision, instance, state before (empty for the first), state after.
pub type Event = (u64, String, String, String);

/// I7: events arrive in the order of their revisions, each once, and none is missing: each starts with the state in
/// which the previous event of the same instance ended. `events` may come from several streams, resumed one after the
/// other.
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

/// I8: within `bound` after `healed`, a collector leads and the true state of every instance is published.
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

fn is_collector_verdict(reason: &Value) -> bool {
    reason == "AGENT_SILENT" || reason == "PROBE_STALLED"
}

/// I5: a new leader grants every agent the whole of `silent_after` before it replaces what its predecessor published by
/// "silent". An agent that the new leader had heard as well as its predecessor did, and that was lost (`lost`, by
/// agent) since, is silent `silent_after` after the loss, whoever leads then.
///
/// # Errors
/// The first violation.
pub fn no_hasty_silence(txns: &[Txn], lost: &Lost, silence: Silence) -> Result<(), Violation> {
    // For each instance: when the term was claimed in which a status of its agent was last written.
    let (mut claimed, mut held) = (0, BTreeMap::<&str, Option<u64>>::new());
    // A collector that succeeds itself knows all that it published.
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
            // A deletion or a collector's own verdict leaves nothing of the agent to keep.
            let kept = !matches!(op, Op::Delete(_)) && !is_collector_verdict(&json["reason"]);
            let before = held.insert(id, kept.then_some(claimed)).flatten();
            let taken_over = !again && before.is_some_and(|term| term != claimed);
            let losses = json["agent"].as_str().and_then(|agent| lost.get(agent));
            let is_lost = losses.is_some_and(|losses| losses.lasts(silence.lost_by(txn.at), txn.at, 0));
            let hasty = !is_lost && txn.at < claimed + silence.after;
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

type StoredStatus<'a> = BTreeMap<&'a str, Vec<(u64, Option<String>)>>;

/// State of each status znode over time; `None` where there is none.
fn published(txns: &[Txn]) -> StoredStatus<'_> {
    let mut all = StoredStatus::new();
    for (txn, id, op) in status_writes(txns) {
        let state = match op {
            Op::Delete(_) => None,
            op => op.json()["state"].as_str().map(str::to_owned),
        };
        all.entry(id).or_default().push((txn.at, state));
    }
    all
}

/// Returns every state that was published at some instant of `span`.
fn held_in(list: &[(u64, Option<String>)], span: Range<u64>) -> impl Iterator<Item = Option<&String>> {
    let ends = list.iter().skip(1).map(|(at, _)| *at).chain([u64::MAX]);
    list.iter()
        .zip(ends)
        .filter(move |((from, _), end)| *from < span.end && span.start < *end)
        .map(|((_, state), _)| state.as_ref())
}

#[cfg(test)]
mod tests;
