//! Connects to the first collector that answers. Accepting a connection is not an answer: many programs do that.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use redkeeper_core::hosts::HostPort;
use redkeeper_proto::v1::status_service_client::StatusServiceClient;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

use crate::{error::Error, identify_server};

/// A dead path is detected within twice this time.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// gRPC client of a collector.
pub(crate) type Client = StatusServiceClient<Channel>;

/// Sends the first request of a command to one endpoint after the other, until a collector answers. Each endpoint gets
/// a share of the rest of `timeout`, name look-up included.
pub(crate) async fn first<T>(
    endpoints: &[HostPort],
    timeout: Duration,
    call: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
) -> Result<(Client, T), Error> {
    let start = Instant::now();
    let mut tried = Vec::new();
    for (n, address) in endpoints.iter().enumerate() {
        let others = u32::try_from(endpoints.len() - n).unwrap_or(u32::MAX);
        let share = timeout.saturating_sub(start.elapsed()) / others;
        let connected = Cell::new(false);
        let words = match tokio::time::timeout(share, ask(address, share, &connected, &call)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(Failed::Refused(status))) => return Err(Error::Refused(status)),
            Ok(Err(Failed::NoCollector(words))) => words,
            Err(_) if connected.get() => {
                format!("takes the connection, but does not answer within {share:.1?}")
            }
            Err(_) => format!("cannot be connected to within {share:.1?}"),
        };
        tried.push(format!("{address} {words}"));
    }
    Err(Error::Unreachable(tried.join("; ")))
}

/// Why an endpoint gave no answer.
enum Failed {
    /// A collector refused the request. That is an answer; another collector would refuse it too.
    Refused(Status),
    /// No collector answered; the text is to be read after the address.
    NoCollector(String),
}

async fn ask<T>(
    address: &HostPort,
    time: Duration,
    connected: &Cell<bool>,
    call: impl AsyncFn(&mut Client) -> Result<Response<T>, Status>,
) -> Result<(Client, T), Failed> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| Failed::NoCollector(format!("is no address: {e}")))?;
    let channel = endpoint
        .tcp_nodelay(true)
        // Each address of a name gets a share of this time.
        .connect_timeout(time)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .connect()
        .await;
    let channel = match channel {
        Ok(channel) => channel,
        Err(e) => {
            let words = match unconnected(&e) {
                Some(words) => words,
                None => identify_server::like(address).await,
            };
            return Err(Failed::NoCollector(words));
        }
    };
    connected.set(true);
    let mut client = StatusServiceClient::new(channel);
    match call(&mut client).await {
        Ok(answer) => Ok((client, answer.into_inner())),
        Err(status) if says_a_collector(&status) => match status.code() {
            // The collector is stopping or overloaded: another one may answer.
            Code::Unavailable | Code::ResourceExhausted => {
                Err(Failed::NoCollector(format!("says: {}", status.message())))
            }
            _ => Err(Failed::Refused(status)),
        },
        Err(status) if is_refusal(&status) => Err(Failed::Refused(status)),
        Err(status) => Err(Failed::NoCollector(no_answer(&status, address).await)),
    }
}

/// Whether the refusal comes from a collector: only collectors attach these details.
fn says_a_collector(status: &Status) -> bool {
    status
        .get_details_error_info()
        .is_some_and(|info| info.domain == "redkeeper")
}

/// Whether the server's gRPC library refused the request before the collector saw it, for example because it is too
/// large. The request is at fault then.
fn is_refusal(status: &Status) -> bool {
    let about_the_request = matches!(
        status.code(),
        Code::OutOfRange | Code::InvalidArgument | Code::PermissionDenied | Code::Unauthenticated
    );
    about_the_request && !status.message().contains("HTTP status code")
}

async fn no_answer(status: &Status, address: &HostPort) -> String {
    // Only this distinguishes the answer of an HTTP program from an error that the client made of a broken connection.
    let from_library = std::error::Error::source(status).is_some();
    // The library converts the HTTP status into a gRPC status if there is none.
    let http = status.message().contains("HTTP status code");
    match status.code() {
        Code::Unimplemented if !http => "speaks gRPC, but is no collector".to_owned(),
        Code::Unavailable if !from_library => {
            "is a proxy or a server whose collectors do not answer (unavailable)".to_owned()
        }
        Code::ResourceExhausted => "has too many requests at present".to_owned(),
        _ => identify_server::like(address).await,
    }
}

/// Returns why no connection was made, as text; `None` if one was made and failed later.
fn unconnected(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    use std::io::ErrorKind;
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.contains("lookup address") {
            return Some(format!("is not known: its name has no address ({text})"));
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            let words = match io.kind() {
                ErrorKind::ConnectionRefused => "refuses the connection: nothing listens there",
                ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "cannot be reached: no route",
                ErrorKind::TimedOut => "does not answer: no connection",
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => return None,
                _ if error.source().is_none() && io.raw_os_error().is_some() => {
                    return Some(format!("cannot be connected to: {io}"));
                }
                _ => "",
            };
            if !words.is_empty() {
                return Some(words.to_owned());
            }
        }
        cause = error.source();
    }
    None
}
