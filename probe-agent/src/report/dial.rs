//! How a collector is reached: over the network, or as a simulation says.

use std::pin::Pin;

use tonic::transport::{Channel, Endpoint};

/// A connection that is being made.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Channel, tonic::transport::Error>> + Send>>;

/// How a collector is reached.
pub trait Dial: Send + Sync {
    /// Connects as `endpoint` says, which bounds the time.
    fn dial(&self, endpoint: Endpoint) -> Dialing;
}

/// The network.
pub struct Network;

impl Dial for Network {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        Box::pin(async move { endpoint.connect().await })
    }
}
