//! The connection of a probe to its instance, either being opened or open. Its events become inputs of the prober.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use redkeeper_core::probe::{ConnectFailure, Input};

use crate::redis::{self, Connection, ConnectionCheck, Received, StepLog, Target};

/// A check with another connection, in progress.
pub(super) type Check = Pin<Box<dyn Future<Output = ConnectionCheck> + Send>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Connection, ConnectFailure>> + Send>>;

/// The connection. At most one of `connecting` and `open` is set.
#[derive(Default)]
pub(super) struct Link {
    connecting: Option<Connecting>,
    /// The open connection.
    pub(super) open: Option<Connection>,
    /// Peer of the last ended connection, if it was without TLS and received nothing.
    pub(super) ended_silent: Option<SocketAddr>,
    /// A check with a second connection in progress, because this one is silent.
    pub(super) second: Option<Check>,
}

impl Link {
    /// Starts to open a connection. `steps` gets the duration of each step.
    pub(super) fn connect(target: Arc<Target>, limit: Duration, steps: Arc<StepLog>) -> Self {
        Self {
            connecting: Some(Box::pin(
                async move { redis::connect(&target, limit, &steps).await },
            )),
            ..Self::default()
        }
    }

    /// The address that accepted the connection.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.open.as_ref().and_then(|open| open.peer)
    }

    /// Polls for the next event on the connection.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Input> {
        if let Some(result) = poll_once(&mut self.connecting, context) {
            return Poll::Ready(match result {
                Ok(connection) => {
                    self.open = Some(connection);
                    Input::Connected
                }
                Err(failure) => Input::ConnectFailed(failure),
            });
        }
        let Some(connection) = &mut self.open else {
            return Poll::Pending;
        };
        Poll::Ready(match ready!(connection.poll_receive(context)) {
            Received::Reply(reply) => Input::Replied(reply),
            Received::Closed(how) => {
                self.ended_silent = connection.silent_peer();
                self.open = None;
                Input::Closed(how)
            }
            Received::Refused(failure) => {
                self.open = None;
                Input::ConnectFailed(failure)
            }
            Received::Garbage(what) => Input::Garbage(what),
        })
    }
}

/// True if the instance's name no longer resolves to the peer's address: the connection then proves nothing about it.
pub(super) fn has_moved(peer: Option<SocketAddr>, addresses: &[SocketAddr]) -> bool {
    !addresses.is_empty() && peer.is_some_and(|peer| !addresses.contains(&peer))
}

/// Polls optional work; returns its result and clears it once it is done.
pub(super) fn poll_once<T>(
    under_way: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    context: &mut Context<'_>,
) -> Option<T> {
    match under_way.as_mut()?.as_mut().poll(context) {
        Poll::Ready(result) => {
            *under_way = None;
            Some(result)
        }
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_moved_when_its_connection_goes_to_none_of_its_addresses() {
        let [a, b]: [SocketAddr; 2] = ["10.0.0.1:6379", "[::1]:6379"].map(|text| text.parse().unwrap());
        assert!(has_moved(Some(a), &[b]));
        assert!(!has_moved(Some(a), &[b, a]));
        // No name was resolved, or the address is a Unix socket.
        assert!(!has_moved(Some(a), &[]) && !has_moved(None, &[b]));
    }
}
