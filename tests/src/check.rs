//! Checkers of the invariants on recorded histories (`reference/robustness.md` section 2). Each says what broke
//! it, and each has a test that plants a violation.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::history::{Op, Txn, status_writes};

/// What was wrong.
pub type Violation = String;

/// When something was so, in milliseconds, in order. The last one may have no end yet.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Intervals(Vec<Range<u64>>);

impl Intervals {
    /// It is so from `at` on, unless it was so already.
    pub fn begin(&mut self, at: u64) {
        match self.0.last_mut().filter(|last| last.end > at) {
            Some(last) => last.end = u64::MAX,
            None => self.0.push(at..u64::MAX),
        }
    }

    /// Whatever was so before `at` no longer counts; it is so anew from then on.
    pub fn begin_anew(&mut self, at: u64) {
        if let Some(last) = self.0.last_mut() {
            last.end = last.end.min(at);
        }
        self.begin(at);
    }

    /// It is so no longer than until `at`.
    pub fn end(&mut self, at: u64) {
        if let Some(last) = self.0.last_mut().filter(|last| last.end == u64::MAX) {
            last.end = at;
        }
    }

    /// Whether it was so at some time from `from` on, and at `until`, which is taken `lag` milliseconds wide.
    fn lasts(&self, from: u64, until: u64, lag: u64) -> bool {
        let lasts = |one: &Range<u64>| one.start <= from && until < one.end.saturating_add(lag);
        self.0.iter().any(lasts)
    }
}

/// What was true of each instance: the state that a perfect observer would publish, from when on, in order.
pub type Truth = BTreeMap<String, Vec<(u64, String)>>;

/// When each agent was dead, or cut off from some collector.
pub type Lost = BTreeMap<String, Intervals>;

/// When a collector could not hear an agent, by agent and collector.
pub type Deaf = BTreeMap<(String, String), Intervals>;

/// When an agent counts as silent, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// `silent_after` of the collectors.
    pub after: u64,
    /// Longest time between two messages of an agent that is heard: so much earlier than `after` the verdict may come
    /// after the loss.
    pub heartbeat: u64,
    /// How old a status may be when it is written.
    pub lag: u64,
}

impl Silence {
    /// An agent that is called silent at `at` must have been lost by then.
    fn lost_by(&self, at: u64) -> u64 {
        (at + self.heartbeat).saturating_sub(self.after)
    }
}

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

/// Now, as the servers of an end-to-end test stamp their transactions: milliseconds since 1970.
pub fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How long a state may last until it is published, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of an instance that seldom changes.
    pub calm: u64,
    /// Of one that is flapping: at most one write a second (`core::publish::pace`).
    pub flapping: u64,
}

/// So many writes within so many milliseconds are more than are free (`core::publish::pace`): each counts for a second
/// and then for 10 s of quiet, so that the window is generous.
const FLAPPING: (usize, u64) = (4, 60_000);

/// I3: whatever was true for at least its bound, is published by then, within `time`.
///
/// # Errors
/// The first violation.
pub fn published_in_time(
    txns: &[Txn],
    truth: &Truth,
    time: &Range<u64>,
    bounds: Bounds,
) -> Result<(), Violation> {
    let published = published(txns);
    for (id, states) in truth {
        let list = published.get(id.as_str()).map_or(&[][..], Vec::as_slice);
        let ends = states.iter().skip(1).map(|(at, _)| *at).chain([time.end]);
        for ((from, state), end) in states.iter().zip(ends) {
            let (from, end) = ((*from).max(time.start), end.min(time.end));
            let of_late = from.saturating_sub(FLAPPING.1)..from + bounds.calm;
            let writes = list.iter().filter(|(at, _)| of_late.contains(at)).count();
            let bound = if writes < FLAPPING.0 {
                bounds.calm
            } else {
                bounds.flapping
            };
            if end < from + bound {
                continue;
            }
            if !held_in(list, from..from + bound).any(|held| held == Some(state)) {
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

/// I6: an agent is published as silent only by a collector that could not hear it (`deaf`) for all of the
/// time that `silence` asks for.
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
pub fn no_hasty_silence(txns: &[Txn], lost: &Lost, silence: Silence) -> Result<(), Violation> {
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
