//! Binds the port, builds the server with its services and limits, and serves until the daemon stops.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use futures_util::Stream;

use nix::sys::socket::{setsockopt, sockopt};
use redkeeper_core::limits::AGENT_MESSAGE_BYTES_MAX;
use redkeeper_proto::{
    DESCRIPTOR,
    v1::{
        admin_service_server::AdminServiceServer, agent_service_server::AgentServiceServer,
        peer_service_server::PeerServiceServer, status_service_server::StatusServiceServer,
    },
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::Connected};
use tower::ServiceBuilder;

use redkeeper_runtime::clock::Clock;

use crate::{
    grpc::{
        admin::Admin,
        agent::Ingest,
        health,
        layers::{CatchPanic, Observe, UNARY_MAX, UNARY_TIMEOUT, UnaryLimits},
        peer_link::{self, Links},
        status::Queries,
    },
    leader::leadership,
};

/// Maximum size of a tool's request: filters and ids, nothing large.
const TOOL_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Maximum size of a request of another collector: ids of 20,000 agents, of at most 65 bytes each.
const PEER_MESSAGE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Maximum calls at a time on one connection, streams included: an agent needs one, a tool a few, a program that watches
/// for others some dozens. HTTP/2 makes a client wait that wants more. It is a quarter of [`UNARY_MAX`], so that one
/// connection does not take all places of unary calls.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Share of `silent_after` after which the kernel asks an idle peer whether it is there. After twice the share without
/// an acknowledgement the peer is dead, so that both together are `silent_after`. HTTP/2 pings instead cost 2.5 % of
/// the CPU with 2,000 streams.
const KEEPALIVE_SHARE: u32 = 3;
/// The kernel asks at most once a second; and tools, to which `silent_after` means nothing, must not be kept for long.
const KEEPALIVE_RANGE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// What the gRPC server serves, and what it needs to stop.
pub struct Services {
    /// Service for agents.
    pub ingest: Ingest,
    /// Service for tools.
    pub queries: Queries,
    /// Service for administrators.
    pub admin: Admin,
    /// Service for the other collectors.
    pub links: Links,
    /// The leader, for the health service.
    pub leadership: leadership::Reader,
    /// Clock.
    pub clock: Clock,
    /// Cancelled when the collector is about to stop; the health service reports it.
    pub draining: CancellationToken,
    /// How long connections may take to close once the port is closed.
    pub close_grace: Duration,
}

/// Binds `address`, so that a taken port is a clear error before anything starts. How soon the kernel finds a dead peer
/// follows `silent_after`.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr, silent_after: Duration) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    let share = (silent_after / KEEPALIVE_SHARE).clamp(KEEPALIVE_RANGE.0, KEEPALIVE_RANGE.1);
    let idle = u32::try_from(share.as_secs()).unwrap_or(u32::MAX);
    let dead_after = u32::try_from((share * 2).as_millis()).unwrap_or(u32::MAX);
    // Connections inherit the options of their listener.
    setsockopt(&listener, sockopt::KeepAlive, &true)?;
    setsockopt(&listener, sockopt::TcpKeepIdle, &idle)?;
    setsockopt(&listener, sockopt::TcpKeepInterval, &idle)?;
    setsockopt(&listener, sockopt::TcpUserTimeout, &dead_after)?;
    Ok(listener)
}

/// Serves `connections` until `stop`, at which streams end by themselves; the caller bounds the time.
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
    let (health, health_service) = health::service().await;
    let reflected = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // grpcurl before 1.9 and many libraries use the former version only.
    let (reflection, former_reflection) = (reflected().build_v1()?, reflected().build_v1alpha()?);
    let layers = ServiceBuilder::new()
        .layer(Observe::new(services.ingest.metrics.clone()))
        .layer(CatchPanic)
        .layer(UnaryLimits::new(UNARY_MAX, UNARY_TIMEOUT));
    let agents = AgentServiceServer::new(services.ingest).max_decoding_message_size(AGENT_MESSAGE_BYTES_MAX);
    let tools = StatusServiceServer::new(services.queries).max_decoding_message_size(TOOL_MESSAGE_BYTES_MAX);
    let admin = AdminServiceServer::new(services.admin).max_decoding_message_size(TOOL_MESSAGE_BYTES_MAX);
    let links = peer_link::Service::new(services.links, stop.clone());
    let peers = PeerServiceServer::new(links).max_decoding_message_size(PEER_MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .accept_http1(false)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_header_list_size(8 * 1024)
        .layer(layers)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(former_reflection)
        .add_service(agents)
        .add_service(tools)
        .add_service(admin)
        .add_service(peers)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let close_grace = services.close_grace;
    let follow = health::follow(health, services.leadership, services.clock, services.draining);
    // Streams have been drained and ended by then; a client that still holds a connection is stuck.
    let closed = async {
        stop.cancelled().await;
        tokio::time::sleep(close_grace).await;
    };
    let health = async {
        follow.await;
        std::future::pending().await
    };
    tokio::select! {
        result = server => result?,
        () = health => (),
        () = closed => tracing::warn!("some clients do not close their connections; they are cut"),
    }
    Ok(())
}
