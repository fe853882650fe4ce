//! Where a RESP2 answer ends, so that only whole answers are parsed and no answer grows without bound.

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

    proptest! {
        #[test]
        fn never_panics_and_never_overruns(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Frame::Complete(n) = frame(&bytes) {
                prop_assert!(n <= bytes.len());
            }
        }
    }
}
