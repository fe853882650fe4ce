//! Binds the port, builds the server with its services and limits, and serves until the daemon stops.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use futures_util::Stream;

use nix::sys::socket::{setsockopt, sockopt};
use redkeeper_core::limits::AGENT_MESSAGE_BYTES_MAX;
use redkeeper_proto::{
    DESCRIPTOR,
    v1::{
        agent_service_server::AgentServiceServer, peer_service_server::PeerServiceServer,
        status_service_server::StatusServiceServer,
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use tonic_health::ServingStatus;

use redkeeper_runtime::clock::Clock;

use crate::{
    grpc::{agent::Ingest, peer::Peers, status::Queries},
    leader::leadership,
};

/// Pseudo-service of `grpc.health.v1` that is SERVING on the leader only.
pub const LEADER_HEALTH: &str = "redkeeper.v1.Leader";

/// A request of a tool: filters and ids, nothing large.
const TOOL_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Streams on one connection: an agent needs one, a tool a few.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Requests that one connection may have open beyond that are refused at once instead of queued.
const REQUESTS_PER_CONNECTION_MAX: usize = 128;
/// A path on which the kernel of the other side acknowledges nothing for so long is dead; together below the default
/// `silent_after` of 3 s. An idle one is asked after the former time. The kernel does it for nothing: HTTP/2 pings were
/// 2.5 % of a profile with 2,000 streams.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// Everything that is served.
pub struct Services {
    /// For agents.
    pub ingest: Ingest,
    /// For tools.
    pub queries: Queries,
    /// Who leads, for the health service.
    pub directory: leadership::Reader,
    /// Time.
    pub clock: Clock,
    /// How long connections may take to close after the request to stop.
    pub close_grace: Duration,
}

/// Binds `address`, so that a taken port is a clear error before anything starts.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    // Connections inherit it from their listener.
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    setsockopt(&listener, sockopt::KeepAlive, &true)?;
    setsockopt(&listener, sockopt::TcpKeepIdle, &seconds(KEEPALIVE.0))?;
    setsockopt(&listener, sockopt::TcpKeepInterval, &seconds(KEEPALIVE.0))?;
    let dead_after = u32::try_from(KEEPALIVE.1.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&listener, sockopt::TcpUserTimeout, &dead_after)?;
    Ok(listener)
}

/// The health of the leader is looked at this often at least: a machine that slept wakes after the end of its lease.
const LEADER_HEALTH_INTERVAL: std::time::Duration = std::time::Duration::from_millis(250);

/// Serves `connections` until `stop`. Streams end themselves on it; the caller bounds the time.
///
/// # Errors
/// When the transport or reflection fails.
pub async fn serve<C>(
    connections: impl Stream<Item = Result<C, Infallible>>,
    services: Services,
    stop: CancellationToken,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (health, health_service) = tonic_health::server::health_reporter();
    // The library starts as serving. An empty name stands for the whole process.
    for name in [
        LEADER_HEALTH,
        "",
        "redkeeper.v1.StatusService",
        "redkeeper.v1.AgentService",
    ] {
        let status = if name == LEADER_HEALTH {
            ServingStatus::NotServing
        } else {
            ServingStatus::Serving
        };
        health.set_service_status(name, status).await;
    }
    let reflected = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // grpcurl before 1.9 and many libraries ask the former version only.
    let (reflection, former_reflection) = (reflected().build_v1()?, reflected().build_v1alpha()?);
    let agents = AgentServiceServer::new(services.ingest).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let tools = StatusServiceServer::new(services.queries).max_decoding_message_size(TOOL_MESSAGE_BYTES_MAX);
    let peers = PeerServiceServer::new(Peers).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .accept_http1(false)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(8 * 1024)
        .concurrency_limit_per_connection(REQUESTS_PER_CONNECTION_MAX)
        .load_shed(true)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(former_reflection)
        .add_service(agents)
        .add_service(tools)
        .add_service(peers)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let (mut directory, clock, close_grace) = (services.directory, services.clock, services.close_grace);
    // Streams have been drained and ended by then; who still holds a connection is stuck.
    let closed = async {
        stop.cancelled().await;
        tokio::time::sleep(close_grace).await;
    };
    let leader = async {
        loop {
            let now = clock.now();
            let (leads, ends) = {
                let directory = directory.borrow_and_update();
                (directory.leads(now), directory.lease_ends())
            };
            let status = if leads {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            health.set_service_status(LEADER_HEALTH, status).await;
            // A lease runs out without a change.
            let ends = ends
                .filter(|_| leads)
                .map_or(LEADER_HEALTH_INTERVAL, |ends| ends.since(now));
            let wait = ends.min(LEADER_HEALTH_INTERVAL);
            if let Ok(Err(_)) = tokio::time::timeout(wait, directory.changed()).await {
                return std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        result = server => result?,
        () = leader => (),
        () = closed => tracing::warn!("some clients do not close their connections; they are cut"),
    }
    Ok(())
}
