//! The leader's writes as requests to the store: batches of `core::publish`, and the freshness mark.

use std::{future::Future, pin::Pin, sync::Arc};

use redkeeper_core::{
    election::Term,
    publish::{Batch, Op},
};

use super::format::native;
use crate::store::{
    CommitError, Session, Store, Write,
    layout::Layout,
    records::{self, PublisherJson},
};

/// A write in flight. Resolves to its kind and result.
pub(crate) type Commit = Pin<Box<dyn Future<Output = (Work, Result<(), CommitError>)> + Send>>;

/// Kind of a write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The batch with this number.
    Batch(u64),
    /// The freshness mark; true if it says that everything known is published.
    Mark(bool),
}

/// Rewrites `publisher`.
pub(crate) fn mark<S: Store>(
    session: &Arc<S::Session>,
    layout: &Layout,
    term: Term,
    (live, json): (bool, &PublisherJson),
) -> Commit {
    let write = Write::Set(
        layout.publisher(),
        serde_json::to_vec(json).unwrap_or_default(),
        None,
    );
    let (session, epoch) = (Arc::clone(session), layout.epoch());
    Box::pin(async move {
        (
            Work::Mark(live),
            session.commit((&epoch, term.token), vec![write]).await,
        )
    })
}

/// Sends a batch, conditional on the term's epoch.
pub(crate) fn commit<S: Store>(
    session: &Arc<S::Session>,
    layout: &Layout,
    term: Term,
    batch: &Batch,
) -> Commit {
    let (session, epoch) = (Arc::clone(session), layout.epoch());
    let writes = batch.ops.iter().map(|op| write(layout, op)).collect();
    let number = batch.number;
    Box::pin(async move {
        (
            Work::Batch(number),
            session.commit((&epoch, term.token), writes).await,
        )
    })
}

fn write(layout: &Layout, op: &Op) -> Write {
    match op {
        Op::Put(record, true) => Write::Create(layout.instance(record.id()), native::status(record), false),
        Op::Put(record, false) => Write::Set(layout.instance(record.id()), native::status(record), None),
        Op::Delete(id) => Write::Delete(layout.instance(id)),
        Op::Bucket(bucket, data, true) => {
            Write::Create(layout.bucket(*bucket), records::bucket(*data), false)
        }
        Op::Bucket(bucket, data, false) => Write::Set(layout.bucket(*bucket), records::bucket(*data), None),
    }
}
