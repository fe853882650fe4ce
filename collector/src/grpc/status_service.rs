//! Answers tools from the view. Nothing here waits for the aggregator or for ZooKeeper.

use std::{collections::BTreeMap, sync::Arc};

use redkeeper_core::{
    ids::{InstanceId, Revision},
    status::{Reason, State},
};
use redkeeper_proto::{
    convert,
    v1::{
        self, status_service_server::StatusService, store_status::Session, watch_instances_response::Event,
    },
};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::sync::mpsc::error::TrySendError;
use tonic::{Request, Response, Status};

use super::{
    answer_stream::{self, AnswerStream, Answers},
    answers::{Filter, agent, count, entry, page_size, transition},
    errors::Failure,
};
use crate::{
    directory,
    metrics::Metrics,
    store::Connection,
    view::{Change, Compacted, Shared, View},
};

/// Kind of the watchers' tasks.
pub const WATCH: &str = "watch-stream";

/// Answers under way to one watcher. A slow reader waits here; what it misses meanwhile is in the view's log,
/// which is shared and bounded.
const WATCH_QUEUE_MAX: usize = 64;
/// How often an idle watcher is told that it misses nothing.
const PROGRESS_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

/// Answers queries.
#[derive(Clone)]
pub struct Queries {
    /// Own name.
    pub id: String,
    /// Own life, part of resume tokens: revisions of another process mean nothing here.
    pub boot: String,
    /// The view.
    pub view: Shared,
    /// Who leads.
    pub directory: directory::Reader,
    /// Whether it runs without ZooKeeper.
    pub standalone: bool,
    /// Time.
    pub clock: Clock,
    /// Owner of the watchers' tasks.
    pub supervisor: Supervisor,
    /// Counters.
    pub metrics: Metrics,
}

impl Queries {
    fn header(&self, view: &View) -> v1::ResponseHeader {
        let (directory, now) = (self.directory.borrow(), self.clock.now());
        v1::ResponseHeader {
            served_by: self.id.clone(),
            leader: directory.leader(now).to_owned(),
            epoch: directory.epoch,
            revision: view.revision.0,
            data_age: view.data_age(now).map(convert::duration_to_wire),
        }
    }

    fn token(&self, revision: Revision) -> String {
        format!("{}-{}", self.boot, revision.0)
    }

    fn resume(&self, token: &str) -> Result<Revision, Failure> {
        let (boot, revision) = token
            .rsplit_once('-')
            .ok_or_else(|| Failure::InvalidArgument(format!("resume_token: {token:?} is none of ours")))?;
        match revision.parse() {
            Ok(revision) if boot == self.boot => Ok(Revision(revision)),
            _ => Err(Failure::RevisionCompacted),
        }
    }
}

