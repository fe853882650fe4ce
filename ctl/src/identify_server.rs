//! Guesses what a program without gRPC is, from its answer to a line of HTTP.

use std::time::Duration;

use redkeeper_core::hosts::HostPort;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A program that has sent nothing by then counts as silent.
const PATIENCE: Duration = Duration::from_millis(500);

/// Describes the program; the text is to be read after the address.
pub(crate) async fn like(address: &HostPort) -> String {
    let mut head = Vec::new();
    // However far this gets, the bytes read by then are judged.
    let talked = tokio::time::timeout(PATIENCE, talk(address, &mut head)).await;
    words(&head, matches!(talked, Ok(Ok(())))).to_owned()
}

async fn talk(address: &HostPort, head: &mut Vec<u8>) -> std::io::Result<()> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await?;
    stream.write_all(b"GET /livez HTTP/1.0\r\n\r\n").await?;
    stream.take(64).read_to_end(head).await?;
    Ok(())
}

/// Describes the answer. `closed`: the program ended the connection, or sent more than is read.
fn words(head: &[u8], closed: bool) -> &'static str {
    let begins = |text: &str| head.starts_with(text.as_bytes());
    if begins("HTTP/") {
        "is an HTTP server and speaks no gRPC; a collector's gRPC port is 7400 by default, 7401 is its HTTP port"
    } else if begins("-ERR") || begins("-NOAUTH") || begins("-DENIED") || begins("-LOADING") || begins("$") {
        "is a Redis, and no collector"
    } else if begins("SSH-") {
        "is an SSH server, and no collector"
    } else if head.first() == Some(&0x15) {
        "speaks TLS, which was not asked for"
    } else if head.first() == Some(&0) {
        "speaks HTTP/2, but answers nothing; is it a proxy without collectors?"
    } else if !head.is_empty() {
        "is some other server, and no collector"
    } else if closed {
        "closes the connection: it is no collector, or one that stops"
    } else {
        "takes the connection, but is no collector"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart() {
        for (head, closed, says) in [
            (&b"HTTP/1.0 200 OK\r\n"[..], true, "HTTP server"),
            (
                b"-ERR wrong number of arguments for 'get' command\r\n",
                false,
                "a Redis",
            ),
            (b"-NOAUTH Authentication required.\r\n", false, "a Redis"),
            (b"SSH-2.0-OpenSSH_9.2", false, "an SSH server"),
            (b"\x15\x03\x01\x00\x02\x02\x46", true, "TLS"),
            (b"\x00\x00\x12\x04\x00", false, "HTTP/2"),
            (b"220 mail", false, "some other server"),
            (b"", true, "closes the connection"),
            (b"", false, "takes the connection"),
        ] {
            assert!(
                words(head, closed).contains(says),
                "{head:?}: {}",
                words(head, closed)
            );
        }
    }
}
