//! `/debug/instances`: the last probe of each instance.

use redkeeper_core::{status::State, time::Mono};
use redkeeper_runtime::admin::Content;
use serde_json::json;

use super::times::seconds_ago;
use crate::instances::{InstanceSummary, InstanceTable};

/// The list of all instances.
pub(super) fn list(table: &InstanceTable, now: Mono) -> Content {
    let mut text =
        String::from("INSTANCE                                 STATE     REASON              LAST ROUND\n");
    let mut rows = Vec::new();
    for InstanceSummary {
        id,
        reason,
        last_round,
    } in table.summaries()
    {
        let age = last_round.map(|at| seconds_ago(now, at));
        let last = age.map_or("never".to_owned(), |age| format!("{age:.3} s ago"));
        let state = reason.state();
        text.push_str(&format!("{id:<41}{state:<10}{reason:<20}{last}\n"));
        rows.push(json!({
            "id": id.as_str(), "state": state.as_str(), "reason": reason.as_str(), "last_round_seconds_ago": age,
        }));
    }
    let json = json!({ "instances": rows });
    Content { text, json }
}

/// Ids of all instances, those that are not UP first.
pub(super) fn worst_first(table: &InstanceTable) -> Vec<String> {
    let mut all = table.summaries();
    all.sort_by_key(|instance| instance.reason.state() == State::Up);
    all.into_iter().map(|instance| instance.id.to_string()).collect()
}
