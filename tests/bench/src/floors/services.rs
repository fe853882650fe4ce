//! The floors of the gRPC scenarios in one bare tonic server: a sink that only counts, a unary call that answers
//! the same each time, and a fan-out that copies one message to all who listen.

use std::{pin::Pin, sync::Arc};

use redkeeper_proto::v1::{
    self, ReportStatusRequest, ReportStatusResponse,
    agent_service_server::{AgentService, AgentServiceServer},
    report_status_request::Message,
    status_service_server::{StatusService, StatusServiceServer},
    watch_instances_response::Event,
};
use tokio::sync::broadcast;
use tokio_stream::{Stream, StreamExt, wrappers::BroadcastStream};
use tonic::{Request, Response, Status, Streaming};

use crate::fleet;

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Floor {
    answer: v1::GetInstanceResponse,
    fan: broadcast::Sender<Arc<v1::WatchInstancesResponse>>,
}

#[tonic::async_trait]
impl AgentService for Floor {
    type ReportStatusStream = Boxed<ReportStatusResponse>;

    /// Counts messages. One with changes goes to all who listen.
    async fn report_status(
        &self,
        request: Request<Streaming<ReportStatusRequest>>,
    ) -> Result<Response<Self::ReportStatusStream>, Status> {
        let (mut stream, fan) = (request.into_inner(), self.fan.clone());
        #[allow(clippy::disallowed_methods)] // A floor owns nothing; it ends with its process.
        tokio::spawn(async move {
            let mut count = 0u64;
            while let Ok(Some(message)) = stream.message().await {
                count += 1;
                if let Some(Message::Changes(changes)) = message.message
                    && let Some(report) = changes.instances.into_iter().next()
                {
                    let change = v1::Transition {
                        instance: Some(fleet::instance(&report)),
                        ..Default::default()
                    };
                    let event = Some(Event::Change(change));
                    let response = v1::WatchInstancesResponse {
                        event,
                        ..Default::default()
                    };
                    fan.send(Arc::new(response)).ok();
                }
            }
            std::hint::black_box(count);
        });
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

#[tonic::async_trait]
impl StatusService for Floor {
    type WatchInstancesStream = Boxed<v1::WatchInstancesResponse>;

    async fn get_instance(
        &self,
        _: Request<v1::GetInstanceRequest>,
    ) -> Result<Response<v1::GetInstanceResponse>, Status> {
        Ok(Response::new(self.answer.clone()))
    }

    async fn watch_instances(
        &self,
        _: Request<v1::WatchInstancesRequest>,
    ) -> Result<Response<Self::WatchInstancesStream>, Status> {
        let stream = BroadcastStream::new(self.fan.subscribe());
        let copies = stream.map(|event| match event {
            Ok(event) => Ok((*event).clone()),
            Err(e) => Err(Status::data_loss(e.to_string())),
        });
        Ok(Response::new(Box::pin(copies)))
    }

    async fn list_instances(
        &self,
        _: Request<v1::ListInstancesRequest>,
    ) -> Result<Response<v1::ListInstancesResponse>, Status> {
        Err(Status::unimplemented("a floor"))
    }

    async fn summarize_instances(
        &self,
        _: Request<v1::SummarizeInstancesRequest>,
    ) -> Result<Response<v1::SummarizeInstancesResponse>, Status> {
        Err(Status::unimplemented("a floor"))
    }

    async fn list_transitions(
        &self,
        _: Request<v1::ListTransitionsRequest>,
    ) -> Result<Response<v1::ListTransitionsResponse>, Status> {
        Err(Status::unimplemented("a floor"))
    }

    async fn get_cluster_status(
        &self,
        _: Request<v1::GetClusterStatusRequest>,
    ) -> Result<Response<v1::GetClusterStatusResponse>, Status> {
        Err(Status::unimplemented("a floor"))
    }

    async fn list_agents(
        &self,
        _: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        Err(Status::unimplemented("a floor"))
    }
}

/// Serves all of them.
pub(super) async fn serve(listen: &str) -> Result<(), String> {
    let header = v1::ResponseHeader {
        served_by: "a".to_owned(),
        leader: "a".to_owned(),
        epoch: 1,
        ..Default::default()
    };
    let floor = Floor {
        answer: v1::GetInstanceResponse {
            header: Some(header),
            instance: Some(fleet::instance(&fleet::report("agent-0", 1, true))),
        },
        fan: broadcast::Sender::new(64),
    };
    let address = listen.parse().map_err(|e| format!("{listen}: {e}"))?;
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(AgentServiceServer::new(floor.clone()))
        .add_service(StatusServiceServer::new(floor))
        .serve(address)
        .await
        .map_err(|e| e.to_string())
}
