//! The responses to one watcher: a snapshot from a task, then every change once and in order, and from time to time a
//! message that it misses nothing. A change is looked up when the connection has room for it, so a watcher costs no
//! task and no queue once it has its snapshot, and a slow one keeps nothing alive but the number of the last change
//! that it was sent.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use redkeeper_core::ids::Revision;
use redkeeper_proto::v1::{self, watch_instances_response::Event};
use tokio::{
    sync::{mpsc::error::TrySendError, oneshot},
    time::{Interval, MissedTickBehavior},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::Status;

use super::{
    filter::{Filter, Seen},
    paging::LOOKED_AT_ONCE,
    queries::Queries,
    wire::{Now, count, entry, transition},
};
use crate::{
    fleet::{
        change_cursor::{ChangeCursor, NoMoreChanges},
        change_log::Lagged,
        view::View,
    },
    grpc::{
        errors::Failure,
        responses::{self, ResponseSender, ResponseStream},
    },
    metrics::Metrics,
};

/// Kind of the tasks that send snapshots.
pub const SNAPSHOT: &str = "watch-snapshot";

/// Responses of a snapshot that are queued for one watcher.
const SNAPSHOT_QUEUE_MAX: usize = 64;
/// A watcher that takes nothing of its snapshot for this long is stuck: a whole view is kept for it meanwhile.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How often an idle watcher is informed that it misses nothing.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

type Response = v1::WatchInstancesResponse;

/// One watcher.
pub struct WatchStream {
    queries: Queries,
    filter: Arc<Filter>,
    /// Set until it is sent.
    snapshot: Option<Snapshot>,
    cursor: ChangeCursor,
    /// True if there may be changes after the cursor.
    behind: bool,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    progress: Interval,
    ended: bool,
    _counted: Counted,
}

/// A snapshot that is being sent, and its revision once it was sent completely.
struct Snapshot {
    answers: ResponseStream<Response>,
    revision: oneshot::Receiver<Revision>,
}

/// Counts a watcher in the metrics for as long as it exists.
struct Counted(Metrics);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.watchers.dec();
    }
}

impl WatchStream {
    /// `from`: the last revision that the watcher has seen; without one, it begins with a snapshot. `peer`: its
    /// address, as text.
    pub(super) fn new(queries: &Queries, filter: Filter, from: Option<Revision>, peer: String) -> Self {
        let filter = Arc::new(filter);
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        // A reader that did not read for long gets one progress message, not one for each interval.
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        progress.reset();
        queries.metrics.watchers.inc();
        Self {
            snapshot: from.is_none().then(|| snapshot(queries, &filter, peer)),
            cursor: ChangeCursor::new(&queries.view, from.unwrap_or_default()),
            behind: true,
            stopped: Box::pin(queries.supervisor.stop().clone().cancelled_owned()),
            progress,
            ended: false,
            _counted: Counted(queries.metrics.clone()),
            queries: queries.clone(),
            filter,
        }
    }

    /// The next change that passes the filter, if there is one by now.
    fn next_change(&mut self) -> Result<Option<Response>, Failure> {
        let view = self.queries.view.get();
        let (filter, now) = (&self.filter, Now::of(&self.queries.clock));
        let found = self.cursor.find(&view, |change| {
            // An instance that leaves the filter is sent too, so that the watcher does not go on showing it.
            let seen = filter.concerns(change)?;
            let mut told = transition(&view, change, now);
            told.left_filter = seen == Seen::Left && !change.removed;
            Some(told)
        });
        let found = found.map_err(|Lagged| Failure::RevisionCompacted)?;
        self.behind = found.is_some() && self.cursor.seen() < view.revision;
        Ok(found.map(|told| Response {
            event: Some(Event::Change(told)),
            resume_token: self.queries.token(self.cursor.seen()),
        }))
    }

    fn fail(&mut self, failure: Failure) -> Poll<Option<Result<Response, Status>>> {
        self.ended = true;
        if failure == Failure::RevisionCompacted {
            self.queries.metrics.watch_lagged.inc();
        }
        Poll::Ready(Some(Err(failure.into())))
    }
}

