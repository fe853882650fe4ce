//! The connection of a worker to its instance, which is being made or open. What happens on it becomes an input of the
//! prober.

use std::{
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use redkeeper_core::probe::{ConnectFailure, Input};

use crate::redis::{Connection, NewClient, Received};

/// A second connection under way.
pub(super) type Fresh = Pin<Box<dyn Future<Output = NewClient> + Send>>;
type Connecting = Pin<Box<dyn Future<Output = Result<Connection, ConnectFailure>> + Send>>;

/// At most one of connecting and open is there.
#[derive(Default)]
pub(super) struct Link {
    pub(super) connecting: Option<Connecting>,
    pub(super) open: Option<Connection>,
    /// The connection that ended last went here, without TLS, and nothing came back on it.
    pub(super) ended_mute: Option<SocketAddr>,
    /// The search for the server's process was made on this connection.
    pub(super) searched: bool,
    /// A second connection under way, because this one is silent.
    pub(super) second: Option<Fresh>,
}

impl Link {
    /// The next thing that happens on it.
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
                self.ended_mute = connection.mute_plain();
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

/// The name of an instance stands for other addresses now: a connection to a former one proves nothing about it.
pub(super) fn has_moved(peer: Option<SocketAddr>, addresses: &[SocketAddr]) -> bool {
    !addresses.is_empty() && peer.is_some_and(|peer| !addresses.contains(&peer))
}

/// What comes of work under way, if there is any and it is done.
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
        // No name, or a Unix socket.
        assert!(!has_moved(Some(a), &[]) && !has_moved(None, &[b]));
    }
}
