//! The log lines of the aggregator. Their number is limited: when a rack dies, thousands of lines say no more than
//! their number does. Each transition is still in the history and sent to watchers.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use redkeeper_core::{
    ids::{AgentId, InstanceId},
    status::{Reason, Status},
};
use redkeeper_runtime::log_limit::LogLimit;

/// Log at most this many transitions of one batch individually; the rest is summarised in one line.
const LINES_MAX: usize = 32;
/// Log at most this many conflicts, and as many removals, individually in each interval.
const LINES_OF_A_KIND_MAX: u32 = 20;
const LINES_INTERVAL: Duration = Duration::from_secs(10);

/// Writes the log lines, and counts the events that get none.
pub(super) struct TransitionLog {
    lines: usize,
    /// Transitions of the present batch without a line of their own.
    rest: BTreeMap<Reason, usize>,
    conflicts: LogLimit,
    removals: LogLimit,
}

impl TransitionLog {
    pub(super) fn new() -> Self {
        Self {
            lines: 0,
            rest: BTreeMap::new(),
            conflicts: LogLimit::new(LINES_OF_A_KIND_MAX, LINES_INTERVAL),
            removals: LogLimit::new(LINES_OF_A_KIND_MAX, LINES_INTERVAL),
        }
    }

    /// Logs that an agent reports an instance which another live agent already has.
    pub(super) fn conflict(&mut self, id: &InstanceId, agent: &AgentId) {
        if let Some(more) = self.conflicts.line(Instant::now()) {
            tracing::warn!(
                instance = %id, %agent, more,
                "another live agent already reports this instance; ignored"
            );
        }
    }

    /// Logs that an instance is no longer known.
    pub(super) fn removed(&mut self, id: &InstanceId) {
        if let Some(more) = self.removals.line(Instant::now()) {
            tracing::info!(instance = %id, more, "removed: its agent no longer has it");
        }
    }

    /// Logs a status that has changed or is new.
    pub(super) fn transition(&mut self, status: &Status, before: Option<Reason>) {
        let verdict = &status.verdict;
        self.lines += 1;
        if self.lines > LINES_MAX {
            *self.rest.entry(verdict.reason).or_default() += 1;
            return;
        }
        tracing::info!(
            instance = %status.identity.id, from = before.map_or("-", Reason::as_str),
            state = %verdict.state(), reason = %verdict.reason, role = %verdict.role, agent = %status.agent,
            "transition"
        );
    }

    /// Ends a batch: summarises the transitions that had no line of their own.
    pub(super) fn flush_summary(&mut self) {
        self.lines = 0;
        if self.rest.is_empty() {
            return;
        }
        let counts = std::mem::take(&mut self.rest).into_iter();
        let counts: Vec<_> = counts.map(|(reason, n)| format!("{n} to {reason}")).collect();
        tracing::info!("and {} more transitions at once", counts.join(", "));
    }
}

/// Logs that the offset of an agent's wall clock has changed.
pub(super) fn log_clock_offset(agent: &AgentId, ahead_ms: i64) {
    let off = Duration::from_millis(ahead_ms.unsigned_abs());
    match ahead_ms {
        0 => tracing::info!(%agent, "the agent's clock agrees with this host's again"),
        1.. => {
            tracing::warn!(%agent, "the agent's clock is {off:?} ahead of this host's; its times are corrected, set one of them right")
        }
        _ => {
            tracing::warn!(%agent, "the agent's clock is {off:?} behind this host's; its times are corrected, set one of them right")
        }
    }
}
