//! One request to a daemon's HTTP server.

use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use redkeeper_core::hosts::HostPort;
use tokio::net::TcpStream;

/// Largest answer that is taken. A bundle of a large fleet has some ten megabytes.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A request.
pub(super) struct Request {
    pub(super) method: &'static str,
    /// Path and query, encoded.
    pub(super) path: String,
    pub(super) body: String,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

/// Connects within `connect`, and gets the whole answer within `limit`.
///
/// # Errors
/// Says what went wrong.
pub(super) async fn ask(
    address: &HostPort,
    request: &Request,
    connect: Duration,
    limit: Duration,
) -> Result<Answer, String> {
    let connecting = TcpStream::connect((address.host.as_str(), address.port));
    let stream = tokio::time::timeout(connect, connecting)
        .await
        .map_err(|_| format!("no connection within {connect:?}"))?
        .map_err(|e| e.to_string())?;
    tokio::time::timeout(limit, talk(stream, address, request))
        .await
        .map_err(|_| format!("no answer within {limit:?}"))?
}

async fn talk(stream: TcpStream, address: &HostPort, request: &Request) -> Result<Answer, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let message = hyper::Request::builder()
        .method(request.method)
        .uri(&request.path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(request.body.clone())))
        .map_err(|e| e.to_string())?;
    let answer = async {
        let answer = sender.send_request(message).await.map_err(|e| e.to_string())?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body
            .map_err(|e| format!("the answer is broken off: {e}"))?
            .to_bytes();
        Ok(Answer { status, body })
    };
    // The connection must be driven while the answer is awaited. If it fails, so does the answer.
    let driven = async {
        connection.await.ok();
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        () = driven => Err("the connection ended".to_owned()),
    }
}

/// A part of a path or query, with everything but letters, digits and `-._~` encoded.
pub(super) fn encoded(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(20);

    /// Asks a server that answers with these bytes, and then closes the connection or holds it.
    async fn answered(bytes: &'static [u8], close: bool, limit: Duration) -> Result<Answer, String> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let n = stream.read(&mut request).await.unwrap();
            assert!(request[..n].starts_with(b"GET /debug/ HTTP/1.1\r\n"));
            stream.write_all(bytes).await.unwrap();
            if !close {
                std::future::pending::<()>().await;
            }
            drop(stream);
            std::future::pending().await
        };
        let address = HostPort::parse(&format!("127.0.0.1:{port}"), None).unwrap();
        let request = Request {
            method: "GET",
            path: "/debug/".to_owned(),
            body: String::new(),
        };
        tokio::select! { answer = ask(&address, &request, LONG, limit) => answer, () = serve => unreachable!() }
    }

    #[tokio::test]
    async fn an_answer_is_taken_whole_or_the_fault_is_told() {
        let whole = b"HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\n\r\nno\n";
        let answer = answered(whole, false, LONG).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (404, &b"no\n"[..]));
        let part = b"HTTP/1.1 200 OK\r\ncontent-length: 30\r\n\r\nno\n";
        assert!(
            answered(part, true, LONG)
                .await
                .unwrap_err()
                .contains("broken off")
        );
        assert!(
            answered(part, false, SHORT)
                .await
                .unwrap_err()
                .contains("no answer within")
        );
        assert!(answered(b"+PONG\r\n", true, LONG).await.is_err());
        assert!(answered(b"", true, LONG).await.is_err());
    }
}
