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
    let stream = connect_any(addresses, TcpStream::connect).await?;
    stream.set_nodelay(true)?;
    Ok(TokioIo::new(stream))
}

/// Connects to the first address that answers. All are tried at the same time, so that one that is cut off delays
/// nothing.
async fn connect_any<T, F: Future<Output = io::Result<T>>>(
    addresses: impl Iterator<Item = SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T> {
    let mut attempts: FuturesUnordered<_> = addresses.map(connect).collect();
    let (mut other, mut refused) = (None, None);
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(stream) => return Ok(stream),
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

    use tokio::time::timeout;

    use super::*;

    /// How an address behaves, by its last byte.
    const ANSWERS: u8 = 1;
    const REFUSES: u8 = 2;
    const UNREACHABLE: u8 = 3;
    const CUT_OFF: u8 = 4;

    /// Result of connecting to a name with these addresses; `None` if there is none within a second.
    async fn kind(addresses: &[u8]) -> Option<Result<u8, io::ErrorKind>> {
        let addresses = addresses
            .iter()
            .map(|last| SocketAddr::from(([10, 0, 0, *last], 7400)));
        let connect = |address: SocketAddr| async move {
            let SocketAddr::V4(address) = address else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            match address.ip().octets()[3] {
                CUT_OFF => std::future::pending().await,
                REFUSES => Err(io::ErrorKind::ConnectionRefused.into()),
                UNREACHABLE => Err(io::ErrorKind::HostUnreachable.into()),
                last => Ok(last),
            }
        };
        let attempt = timeout(Duration::from_secs(1), connect_any(addresses, connect));
        Some(attempt.await.ok()?.map_err(|e| e.kind()))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_refused_only_where_every_address_refuses() {
        let refused = Some(Err(io::ErrorKind::ConnectionRefused));
        assert_eq!(kind(&[REFUSES]).await, refused);
        assert_eq!(kind(&[REFUSES, REFUSES]).await, refused);
        for others in [[REFUSES, UNREACHABLE], [UNREACHABLE, REFUSES]] {
            assert_eq!(kind(&others).await, Some(Err(io::ErrorKind::HostUnreachable)));
        }
        assert_eq!(
            kind(&[REFUSES, CUT_OFF]).await,
            None,
            "it may live behind the other one"
        );
        assert_eq!(kind(&[CUT_OFF, REFUSES, ANSWERS]).await, Some(Ok(ANSWERS)));
        assert_eq!(kind(&[]).await, Some(Err(io::ErrorKind::Other)));
    }
}
