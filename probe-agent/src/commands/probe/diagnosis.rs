//! Result of a diagnosis, and its output as text or JSON.

use std::{collections::BTreeMap, time::Duration};

use redkeeper_core::{
    probe::ProcessState,
    redis::info::Info,
    status::{Reason, Verdict},
    time::WallMs,
};
use serde_json::json;

/// The result of one diagnosis.
pub(super) struct Diagnosis {
    pub(super) verdict: Verdict,
    pub(super) info: Info,
    pub(super) process: Option<(u32, ProcessState)>,
    /// Duration of each stage, in milliseconds.
    pub(super) timings: BTreeMap<&'static str, f64>,
}

impl Diagnosis {
    /// Formats the result as one JSON object.
    pub(super) fn json(&self, address: &str) -> serde_json::Value {
        let verdict = &self.verdict;
        let (reads, writes) = verdict.abilities();
        json!({
            "address": address,
            "state": verdict.state().as_str(),
            "reason": verdict.reason.as_str(),
            "stage": verdict.stage.as_str(),
            "reads": reads.as_str(),
            "writes": writes.as_str(),
            "evidence": &*verdict.evidence,
            "server": self.info.server,
            "version": &*verdict.server_version,
            "role": verdict.role.as_str(),
            "master": &*verdict.master_address,
            "run_id": verdict.run_id.to_string(),
            "certificate_ends": verdict.certificate_ends.map(|ends| date(ends.into())),
            "uptime_seconds": self.info.uptime_seconds,
            "clients": limited(self.info.health.clients, self.info.health.max_clients),
            "memory_bytes": limited(self.info.health.used_memory, self.info.health.max_memory),
            "cluster_enabled": self.info.cluster_enabled,
            "process": self.process.map(|(pid, sight)| json!({ "pid": pid, "seen": sight.as_str() })),
            "timings_ms": self.timings,
        })
    }

    /// Formats the result as human-readable lines of names and values.
    pub(super) fn text(&self, address: &str) -> String {
        let verdict = &self.verdict;
        let (reads, writes) = verdict.abilities();
        let mut lines = vec![
            ("address", address.to_owned()),
            ("state", verdict.state().to_string()),
            ("reason", verdict.reason.to_string()),
            ("stage", format!("{} (how far the probe came)", verdict.stage)),
            ("reads", reads.to_string()),
            ("writes", writes.to_string()),
            ("evidence", verdict.evidence.to_string()),
        ];
        if !self.info.server.is_empty() {
            let (info, health) = (&self.info, &self.info.health);
            let up = info
                .uptime_seconds
                .map(|s| format!(", up {}", humantime::format_duration(Duration::from_secs(s))));
            lines.push((
                "server",
                format!(
                    "{} {}{}",
                    info.server,
                    verdict.server_version,
                    up.unwrap_or_default()
                ),
            ));
            let cluster = if info.cluster_enabled {
                ", of a cluster"
            } else {
                ""
            };
            lines.push(("role", format!("{}{cluster}", verdict.role)));
            lines.push(("clients", of(health.clients, health.max_clients)));
            lines.push((
                "memory",
                format!("{} bytes", of(health.used_memory, health.max_memory)),
            ));
        }
        if !verdict.master_address.is_empty() {
            lines.push(("master", verdict.master_address.to_string()));
        }
        if !verdict.run_id.is_empty() {
            lines.push(("run_id", verdict.run_id.to_string()));
        }
        if let Some(ends) = verdict.certificate_ends.map(WallMs::from) {
            lines.push(("TLS", format!("certificate ends {}", date(ends))));
        }
        let process = self.process.map_or_else(
            || "not seen on this host".to_owned(),
            |(pid, sight)| format!("{pid}, {}", sight.as_str()),
        );
        lines.push(("process", process));
        let timings: Vec<_> = self
            .timings
            .iter()
            .map(|(stage, ms)| format!("{stage} {ms:.3} ms"))
            .collect();
        lines.push(("timings", timings.join(", ")));
        if verdict.reason == Reason::PermissionDenied || verdict.reason == Reason::AuthFailed {
            lines.push((
                "hint",
                "`redkeeper-agent acl` prints the user that is needed".to_owned(),
            ));
        }
        lines
            .iter()
            .map(|(name, value)| format!("{name:<9} {value}\n"))
            .collect()
    }
}

/// Formats a count, as `3 of 100` if there is a limit.
fn of(used: u64, limit: u64) -> String {
    match limit {
        0 => used.to_string(),
        limit => format!("{used} of {limit}"),
    }
}

fn limited(used: u64, limit: u64) -> serde_json::Value {
    json!({ "used": used, "limit": (limit > 0).then_some(limit) })
}

fn date(at: WallMs) -> String {
    let at = std::time::UNIX_EPOCH + Duration::from_millis(at.0);
    humantime::format_rfc3339_seconds(at).to_string()
}