#[tonic::async_trait]
impl StatusService for Queries {
    type WatchInstancesStream = AnswerStream<v1::WatchInstancesResponse>;

    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        let id = request.into_inner().id;
        let view = self.view.get();
        let found = InstanceId::new(&id).ok().and_then(|id| view.instances.get(&id));
        let found = found.ok_or(Failure::InstanceNotFound(id))?;
        let instance = Some(entry(&view, found, self.clock.now()));
        Ok(Response::new(v1::GetInstanceResponse {
            header: Some(self.header(&view)),
            instance,
        }))
    }

    async fn list_instances(
        &self,
        request: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        let request = request.into_inner();
        let (size, filter) = (page_size(request.page_size)?, Filter::new(request.filter)?);
        let (view, now) = (self.view.get(), self.clock.now());
        let matching = || {
            view.instances
                .iter()
                .filter(|(_, entry)| filter.matches(&entry.status))
        };
        // The token is the last id of the page before: pages stay right while instances come and go.
        let mut rest = matching().skip_while(|(id, _)| id.as_str() <= request.page_token.as_str());
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let next_page_token = match (page.last(), rest.next()) {
            (Some((id, _)), Some(_)) => id.to_string(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListInstancesResponse {
            instances: page
                .into_iter()
                .map(|(_, found)| entry(&view, found, now))
                .collect(),
            next_page_token,
            header: Some(self.header(&view)),
            total_size: count(matching().count()),
        }))
    }

    async fn watch_instances(
        &self,
        request: Request<v1::WatchInstancesRequest>,
    ) -> Result<Response<Self::WatchInstancesStream>, Status> {
        let peer = request
            .remote_addr()
            .map_or_else(String::new, |address| address.to_string());
        let request = request.into_inner();
        let filter = Filter::new(request.filter)?;
        let from = match request.resume_token.as_str() {
            "" => None,
            token => Some(self.resume(token)?),
        };
        // One place is kept for the reason of the end, however slowly the reader reads.
        let (sender, receiver) = answer_stream::channel(WATCH_QUEUE_MAX + 1);
        let last_word = sender.clone().try_reserve_owned();
        let queries = self.clone();
        let _owned_by_supervisor = self.supervisor.spawn(WATCH, peer, async move {
            queries.metrics.watchers.inc();
            if let Err(failure) = queries.watch(&filter, from, &sender).await {
                if failure == Failure::RevisionCompacted {
                    queries.metrics.watch_lagged.inc();
                }
                // A new queue has room; if the reader is gone, nobody is told.
                if let Ok(permit) = last_word {
                    drop(permit.send(Err(failure.into())));
                }
            }
            queries.metrics.watchers.dec();
        });
        Ok(Response::new(receiver))
    }

    async fn summarize_instances(
        &self,
        request: Request<v1::SummarizeInstancesRequest>,
    ) -> Result<Response<v1::SummarizeInstancesResponse>, Status> {
        let filter = Filter::new(request.into_inner().filter)?;
        let view = self.view.get();
        let mut counts = BTreeMap::<_, i32>::new();
        for status in view
            .instances
            .values()
            .map(|entry| &entry.status)
            .filter(|status| filter.matches(status))
        {
            let cluster = status
                .identity
                .cluster
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default();
            *counts
                .entry((cluster, status.agent.to_string(), status.verdict.reason))
                .or_default() += 1;
        }
        let row = |((cluster, agent_id, reason), count): ((String, String, Reason), i32)| v1::SummaryRow {
            state: convert::state_to_wire(reason.state()).into(),
            reason: convert::reason_to_wire(reason).into(),
            cluster,
            agent_id,
            count,
        };
        let rows = counts.into_iter().map(row).collect();
        Ok(Response::new(v1::SummarizeInstancesResponse {
            header: Some(self.header(&view)),
            rows,
        }))
    }

    async fn list_transitions(
        &self,
        request: Request<v1::ListTransitionsRequest>,
    ) -> Result<Response<v1::ListTransitionsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let before = match request.page_token.as_str() {
            "" => u64::MAX,
            token => token
                .parse()
                .map_err(|_| Failure::InvalidArgument("page_token: is none of ours".to_owned()))?,
        };
        let (view, now) = (self.view.get(), self.clock.now());
        let wanted = |change: &&Change| {
            change.revision.0 < before
                && (request.instance_id.is_empty()
                    || change.status.identity.id.as_str() == request.instance_id)
        };
        let mut rest = view.log.iter().rev().filter(wanted);
        let transitions: Vec<_> = rest
            .by_ref()
            .take(size)
            .map(|change| transition(&view, change, now))
            .collect();
        let next_page_token = match (transitions.last(), rest.next()) {
            (Some(last), Some(_)) => last.revision.to_string(),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListTransitionsResponse {
            transitions,
            next_page_token,
            header: Some(self.header(&view)),
        }))
    }

    async fn get_cluster_status(
        &self,
        _: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        let view = self.view.get();
        let header = Some(self.header(&view));
        let directory = self.directory.borrow().clone();
        let leader = directory.leader(self.clock.now());
        let session = match directory.connection {
            _ if self.standalone => Session::Standalone,
            Some(Connection::Connected) => Session::Connected,
            Some(Connection::Suspended) => Session::Suspended,
            Some(Connection::Lost) | None => Session::None,
        };
        let member = |member: crate::znode::CollectorJson| v1::Member {
            leader: member.id == leader,
            id: member.id,
            address: member.grpc,
            version: member.version,
        };
        let mut states = BTreeMap::<State, i32>::new();
        for entry in view.instances.values() {
            *states.entry(entry.status.verdict.state()).or_default() += 1;
        }
        let of = |state| states.get(&state).copied().unwrap_or(0);
        let silent = view.agents.values().filter(|agent| agent.silent).count();
        Ok(Response::new(v1::GetClusterStatusResponse {
            header,
            members: directory.members.iter().cloned().map(member).collect(),
            store: Some(v1::StoreStatus {
                session: session.into(),
                phase: directory.phase.to_owned(),
                pending: u64::try_from(directory.pending).unwrap_or(u64::MAX),
                last_error: if session == Session::Connected {
                    String::new()
                } else {
                    directory.last_error.clone()
                },
            }),
            agents_heard: count(view.agents.len() - silent),
            agents_silent: count(silent),
            up: of(State::Up),
            degraded: of(State::Degraded),
            down: of(State::Down),
            unknown: of(State::Unknown),
        }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let (view, now) = (self.view.get(), self.clock.now());
        let mut rest = view
            .agents
            .iter()
            .skip_while(|(id, _)| id.as_str() <= request.page_token.as_str());
        let page: Vec<_> = rest.by_ref().take(size).collect();
        let next_page_token = match (page.last(), rest.next()) {
            (Some((id, _)), Some(_)) => id.to_string(),
            _ => String::new(),
        };
        let agents = page
            .into_iter()
            .map(|(id, entry)| agent(id, entry, now))
            .collect();
        Ok(Response::new(v1::ListAgentsResponse {
            agents,
            next_page_token,
            header: Some(self.header(&view)),
        }))
    }
}

type Events = Answers<v1::WatchInstancesResponse>;

/// A watcher that takes nothing for so long is stuck.
const STUCK_AFTER: std::time::Duration = std::time::Duration::from_secs(30);

impl Queries {
    /// Sends the snapshot, then every change once and in order, until the reader goes or the collector stops.
    async fn watch(&self, filter: &Filter, from: Option<Revision>, events: &Events) -> Result<(), Failure> {
        let mut revisions = self.view.revisions();
        let mut stopped = std::pin::pin!(self.supervisor.stop().cancelled());
        let mut closed = std::pin::pin!(events.closed());
        let mut seen = match from {
            Some(revision) => revision,
            None => match self.snapshot(filter, events).await {
                Some(revision) => revision,
                None => return Ok(()),
            },
        };
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        progress.reset();
        loop {
            revisions.mark_unchanged();
            let view: Arc<View> = self.view.get();
            let now = self.clock.now();
            let changes = view
                .changes_after(seen)
                .map_err(|Compacted| Failure::RevisionCompacted)?;
            for change in changes {
                // A change out of the filter is told too: what was shown must not stay shown.
                let left = !filter.matches(&change.status) && !change.removed;
                let before = change.previous.is_some_and(|reason| filter.wants(reason));
                if !left || before {
                    let event = Event::Change(transition(&view, change, now));
                    if !self.tell(events, event, self.token(change.revision)).await {
                        return Ok(());
                    }
                }
            }
            seen = view.revision;
            tokio::select! {
                biased;
                () = &mut stopped => return Err(Failure::ShuttingDown),
                () = &mut closed => return Ok(()),
                changed = revisions.changed() => if changed.is_err() { return Err(Failure::ShuttingDown) },
                _ = progress.tick() => {
                    let event = Event::Progress(v1::Progress { header: Some(self.header(&view)) });
                    if !self.tell(events, event, self.token(seen)).await {
                        return Ok(());
                    }
                }
            }
        }
    }

    async fn snapshot(&self, filter: &Filter, events: &Events) -> Option<Revision> {
        let (view, now) = (self.view.get(), self.clock.now());
        let mut sent = 0;
        for found in view
            .instances
            .values()
            .filter(|entry| filter.matches(&entry.status))
        {
            if !self
                .tell(events, Event::Instance(entry(&view, found, now)), String::new())
                .await
            {
                return None;
            }
            sent += 1;
        }
        let end = v1::SnapshotEnd {
            header: Some(self.header(&view)),
            count: count(sent),
        };
        let told = self
            .tell(events, Event::SnapshotEnd(end), self.token(view.revision))
            .await;
        told.then_some(view.revision)
    }

    /// Waits while the reader is slow; false when it is gone or the collector stops.
    async fn tell(&self, events: &Events, event: Event, resume_token: String) -> bool {
        let message = v1::WatchInstancesResponse {
            event: Some(event),
            resume_token,
        };
        let message = match events.try_send(Ok(Box::new(message))) {
            Ok(()) => return true,
            Err(TrySendError::Closed(_)) => return false,
            Err(TrySendError::Full(message)) => message,
        };
        tokio::select! {
            sent = events.send(message) => sent.is_ok(),
            () = self.supervisor.stop().cancelled() => false,
            // It holds on to a whole view meanwhile.
            () = tokio::time::sleep(STUCK_AFTER) => false,
        }
    }
}
