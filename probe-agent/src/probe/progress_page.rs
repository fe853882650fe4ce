//! The part of `/debug/tasks` that shows the last progress of each instance.

use redkeeper_core::{ids::Handle, time::Mono};

use crate::instances::InstanceTable;

/// Formats the lines for `/debug/tasks`: the last progress of each instance.
pub fn progress_page(table: &InstanceTable, now: Mono) -> String {
    let mut text =
        String::from("\nINSTANCE                                 STATE     REASON              LAST ROUND\n");
    for (Handle(_), entry) in table.entries() {
        let last = entry.progress.last().map_or("never".to_owned(), |at| {
            format!("{:.3} s ago", now.since(at).as_secs_f64())
        });
        let (id, verdict) = (&entry.identity.id, &entry.verdict);
        text.push_str(&format!(
            "{id:<41}{:<10}{:<20}{last}\n",
            verdict.state(),
            verdict.reason
        ));
    }
    text
}
