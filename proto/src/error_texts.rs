//! Human-readable descriptions of the errors that the gRPC library reports for broken connections: which side did what,
//! and what to check.

use std::{error::Error, io};

use tonic::Status;

const NO_GRPC: &str = "something answers that speaks no gRPC; a collector's gRPC port is 7400 by default";

/// Describes why no connection was made.
pub fn unconnected(error: &(dyn Error + 'static)) -> String {
    broken(error).unwrap_or_else(|| cause(error).to_string())
}

/// Describes why a request or a stream failed: what the other side said, or what happened to the connection.
pub fn failed(status: &Status) -> String {
    if let Some(number) = status.message().split("mapped from HTTP status code ").nth(1) {
        return match number {
            "502" | "503" | "504" => format!("a proxy answers that no collector is there (HTTP {number})"),
            number => format!("{NO_GRPC} (HTTP {number})"),
        };
    }
    match status.source() {
        Some(source) => broken(source)
            .or_else(|| library(status.message()))
            .unwrap_or_else(|| status.message().to_owned()),
        None => library(status.message()).unwrap_or_else(|| format!("refused: {}", status.message())),
    }
}

/// The root cause of an error.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last
}

fn broken(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    let mut text = String::new();
    while let Some(error) = next {
        text = format!("{text}: {error}");
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(words) = kind(io)
        {
            return Some(words);
        }
        next = error.source();
    }
    library(&text)
}

fn kind(error: &io::Error) -> Option<String> {
    use io::ErrorKind;
    let words = match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused: nothing listens there",
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route to it",
        ErrorKind::TimedOut => "nothing comes back: the time for it is over",
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
            "the other side closed the connection"
        }
        _ => return None,
    };
    Some(words.to_owned())
}

/// Descriptions of the texts of underlying libraries. The more specific ones come first.
fn library(text: &str) -> Option<String> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    if has(&["lookup address"]) {
        let why = text.rsplit(": ").next().unwrap_or_default();
        Some(format!("its name has no address ({why})"))
    } else if has(&["keep-alive timed out", "KeepAliveTimedOut"]) {
        Some("the other side does not answer any more".to_owned())
    } else if has(&[
        "FRAME_SIZE_ERROR",
        "invalid frame",
        "compression flag",
        "PROTOCOL_ERROR",
    ]) {
        Some(NO_GRPC.to_owned())
    } else if has(&[
        "error reading a body",
        "connection closed",
        "stream closed",
        "broken pipe",
        "channel closed",
        "not a result of an error",
        "h2 protocol error",
        "http2 error",
    ]) {
        Some("the other side closed the connection".to_owned())
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_libraries_become_words() {
        let closed = "the other side closed the connection";
        for (message, words) in [
            ("h2 protocol error: error reading a body from connection", closed),
            ("h2 protocol error: http2 error", closed),
            (
                "http2 error: keep-alive timed out",
                "the other side does not answer any more",
            ),
            (
                "connection error detected: frame with invalid size: FRAME_SIZE_ERROR",
                NO_GRPC,
            ),
            ("transport error: stream closed because of a broken pipe", closed),
            ("no more streams", "refused: no more streams"),
            (
                "grpc-status header missing, mapped from HTTP status code 502",
                "a proxy answers that no collector is there (HTTP 502)",
            ),
        ] {
            assert_eq!(failed(&Status::unknown(message)), words, "{message}");
        }
        let http = failed(&Status::unimplemented(
            "grpc-status header missing, mapped from HTTP status code 404",
        ));
        assert!(http.contains("speaks no gRPC"), "{http}");
    }

    #[test]
    fn errors_of_the_system_are_told_by_what_they_mean() {
        let of = |kind: io::ErrorKind| unconnected(&io::Error::from(kind));
        assert_eq!(
            of(io::ErrorKind::ConnectionRefused),
            "connection refused: nothing listens there"
        );
        assert_eq!(
            of(io::ErrorKind::ConnectionReset),
            "the other side closed the connection"
        );
        let unknown = io::Error::other("failed to lookup address information: Name or service not known");
        assert_eq!(
            unconnected(&unknown),
            "its name has no address (Name or service not known)"
        );
        assert_eq!(unconnected(&io::Error::other("something else")), "something else");
        let reset: Box<dyn Error + Send + Sync> = io::Error::from(io::ErrorKind::BrokenPipe).into();
        assert_eq!(
            failed(&Status::from_error(reset)),
            "the other side closed the connection"
        );
    }
}
