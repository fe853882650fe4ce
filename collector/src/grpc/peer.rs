//! Relaying between collectors: defined in the protocol, not yet implemented.

use redkeeper_proto::v1::{RelayRequest, RelayResponse, peer_service_server::PeerService};
use tonic::{Request, Response, Status, Streaming};

/// Answers every call with UNIMPLEMENTED.
pub struct Peers;

#[tonic::async_trait]
impl PeerService for Peers {
    type RelayStream = tokio_stream::Empty<Result<RelayResponse, Status>>;

    async fn relay(
        &self,
        _: Request<Streaming<RelayRequest>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        Err(Status::unimplemented(
            "relaying between collectors is not available in this version",
        ))
    }
}
