//! One step of writing: applies changes of the view, sends what the window allows, and records ZooKeeper's answers.

use futures_util::StreamExt;
use redkeeper_core::{
    ids::{Bucket, InstanceId},
    publish::{Found, Refusal},
};

use super::{
    LeaderTerm, Reading, Request,
    desired::publishable,
    fenced_write::{Work, commit},
    replicate,
    takeover::{self, TakeOver},
};
use crate::{
    fleet::change_log::Lagged,
    store::{CommitError, Store, StoreError},
};

/// Changes that are marked at a time, in a few milliseconds; there may be 65,536.
const CHANGES_AT_A_TIME: usize = 2_048;

impl<S: Store> LeaderTerm<S> {
    /// One step of writing: applies changes, sends what the window allows, and waits for the first event.
    pub(super) async fn write(&mut self) -> Result<(), CommitError> {
        let more_changes = self.apply_changes();
        self.note_pending();
        let publisher = &mut self.publisher;
        let (view, now) = (self.setup.view.get(), self.setup.clock.now());
        let mut sent = more_changes;
        if self.paused || self.needs_resolution {
            self.audit = None;
        } else {
            let desired = |id: &InstanceId| {
                let entry = view.instances.get(id)?;
                publishable(&entry.status, entry.origin)
            };
            if let Some(batch) = publisher.next_batch(now, desired) {
                self.commits
                    .push(commit::<S>(&self.session, &self.setup.layout, self.term, batch));
                sent = true;
            }
            self.send_mark();
            if self.take_over() {
                // Without this, a large fleet that needs no answers would hold up the session.
                tokio::task::yield_now().await;
                sent = true;
            }
        }
        let publisher = &self.publisher;
        let may_write = !self.paused && !self.needs_resolution;
        let paced = publisher.next_deadline().filter(|_| may_write);
        let paced = paced.map(|due| self.setup.clock.instant(due));
        self.note_progress();
        let may_audit = self.live && may_write && self.adopting.is_none();
        tokio::select! {
            biased;
            Some((work, result)) = self.commits.next() => self.committed(work, result)?,
            changed = self.cursor.changed() => if changed.is_err() {
                return Err(StoreError::Lost("the aggregator has stopped".to_owned()).into());
            },
            step = takeover::step(&mut self.takeover), if may_write => self.stepped(step)?,
            adopted = pending(&mut self.adopting), if may_write => {
                self.adopting = None;
                adopted?;
            }
            found = pending_audit(&mut self.audit) => {
                if let Some((bucket, _)) = self.audit.take() {
                    self.audited(bucket, found?, &view);
                }
            }
            () = tokio::time::sleep_until(paced.unwrap_or(self.audit_at)), if paced.is_some() => {}
            () = tokio::time::sleep_until(self.freshness.due), if may_write && !self.freshness.in_flight() => {}
            // The new commit, and everybody else, has a turn before the next batch.
            () = tokio::task::yield_now(), if sent => (),
            () = tokio::time::sleep_until(self.audit_at), if may_audit && self.audit.is_none() => self.start_audit(),
        }
        Ok(())
    }

    /// Marks some of what has changed in the view as to be written. Returns true if there is more.
    fn apply_changes(&mut self) -> bool {
        let publisher = &mut self.publisher;
        let (view, now) = (self.setup.view.get(), self.setup.clock.now());
        match self.cursor.some(&view, CHANGES_AT_A_TIME) {
            Ok(changes) => {
                for change in changes {
                    let id = &change.status.identity.id;
                    if let Some(takeover) = &mut self.takeover {
                        takeover.changed(id.bucket());
                    }
                    if change.removed {
                        publisher.remove(now, id)
                    } else if let Some(record) = publishable(&change.status, change.origin) {
                        publisher.put(now, record)
                    } else {
                        publisher.mark(now, id)
                    }
                }
            }
            // Too far behind: everything is compared. Instances that were removed meanwhile are found as orphans.
            Err(Lagged) => {
                let adopting = self.setup.adopting(false);
                let takeover = self.takeover.get_or_insert_with(|| TakeOver::new(adopting));
                takeover.compare_again();
            }
        }
        self.cursor.seen() < view.revision
    }

    /// Books the outcome of a write.
    pub(super) fn committed(
        &mut self,
        work: Work,
        result: Result<(), CommitError>,
    ) -> Result<(), CommitError> {
        let number = match work {
            Work::Mark(live) => return self.marked(live, result),
            Work::Batch(number) => number,
        };
        let publisher = &mut self.publisher;
        let kind = match result {
            Ok(()) => {
                if let Some(batch) = publisher.sent(number) {
                    replicate::tell(&self.setup.links, batch);
                }
                let written = publisher.acknowledged(number);
                self.setup.metrics.writes.inc_by(written);
                "ok"
            }
            Err(CommitError::Operation(index, StoreError::Exists)) => {
                publisher.refused(number, index, Refusal::Exists);
                "refused"
            }
            Err(CommitError::Operation(index, StoreError::Missing)) => {
                if publisher.refused(number, index, Refusal::Missing) {
                    return Err(StoreError::Lost("the parent of the buckets is gone".to_owned()).into());
                }
                "refused"
            }
            Err(CommitError::Operation(index, StoreError::Refused(why))) => {
                publisher.refused(number, index, Refusal::Forbidden);
                let count = publisher.quarantined();
                let new = self.refused.as_ref().is_none_or(|(first, _)| *first != why);
                if new && let Some(more) = self.refusal_lines.line(std::time::Instant::now()) {
                    tracing::error!(
                        count,
                        more,
                        "ZooKeeper refuses to let a status be written: {why}; it is left out until it changes"
                    );
                }
                let first = self.refused.take().map_or(why, |(first, _)| first);
                self.refused = Some((first, count));
                "forbidden"
            }
            Err(error) => return Err(error),
        };
        self.setup
            .metrics
            .batches
            .get_or_create(&[("result", kind)])
            .inc();
        Ok(())
    }
}

async fn pending<T>(request: &mut Option<Request<T>>) -> T {
    match request {
        Some(request) => request.await,
        None => std::future::pending().await,
    }
}

async fn pending_audit(audit: &mut Option<(Bucket, Reading<Found>)>) -> Result<Found, StoreError> {
    match audit {
        Some((_, reading)) => reading.await,
        None => std::future::pending().await,
    }
}
