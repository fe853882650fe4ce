//! Answers tools from the view. Nothing here waits for the aggregator or for ZooKeeper.

mod filter;
mod paging;
mod queries;
pub mod watch;
mod wire;

use std::ops::Bound;

use redkeeper_core::{
    ids::{AgentId, ClusterName, InstanceId},
    status::State,
    time::WallMs,
};
use redkeeper_proto::{
    convert,
    v1::{self, status_service_server::StatusService, store_status::Session},
};
use tonic::{Request, Response, Status};

use super::{
    errors::Failure,
    status::{
        filter::Filter,
        paging::page,
        watch::WatchStream,
        wire::{Now, agent, count, entry, page_size, transition},
    },
};
use crate::{
    fleet::{change_log::Change, counts::Kind},
    peers::warnings::{Warning, warnings},
    store::Connection,
};

pub use queries::Queries;

#[tonic::async_trait]
impl StatusService for Queries {
    type WatchInstancesStream = WatchStream;

    async fn get_instance(
        &self,
        request: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        let id = request.into_inner().id;
        let view = self.view.get();
        let found = InstanceId::new(&id).ok().and_then(|id| view.instances.get(&id));
        let found = found.ok_or(Failure::InstanceNotFound(id))?;
        let instance = Some(entry(&view, found, Now::of(&self.clock)));
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
        let view = self.view.get();
        let page = page(&view, &filter, &request.page_token, size).await?;
        let now = Now::of(&self.clock);
        Ok(Response::new(v1::ListInstancesResponse {
            instances: page.found.iter().map(|found| entry(&view, found, now)).collect(),
            next_page_token: page.next,
            header: Some(self.header(&view)),
            total_size: count(page.total),
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
        Ok(Response::new(WatchStream::new(self, filter, from, peer)))
    }

    async fn summarize_instances(
        &self,
        request: Request<v1::SummarizeInstancesRequest>,
    ) -> Result<Response<v1::SummarizeInstancesResponse>, Status> {
        let filter = Filter::new(request.into_inner().filter)?;
        let view = self.view.get();
        let row = |(kind, n): (&Kind, usize)| v1::SummaryRow {
            state: convert::state_to_wire(kind.reason.state()).into(),
            reason: convert::reason_to_wire(kind.reason),
            cluster: kind.cluster.as_ref().map_or("", ClusterName::as_str).to_owned(),
            agent_id: kind.agent().to_owned(),
            count: count(n),
        };
        let rows = filter.kinds(&view.counts).map(row).collect();
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
            token => token.parse().map_err(|_| {
                Failure::InvalidArgument("page_token: is not a token of this collector".to_owned())
            })?,
        };
        let (view, now) = (self.view.get(), Now::of(&self.clock));
        let wanted = |change: &&Change| {
            let asked =
                request.instance_id.is_empty() || change.status.identity.id.as_str() == request.instance_id;
            asked && change.is_transition()
        };
        let mut rest = view.log.before(before).filter(wanted);
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
        let leadership = self.leadership.borrow().clone();
        let leader = leadership.leader(self.clock.now());
        let session = match leadership.connection {
            _ if self.standalone => Session::Standalone,
            Some(Connection::Connected) => Session::Connected,
            Some(Connection::Suspended) => Session::Suspended,
            Some(Connection::Lost) | None => Session::None,
        };
        let peers = self.peers.borrow().clone();
        let wall = self.clock.wall();
        let age = |at: WallMs| {
            convert::duration_to_wire(std::time::Duration::from_millis(wall.0.saturating_sub(at.0)))
        };
        let member = |member: crate::store::records::CollectorJson| {
            let silent = peers
                .peers
                .get(&member.id)
                .filter(|peer| peer.link.silent_since().is_some());
            v1::Member {
                leader: member.id == leader,
                id: member.id,
                address: member.grpc,
                version: member.version,
                silent_since_time: silent.and_then(|peer| convert::time_to_wire(peer.link.silent_since()?)),
                error: silent.map_or_else(String::new, |peer| peer.error.clone()),
                silent_age: silent.and_then(|peer| peer.link.silent_since()).map(age),
            }
        };
        let warning = |warning: Warning| v1::Warning {
            code: warning.code.to_owned(),
            subject: warning.subject,
            text: warning.text,
            since_time: warning.since.and_then(convert::time_to_wire),
        };
        let warnings = warnings(&leadership, &peers, self.clock.now())
            .into_iter()
            .map(warning)
            .collect();
        let of = |state| {
            let reasons = view.counts.reasons();
            let those = reasons.filter(|(reason, _)| reason.state() == state);
            count(those.map(|(_, n)| n).sum())
        };
        let silent = view.agents.values().filter(|agent| agent.silent).count();
        Ok(Response::new(v1::GetClusterStatusResponse {
            header,
            members: leadership.members.iter().cloned().map(member).collect(),
            store: Some(v1::StoreStatus {
                session: session.into(),
                phase: leadership.phase.to_owned(),
                pending: u64::try_from(self.metrics.pending.get()).unwrap_or(0),
                last_error: if session == Session::Connected {
                    String::new()
                } else {
                    leadership.last_error.clone()
                },
                servers: if self.standalone {
                    String::new()
                } else {
                    leadership.servers.clone()
                },
                since_time: leadership.since.and_then(convert::time_to_wire),
                since_age: leadership.since.map(age),
            }),
            agents_heard: count(view.agents.len() - silent),
            agents_silent: count(silent),
            up: of(State::Up),
            degraded: of(State::Degraded),
            down: of(State::Down),
            unknown: of(State::Unknown),
            warnings,
        }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let start = match request.page_token.as_str() {
            "" => Bound::Unbounded,
            token => Bound::Excluded(AgentId::new(token).map_err(|_| {
                Failure::InvalidArgument(format!("page_token: {token:?} is not a token of this collector"))
            })?),
        };
        let (view, now) = (self.view.get(), Now::of(&self.clock));
        let mut rest = view.agents.range((start, Bound::Unbounded));
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

#[cfg(test)]
mod tests;