impl Stream for WatchStream {
    type Item = Result<Response, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(snapshot) = &mut this.snapshot {
            if let Some(answer) = ready!(Pin::new(&mut snapshot.answers).poll_next(context)) {
                return Poll::Ready(Some(answer));
            }
            match snapshot.revision.try_recv() {
                Ok(revision) => this.cursor.skip_to(revision),
                Err(_) => {
                    this.ended = true;
                    return Poll::Ready(None);
                }
            }
            this.snapshot = None;
        }
        if this.stopped.as_mut().poll(context).is_ready() {
            return this.fail(Failure::ShuttingDown);
        }
        match this.cursor.poll_changed(context) {
            Ok(changed) => this.behind |= changed,
            Err(NoMoreChanges) => return this.fail(Failure::ShuttingDown),
        }
        if this.behind {
            match this.next_change() {
                Ok(Some(change)) => return Poll::Ready(Some(Ok(change))),
                Ok(None) => {}
                Err(failure) => return this.fail(failure),
            }
        }
        ready!(this.progress.poll_tick(context));
        let header = this.queries.header(&this.queries.view.get());
        Poll::Ready(Some(Ok(Response {
            event: Some(Event::Progress(v1::Progress { header: Some(header) })),
            resume_token: this.queries.token(this.cursor.seen()),
        })))
    }
}

/// Starts the task that sends the snapshot.
fn snapshot(queries: &Queries, filter: &Arc<Filter>, peer: String) -> Snapshot {
    // One slot is reserved for the reason of the end, however slowly the reader reads.
    let (sender, answers) = responses::channel(SNAPSHOT_QUEUE_MAX + 1);
    let last_word = sender.clone().try_reserve_owned();
    let (told, revision) = oneshot::channel();
    let (queries, filter) = (queries.clone(), Arc::clone(filter));
    let supervisor = queries.supervisor.clone();
    let _owned_by_supervisor = supervisor.spawn(SNAPSHOT, peer, async move {
        let view = queries.view.get();
        match tell_all(&queries, &filter, &view, &sender).await {
            // The receiver may be gone together with the reader.
            Ok(()) => drop(told.send(view.revision)),
            Err(failure) => {
                if failure == Failure::RevisionCompacted {
                    queries.metrics.watch_lagged.inc();
                }
                // A new queue has room; if the reader is gone, the reason reaches nobody.
                if let Ok(permit) = last_word {
                    drop(permit.send(Err(failure.into())));
                }
            }
        }
    });
    Snapshot { answers, revision }
}

async fn tell_all(
    queries: &Queries,
    filter: &Filter,
    view: &View,
    answers: &ResponseSender<Response>,
) -> Result<(), Failure> {
    let (now, stop) = (Now::of(&queries.clock), queries.supervisor.stop());
    let mut sent = 0;
    for (n, found) in view.instances.values().enumerate() {
        // Other tasks get their turn, however few instances match.
        if (n + 1).is_multiple_of(LOOKED_AT_ONCE) {
            tokio::task::yield_now().await;
        }
        if filter.matches(&found.status) {
            let event = Event::Instance(entry(view, found, now));
            tell(stop, answers, event, String::new()).await?;
            sent += 1;
        }
    }
    let end = v1::SnapshotEnd {
        header: Some(queries.header(view)),
        count: count(sent),
    };
    tell(
        stop,
        answers,
        Event::SnapshotEnd(end),
        queries.token(view.revision),
    )
    .await
}

/// Sends an event; waits while the reader is slow.
async fn tell(
    stop: &CancellationToken,
    answers: &ResponseSender<Response>,
    event: Event,
    resume_token: String,
) -> Result<(), Failure> {
    let message = Response {
        event: Some(event),
        resume_token,
    };
    let message = match answers.try_send(Ok(Box::new(message))) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Closed(_)) => return Err(Failure::ShuttingDown),
        Err(TrySendError::Full(message)) => message,
    };
    tokio::select! {
        // If the reader is gone, this reason reaches nobody.
        sent = answers.send(message) => sent.map_err(|_| Failure::ShuttingDown),
        () = stop.cancelled() => Err(Failure::ShuttingDown),
        // The view is not kept any longer for a reader that is stuck.
        () = tokio::time::sleep(STUCK_AFTER) => Err(Failure::RevisionCompacted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_waits_for_its_reader_but_not_for_ever() {
        let stop = CancellationToken::new();
        let event = || Event::Progress(v1::Progress::default());
        let (answers, mut reader) = responses::channel(1);
        assert_eq!(tell(&stop, &answers, event(), String::new()).await, Ok(()));
        let stuck = tell(&stop, &answers, event(), String::new()).await;
        assert_eq!(stuck, Err(Failure::RevisionCompacted));
        let waits = tell(&stop, &answers, event(), String::new());
        let (told, read) = tokio::join!(waits, futures_util::StreamExt::next(&mut reader));
        assert_eq!((told, read.is_some_and(|answer| answer.is_ok())), (Ok(()), true));
        stop.cancel();
        let stopped = tell(&stop, &answers, event(), String::new()).await;
        assert_eq!(stopped, Err(Failure::ShuttingDown));
        drop(reader);
        let gone = tell(&stop, &answers, event(), String::new()).await;
        assert_eq!(gone, Err(Failure::ShuttingDown));
    }
}
