//! Connects to another collector over the network. A refused connection is evidence that the process there has ended
//! (`core::peer_link`), so it is reported only if *every* address of the name refuses: behind another one the process may
//! live.

use std::{io, net::SocketAddr};

use futures_util::{StreamExt, stream::FuturesUnordered};
use hyper_util::rt::TokioIo;
use redkeeper_proto::dial::{Dial, Dialing};
use tokio::net::TcpStream;
use tonic::transport::{Endpoint, Uri};
use tower::service_fn;

/// Port of an address that names none, which `advertise` does not allow.
const NO_PORT: u16 = 0;
/// Maximum addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Connects over the real network.
pub struct Network;

impl Dial for Network {
    fn dial(&self, endpoint: Endpoint) -> Dialing {
        Box::pin(async move { endpoint.connect_with_connector(service_fn(connect)).await })
    }
}

async fn connect(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let host = uri.host().unwrap_or_default();
    // An IPv6 address stands in brackets.
    let host = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let port = uri.port_u16().unwrap_or(NO_PORT);
    let addresses = tokio::net::lookup_host((host, port)).await?.take(ADDRESSES_MAX);
    connect_any(addresses).await.map(TokioIo::new)
}

/// Connects to the first address that answers. All are tried at the same time, so that one that is cut off delays
/// nothing.
async fn connect_any(addresses: impl Iterator<Item = SocketAddr>) -> io::Result<TcpStream> {
    let mut attempts: FuturesUnordered<_> = addresses.map(TcpStream::connect).collect();
    let (mut other, mut refused) = (None, None);
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => refused = Some(e),
            Err(e) => other = Some(e),
        }
    }
    Err(other
        .or(refused)
        .unwrap_or_else(|| io::Error::other("the name has no address")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn kind(addresses: &[SocketAddr]) -> Option<io::ErrorKind> {
        let attempt = connect_any(addresses.iter().copied());
        match tokio::time::timeout(Duration::from_millis(300), attempt).await {
            Ok(result) => result.err().map(|e| e.kind()),
            Err(_) => Some(io::ErrorKind::TimedOut),
        }
    }

    #[tokio::test]
    async fn it_is_refused_only_where_every_address_refuses() {
        let listener = |_| std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let [there, gone] = [0, 1].map(listener);
        let (alive, refuses) = (there.local_addr().unwrap(), gone.local_addr().unwrap());
        drop(gone);
        // A TCP connection to the broadcast address fails at once, and in another way.
        let odd = "255.255.255.255:7400".parse().unwrap();
        assert_eq!(kind(&[refuses]).await, Some(io::ErrorKind::ConnectionRefused));
        assert_eq!(kind(&[refuses, alive]).await, None);
        assert_ne!(
            kind(&[refuses, odd]).await,
            Some(io::ErrorKind::ConnectionRefused)
        );
        assert_ne!(kind(&[]).await, Some(io::ErrorKind::ConnectionRefused));
    }
}
