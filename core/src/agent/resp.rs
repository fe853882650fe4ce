//! Where a RESP2 answer ends, so that only whole answers are parsed and no answer grows without bound.

use crate::agent::reply::Reply;

/// Result of looking at a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The first answer takes this many bytes.
    Complete(usize),
    /// More bytes are needed.
    Incomplete,
    /// This is not RESP2.
    Invalid,
}

/// Longest line and longest bulk that are believed: INFO is about 6 KB, 64 KB with many commands or databases.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;

/// Finds the end of the first answer in `buffer`. Arrays are refused: no command of the probe gets one.
pub fn frame(buffer: &[u8]) -> Frame {
    let Some(kind) = buffer.first() else {
        return Frame::Incomplete;
    };
    if !matches!(kind, b'+' | b'-' | b':' | b'$') {
        return Frame::Invalid;
    }
    let Some(end) = buffer.iter().position(|b| *b == b'\n') else {
        return if buffer.len() > REPLY_BYTES_MAX {
            Frame::Invalid
        } else {
            Frame::Incomplete
        };
    };
    if end < 2 || buffer[end - 1] != b'\r' {
        return Frame::Invalid;
    }
    if *kind != b'$' {
        return Frame::Complete(end + 1);
    }
    let length = std::str::from_utf8(&buffer[1..end - 1])
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    match length {
        Some(-1) => Frame::Complete(end + 1),
        Some(length) => match usize::try_from(length) {
            Ok(length) if length <= REPLY_BYTES_MAX => {
                let total = end + 1 + length + 2;
                if buffer.len() >= total {
                    Frame::Complete(total)
                } else {
                    Frame::Incomplete
                }
            }
            _ => Frame::Invalid,
        },
        None => Frame::Invalid,
    }
}

/// Reads one whole answer, as [`frame()`] delimits it. Status, error and bulk are taken as they stand: the redis
/// crate knows only some error words, and zeroes 8 KiB and copies for each INFO.
pub fn read(bytes: &[u8]) -> Reply {
    // Nearly all of it is ASCII, for which the exact check is much faster than the forgiving one.
    let text = |bytes| match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    };
    let body = bytes.get(1..).unwrap_or_default();
    let line = body.trim_ascii_end();
    match bytes.first() {
        Some(b'+') if line == b"PONG" => Reply::Text("PONG".into()),
        Some(b'+') => Reply::Text(text(line).into()),
        Some(b'-') => Reply::Error(text(line)),
        Some(b'$') if !body.starts_with(b"-") => {
            let start = body
                .iter()
                .position(|b| *b == b'\n')
                .map_or(body.len(), |at| at + 1);
            let bulk = &body[start..];
            Reply::Text(text(bulk.strip_suffix(b"\r\n").unwrap_or(bulk)).into())
        }
        _ => Reply::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_end() {
        assert_eq!(frame(b"+PONG\r\n+x"), Frame::Complete(7));
        assert_eq!(frame(b"+PON"), Frame::Incomplete);
        assert_eq!(frame(b"$3\r\nabc\r\n"), Frame::Complete(9));
        assert_eq!(frame(b"$3\r\nabc"), Frame::Incomplete);
        assert_eq!(frame(b"$-1\r\n"), Frame::Complete(5));
        assert_eq!(frame(b"$99999999999\r\n"), Frame::Invalid);
        assert_eq!(frame(b"HTTP/1.1 400 Bad Request\r\n"), Frame::Invalid);
    }

    #[test]
    fn reads_each_kind() {
        let text = |text: &'static str| Reply::Text(text.into());
        assert_eq!(read(b"+PONG\r\n"), text("PONG"));
        assert_eq!(read(b"$5\r\na\r\nb \r\n"), text("a\r\nb "));
        assert_eq!(read(b"$0\r\n\r\n"), text(""));
        assert_eq!(read(b"-ERR x\r\n"), Reply::Error("ERR x".into()));
        assert_eq!(read(b"$-1\r\n"), Reply::Other);
        assert_eq!(read(b":1\r\n"), Reply::Other);
    }

    proptest! {
        #[test]
        fn never_panics_and_never_overruns(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Frame::Complete(n) = frame(&bytes) {
                prop_assert!(n <= bytes.len());
                read(&bytes[..n]);
            }
        }
    }
}
