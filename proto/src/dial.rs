//! How a client of these services connects: over the network, or within a simulation.

use std::pin::Pin;

use tonic::transport::{Channel, Endpoint};

/// A connection attempt in progress.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Channel, tonic::transport::Error>> + Send>>;

/// Opens connections to a collector.
pub trait Dial: Send + Sync {
    /// Connects to `endpoint`, which also sets the time-out.
    fn dial(&self, endpoint: Endpoint) -> Dialing;
}

/// Connects over the real network.
pub struct Network;

impl Dial for Network {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        Box::pin(async move { endpoint.connect().await })
    }
}
