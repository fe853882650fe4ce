//! Reads what is published: one bucket, or znodes of unresolved state.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use redkeeper_core::{
    fleet::{is_news, message_order::Origin},
    ids::{AgentId, Bucket, InstanceId},
    publish::{BucketData, Found, Record, StoredStatus},
    status::Status,
};
use tokio::sync::mpsc;

use super::format::native;
use crate::{
    fleet::{
        command::{Adopting, Command, adopt},
        view::{Entry, View},
    },
    store::{Node, Session, StoreError, layout::Layout, records},
};

/// Statuses that are read at a time, which is one request, and are understood in one or two milliseconds.
const READ_AT_A_TIME: usize = 500;

/// Znodes of unknown state.
#[derive(Clone, Default)]
pub(crate) struct Unresolved {
    pub(crate) ids: BTreeSet<InstanceId>,
    pub(crate) buckets: BTreeSet<Bucket>,
}

/// What znodes of unknown state turned out to hold.
pub(crate) struct ReadBack {
    pub(crate) instances: Vec<(InstanceId, Option<StoredStatus>)>,
    pub(crate) buckets: Vec<(Bucket, Option<BucketData>)>,
}

/// Reads znodes of unknown state.
pub(crate) async fn read_back<T: Session>(
    session: Arc<T>,
    layout: Layout,
    Unresolved { ids, buckets }: Unresolved,
) -> Result<ReadBack, StoreError> {
    session.sync(&layout.epoch()).await?;
    let paths: Vec<_> = ids.iter().map(|id| layout.instance(id)).collect();
    let nodes = session.get(&paths).await?;
    let held = |(id, node): (InstanceId, Option<Node>)| {
        let held = node.map(|node| native::read_status(&id, &node.data));
        (id, held)
    };
    let instances = ids.into_iter().zip(nodes).map(held).collect();
    let data = read_data(&*session, &layout, &buckets).await?;
    Ok(ReadBack {
        instances,
        buckets: buckets.into_iter().zip(data).collect(),
    })
}

/// Judges whether adopting published statuses may change something for the fleet.
pub(crate) struct News<'v> {
    view: &'v View,
    /// The agent that was looked up last, and whether it was heard here: its instances mostly follow each other.
    agent: Option<(&'v AgentId, bool)>,
}

impl<'v> News<'v> {
    pub(crate) fn new(view: &'v View) -> Self {
        Self { view, agent: None }
    }

    /// Whether a published status is news for the fleet, which knows this one.
    pub(crate) fn is_news(&mut self, known: &'v Entry, published: &Record) -> bool {
        let name = &known.status.agent;
        let is_agent_known = match self.agent {
            Some((last, is_known)) if last == name => is_known,
            _ => {
                let agent = self.view.agents.get(name);
                agent.is_some_and(|agent| agent.greeting.is_some())
            }
        };
        self.agent = Some((name, is_agent_known));
        is_news(
            (&known.status, known.origin, is_agent_known),
            (&published.status, published.origin),
        )
    }
}

/// The statuses whose adoption may change something for the fleet.
pub(crate) fn news<'a>(
    view: &View,
    held: impl Iterator<Item = &'a StoredStatus>,
) -> Vec<(Arc<Status>, Origin)> {
    let mut judge = News::new(view);
    let records = held.filter_map(StoredStatus::record);
    let news = records.filter(|record| {
        let known = view.instances.get(record.id());
        known.is_none_or(|known| judge.is_news(known, record))
    });
    news.map(|record| (Arc::clone(&record.status), record.origin))
        .collect()
}

/// Passes statuses that were found to the aggregator, and waits until they are in the view.
pub(crate) async fn tell_fleet(
    commands: &mpsc::Sender<Command>,
    statuses: Vec<(Arc<Status>, Origin)>,
    adopting: Adopting,
) -> Result<(), StoreError> {
    let adopted = adopt(commands, statuses, adopting).await;
    adopted.map_err(|stopped| StoreError::Lost(stopped.to_string()))
}

/// Reads one bucket.
pub(crate) async fn read_bucket<T: Session>(
    session: Arc<T>,
    layout: Layout,
    bucket: Bucket,
) -> Result<Found, StoreError> {
    let data = read_data(&*session, &layout, &[bucket].into()).await?.remove(0);
    let held = match data {
        Some(_) => read_statuses(&*session, &layout, bucket).await?,
        None => BTreeMap::new(),
    };
    Ok(Found { data, held })
}

/// Reads the data of buckets.
pub(crate) async fn read_data<T: Session>(
    session: &T,
    layout: &Layout,
    buckets: &BTreeSet<Bucket>,
) -> Result<Vec<Option<BucketData>>, StoreError> {
    let paths: Vec<_> = buckets.iter().map(|bucket| layout.bucket(*bucket)).collect();
    let nodes = session.get(&paths).await?.into_iter();
    Ok(nodes
        .map(|node| node.map(|node| records::read_bucket(&node.data)))
        .collect())
}

/// Reads the statuses of one bucket, in parts.
pub(crate) async fn read_statuses<T: Session>(
    session: &T,
    layout: &Layout,
    bucket: Bucket,
) -> Result<BTreeMap<InstanceId, StoredStatus>, StoreError> {
    let names = match session.children(&layout.bucket(bucket)).await {
        // Bucket was deleted concurrently; treat it as empty.
        Err(StoreError::Missing) => Vec::new(),
        // A bucket that may not be read is written blindly; statuses are left out one by one if writing is refused too.
        Err(StoreError::Refused(why)) => {
            tracing::error!(%bucket, "a bucket may not be read: {why}");
            Vec::new()
        }
        other => other?,
    };
    // A name that is no id, or is in the wrong bucket, belongs to somebody else and is left alone.
    let ids = names
        .iter()
        .filter_map(|name| InstanceId::new(name).ok())
        .filter(|id| id.bucket() == bucket);
    let ids: Vec<_> = ids.collect();
    let mut all = BTreeMap::new();
    for ids in ids.chunks(READ_AT_A_TIME) {
        let paths: Vec<_> = ids.iter().map(|id| layout.instance(id)).collect();
        let nodes = session.get(&paths).await?;
        let held = ids.iter().zip(nodes).filter_map(|(id, node)| {
            let held = native::read_status(id, &node?.data);
            Some((id.clone(), held))
        });
        all.extend(held);
    }
    Ok(all)
}
