//! The read-back: compares one bucket at a time with what was acknowledged; what differs is written anew.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    ids::Bucket,
    publish::{Difference, Found, Record},
};
use tokio::time::Instant;

use super::{LeaderTerm, Reading};
use crate::{
    fleet::view::View,
    publish::load::{read_bucket, tell_fleet},
    store::Store,
};
/// Flapping instances are counted once in this many read-backs.
const FLAPPING_EVERY: u8 = 64;
/// Maximum znodes read back in one second, some percent of what one ZooKeeper server answers. Beyond 10,000 instances a
/// pass takes proportionally longer.
const AUDIT_READS_PER_SECOND: u32 = 2_500;

impl<S: Store> LeaderTerm<S> {
    pub(super) fn start_audit(&mut self) {
        self.audit_at = Instant::now() + self.setup.audit_interval;
        let reading = |bucket| read_bucket(Arc::clone(&self.session), self.setup.layout.clone(), bucket);
        let next = self.publisher.audit_next();
        self.audit = next.map(|bucket| (bucket, Box::pin(reading(bucket)) as Reading<Found>));
    }

    pub(super) fn audited(&mut self, bucket: Bucket, found: Found, view: &View) {
        let publisher = &mut self.publisher;
        let reads = u32::try_from(found.held.len()).unwrap_or(u32::MAX);
        self.audit_at = self
            .audit_at
            .max(Instant::now() + Duration::from_secs(1) * reads / AUDIT_READS_PER_SECOND);
        if bucket.0.is_multiple_of(FLAPPING_EVERY) {
            let flapping = publisher.flapping(self.setup.clock.now());
            self.setup
                .metrics
                .flapping
                .set(i64::try_from(flapping).unwrap_or(i64::MAX));
        }
        let differences = publisher.audited(self.setup.clock.now(), bucket, found, |held| {
            disowned_by_agent(held, view)
        });
        let mut foreign = Vec::new();
        for difference in differences {
            let (kind, what) = match difference {
                Difference::Deleted(id) => ("deleted", id.to_string()),
                Difference::Edited(id) => ("edited", id.to_string()),
                Difference::Bucket(bucket) => ("bucket", bucket.to_string()),
                Difference::Orphan(id) => ("orphan", id.to_string()),
                Difference::Foreign(id, held) => {
                    foreign.extend(held.record().cloned());
                    ("foreign", id.to_string())
                }
            };
            self.setup.metrics.repairs.get_or_create(&[("kind", kind)]).inc();
            if kind == "orphan" {
                tracing::info!(
                    instance = what,
                    "no agent has this instance any more; its znode is deleted"
                );
            } else if let Some(more) = self.repair_lines.line(std::time::Instant::now()) {
                tracing::warn!(
                    znode = what,
                    kind,
                    more,
                    "znode modified externally; it will be rewritten"
                );
            }
        }
        let orphans = publisher.orphans();
        let before = self
            .setup
            .metrics
            .orphans
            .set(i64::try_from(orphans).unwrap_or(i64::MAX));
        if publisher.too_many_orphans() && usize::try_from(before) != Ok(orphans) {
            tracing::error!(
                orphans,
                "more statuses than allowed belong to no instance of their agents; none is deleted. Is an agent's configuration wrong? If not, raise zookeeper.orphans_max_percent"
            );
        }
        if !foreign.is_empty() {
            let (commands, adopting) = (self.setup.commands.clone(), self.setup.adopting(false));
            let statuses = foreign.into_iter().map(|found| (found.status, found.origin));
            let statuses = statuses.collect();
            self.adopting = Some(Box::pin(async move {
                tell_fleet(&commands, statuses, adopting).await
            }));
        }
    }
}

/// True if the status's agent is heard and has reported, since its start, all that it has, without this instance.
fn disowned_by_agent(held: &Record, view: &View) -> bool {
    let heard = |agent: &crate::fleet::view::AgentEntry| agent.complete && !agent.silent;
    !view.instances.contains_key(held.id())
        && view
            .agents
            .get(&held.status.agent)
            .is_some_and(|agent| heard(agent))
}
