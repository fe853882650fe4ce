//! A connection to the first collector that answers.

use std::time::Duration;

use redkeeper_proto::v1::status_service_client::StatusServiceClient;
use tonic::transport::{Channel, Endpoint};

use crate::run::Error;

/// A dead path is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A client of a collector.
pub(crate) type Client = StatusServiceClient<Channel>;

/// Connects to the first endpoint that takes a connection within its share of `timeout`.
pub(crate) async fn connect(endpoints: &[String], timeout: Duration) -> Result<Client, Error> {
    let share = timeout / u32::try_from(endpoints.len().max(1)).unwrap_or(1);
    let mut tried = Vec::new();
    for address in endpoints {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|_| Error::Usage(format!("{address:?} is no HOST:PORT")))?;
        match endpoint
            .connect_timeout(share)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .connect()
            .await
        {
            Ok(channel) => return Ok(StatusServiceClient::new(channel)),
            Err(e) => tried.push(format!("{address}: {}", root_cause(&e))),
        }
    }
    Err(Error::Unreachable(tried.join("; ")))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
