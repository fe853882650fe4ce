//! Relaying between collectors: laid out on the wire, not yet done.

use redkeeper_proto::v1::{RelayRequest, RelayResponse, peer_service_server::PeerService};
use tonic::{Request, Response, Status, Streaming};

/// Answers UNIMPLEMENTED.
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
