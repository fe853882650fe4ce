//! `/debug/instances`: the last probe of each instance.

use redkeeper_core::time::Mono;
use redkeeper_runtime::admin::Content;
use serde_json::json;

use crate::instances::InstanceTable;

/// The list of all instances.
pub(super) fn list(table: &InstanceTable, now: Mono) -> Content {
    let mut text =
        String::from("INSTANCE                                 STATE     REASON              LAST ROUND\n");
    let mut rows = Vec::new();
    for entry in table.entries().into_values() {
        let age = entry.progress.last().map(|at| now.since(at).as_secs_f64());
        let last = age.map_or("never".to_owned(), |age| format!("{age:.3} s ago"));
        let (id, verdict) = (&entry.identity.id, &entry.verdict);
        let (state, reason) = (verdict.state(), verdict.reason);
        text.push_str(&format!("{id:<41}{state:<10}{reason:<20}{last}\n"));
        rows.push(json!({
            "id": id.as_str(), "state": state.as_str(), "reason": reason.as_str(), "last_round_seconds_ago": age,
        }));
    }
    let json = json!({ "instances": rows });
    Content { text, json }
}
