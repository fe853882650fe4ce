//! The floor of detection: EOF on a bare socket, one message on an open gRPC stream, one `set_data`. Nothing is
//! judged, deduplicated, fenced or remembered.

use std::{pin::Pin, time::Duration};

use redkeeper_proto::v1::{
    Heartbeat, ReportStatusRequest, ReportStatusResponse,
    agent_service_client::AgentServiceClient,
    agent_service_server::{AgentService, AgentServiceServer},
    report_status_request::Message,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use crate::rig::endpoint;

/// Says `n` when instance `n` answers, and `n` with an age of 1 when its connection ends.
fn message(n: usize, ended: bool) -> ReportStatusRequest {
    ReportStatusRequest {
        sequence: 0,
        message: Some(Message::Heartbeat(Heartbeat {
            handles: vec![u32::try_from(n).unwrap_or(0)],
            probe_ages_ms: vec![u32::from(ended)],
            agent_time: None,
        })),
    }
}

/// Holds a connection to each instance, and one stream.
pub(super) async fn agent(collector: &str, instances: &[&str]) -> Result<(), String> {
    let channel = endpoint(collector)?.connect().await.map_err(|e| e.to_string())?;
    let (sender, receiver) = mpsc::channel(64);
    for (n, address) in instances.iter().enumerate() {
        let (sender, address) = (sender.clone(), (*address).to_owned());
        #[allow(clippy::disallowed_methods)] // A floor owns nothing; it ends with its process.
        tokio::spawn(async move {
            loop {
                if let Ok(mut stream) = TcpStream::connect(&address).await {
                    let mut bytes = [0; 64];
                    if stream.write_all(b"PING\r\n").await.is_ok()
                        && stream.read(&mut bytes).await.is_ok_and(|n| n > 0)
                    {
                        sender.send(message(n, false)).await.ok();
                        while stream.read(&mut bytes).await.is_ok_and(|n| n > 0) {}
                        sender.send(message(n, true)).await.ok();
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let mut client = AgentServiceClient::new(channel);
    let stream = client.report_status(ReceiverStream::new(receiver)).await;
    let mut answers = stream.map_err(|e| e.to_string())?.into_inner();
    while answers.message().await.map_err(|e| e.to_string())?.is_some() {}
    Ok(())
}

/// Writes what the stream says into `/floor/N`.
struct Collector {
    zookeeper: zookeeper_client::Client,
    /// As large as a status.
    bytes: usize,
}

#[tonic::async_trait]
impl AgentService for Collector {
    type ReportStatusStream = Pin<Box<dyn Stream<Item = Result<ReportStatusResponse, Status>> + Send>>;

    async fn report_status(
        &self,
        request: Request<Streaming<ReportStatusRequest>>,
    ) -> Result<Response<Self::ReportStatusStream>, Status> {
        let (mut stream, zookeeper, bytes) = (request.into_inner(), self.zookeeper.clone(), self.bytes);
        #[allow(clippy::disallowed_methods)] // As above.
        tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let Some(Message::Heartbeat(beat)) = message.message else {
                    continue;
                };
                for (n, ended) in beat.handles.into_iter().zip(beat.probe_ages_ms) {
                    let data = format!("{:<bytes$}", if ended == 1 { "down" } else { "up" });
                    if let Err(e) = zookeeper
                        .set_data(&format!("/floor/{n}"), data.as_bytes(), None)
                        .await
                    {
                        eprintln!("/floor/{n}: {e}");
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(tokio_stream::pending())))
    }
}

/// Serves one stream.
pub(super) async fn collector(listen: &str, zookeeper: &str, bytes: &str) -> Result<(), String> {
    let bytes = bytes.parse().map_err(|e| format!("{bytes:?}: {e}"))?;
    let client = zookeeper_client::Client::connect(zookeeper).await;
    let zookeeper = client.map_err(|e| format!("{zookeeper}: {e}"))?;
    let address = listen.parse().map_err(|e| format!("{listen}: {e}"))?;
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(AgentServiceServer::new(Collector { zookeeper, bytes }))
        .serve(address)
        .await
        .map_err(|e| e.to_string())
}
