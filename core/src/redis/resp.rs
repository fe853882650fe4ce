//! Finds the end of RESP2 answers, so that only whole answers are read and none takes unbounded memory. Answers that
//! the probe does not use, such as arrays and texts of many megabytes, are skipped: a server that answers PING with
//! PONG lives, whatever it answers to other commands.

use crate::redis::reply::Reply;

/// Result of [`frame()`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frame {
    /// The first answer takes this many bytes.
    Complete(usize),
    /// More bytes are needed.
    Incomplete,
    /// A text that is too long to be read whole: the length of its header, and of the text.
    Long(usize, u64),
    /// An array: the length of its header, and the number of its elements.
    Array(usize, u64),
    /// The bytes are not RESP2.
    Invalid,
}

/// Longest text that is read whole: INFO is about 6 KB, or 64 KB with many commands or databases. Of a longer text,
/// this many bytes are read.
pub const REPLY_BYTES_MAX: usize = 1024 * 1024;
/// Longest text and array that are skipped: an INFO with 100,000 error statistics has 4 MB. A peer that announces more
/// is no Redis.
const SKIPPED_MAX: u64 = 64 * 1024 * 1024;
/// Longest line: errors and statuses are below 1 KB.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Finds the end of the first answer in `buffer`.
pub fn frame(buffer: &[u8]) -> Frame {
    let Some(kind) = buffer.first() else {
        return Frame::Incomplete;
    };
    if !matches!(kind, b'+' | b'-' | b':' | b'$' | b'*') {
        return Frame::Invalid;
    }
    let Some(end) = buffer.iter().position(|b| *b == b'\n') else {
        return if buffer.len() > LINE_BYTES_MAX {
            Frame::Invalid
        } else {
            Frame::Incomplete
        };
    };
    if end < 2 || buffer[end - 1] != b'\r' {
        return Frame::Invalid;
    }
    if !matches!(kind, b'$' | b'*') {
        return Frame::Complete(end + 1);
    }
    let length = std::str::from_utf8(&buffer[1..end - 1])
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    let length = match length.map(u64::try_from) {
        // A null value.
        Some(Err(_)) if length == Some(-1) => return Frame::Complete(end + 1),
        Some(Ok(length)) if length <= SKIPPED_MAX => length,
        Some(_) | None => return Frame::Invalid,
    };
    if *kind == b'*' {
        return Frame::Array(end + 1, length);
    }
    match usize::try_from(length) {
        Ok(length) if length <= REPLY_BYTES_MAX => {
            let total = end + 1 + length + 2;
            if buffer.len() >= total {
                Frame::Complete(total)
            } else {
                Frame::Incomplete
            }
        }
        _ => Frame::Long(end + 1, length),
    }
}

/// Reads one whole answer, as [`frame()`] delimits it. Status, error and bulk are taken unchanged: the redis crate
/// knows only some error codes, and zeroes 8 KiB and copies for each INFO.
pub fn read(bytes: &[u8]) -> Reply {
    let body = bytes.get(1..).unwrap_or_default();
    let line = body.trim_ascii_end();
    match bytes.first() {
        Some(b'+') if line == b"PONG" => Reply::Text("PONG".into()),
        Some(b'+') => Reply::Text(text(line).into()),
        Some(b'-') => Reply::Error(without_arguments(text(line))),
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

/// Decodes text. Nearly all of it is ASCII, for which the strict check is much faster than the lossy one.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// What a [`Decoder`] has found in the bytes so far.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// The next answer.
    Reply(Reply),
    /// More bytes are needed.
    Incomplete,
    /// The bytes are not RESP2; these are the first of them.
    Invalid(Vec<u8>),
}

/// Decodes the answers of one connection from bytes in pieces of any size. Holds at most [`REPLY_BYTES_MAX`] and the
/// last piece.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Decoder {
    /// Bytes after the last answer, or of an incomplete one.
    kept: Vec<u8>,
    skip: Option<Box<Skip>>,
}

/// The rest of an answer that is skipped.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Skip {
    /// Elements of arrays that are still to come.
    elements: u64,
    /// Bytes of a text that are still to come.
    bytes: u64,
    /// The reply that the answer counts as.
    reply: Reply,
}

/// Number of bytes that are shown of an invalid answer.
const SHOWN_BYTES: usize = 40;

impl Decoder {
    /// Whether [`next`](Self::next) may find an answer without new bytes.
    pub fn has_kept(&self) -> bool {
        !self.kept.is_empty()
    }

    /// The first answer in the kept bytes and `came`. What follows it is kept.
    pub fn next(&mut self, came: &[u8]) -> Decoded {
        let mut kept = std::mem::take(&mut self.kept);
        if kept.is_empty() {
            return self.decode(came);
        }
        kept.extend_from_slice(came);
        let short = match frame(&kept) {
            Frame::Incomplete => true,
            Frame::Long(start, _) => kept.len() < start + REPLY_BYTES_MAX,
            Frame::Complete(_) | Frame::Array(..) | Frame::Invalid => false,
        };
        if short && self.skip.is_none() {
            // The usual case while a long text arrives in pieces: nothing is copied.
            self.kept = kept;
            return Decoded::Incomplete;
        }
        self.decode(&kept)
    }

    fn decode(&mut self, mut bytes: &[u8]) -> Decoded {
        loop {
            if let Some(skip) = &mut self.skip {
                match skip.advance(bytes) {
                    Some(used) => bytes = &bytes[used..],
                    None => return Decoded::Invalid(bytes[..bytes.len().min(SHOWN_BYTES)].to_vec()),
                }
                self.kept = bytes.to_vec();
                if skip.elements > 0 || skip.bytes > 0 {
                    return Decoded::Incomplete;
                }
                let reply = self.skip.take().map_or(Reply::Other, |skip| skip.reply);
                return Decoded::Reply(reply);
            }
            match frame(bytes) {
                Frame::Complete(length) => {
                    let reply = read(&bytes[..length]);
                    self.kept = bytes[length..].to_vec();
                    return Decoded::Reply(reply);
                }
                Frame::Long(start, length) if bytes.len() >= start + REPLY_BYTES_MAX => {
                    let head = &bytes[start..start + REPLY_BYTES_MAX];
                    // An incomplete line could end within a number.
                    let end = head.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
                    let read = u64::try_from(REPLY_BYTES_MAX).unwrap_or(u64::MAX);
                    self.skip = Some(Box::new(Skip {
                        elements: 0,
                        bytes: length.saturating_sub(read).saturating_add(2),
                        reply: Reply::Long(text(&head[..end])),
                    }));
                    bytes = &bytes[start + REPLY_BYTES_MAX..];
                }
                Frame::Array(start, elements) => {
                    self.skip = Some(Box::new(Skip {
                        elements,
                        bytes: 0,
                        reply: Reply::Other,
                    }));
                    bytes = &bytes[start..];
                }
                Frame::Incomplete | Frame::Long(..) => {
                    self.kept = bytes.to_vec();
                    return Decoded::Incomplete;
                }
                Frame::Invalid => return Decoded::Invalid(bytes[..bytes.len().min(SHOWN_BYTES)].to_vec()),
            }
        }
    }
}

impl Skip {
    /// How many bytes belong to what is skipped; `None` if they are not RESP2. Never waits for a whole text.
    fn advance(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let left = bytes.len() - at;
            let skipped = usize::try_from(self.bytes).map_or(left, |wanted| wanted.min(left));
            at += skipped;
            self.bytes -= u64::try_from(skipped).unwrap_or(0);
            if self.bytes > 0 || self.elements == 0 {
                return Some(at);
            }
            let rest = &bytes[at..];
            let header = rest.iter().position(|b| *b == b'\n').map_or(0, |end| end + 1);
            match frame(&rest[..header]) {
                // A text whose header is complete: skip its bytes and the two at its end.
                Frame::Incomplete if header > 0 => self.bytes = length_of(&rest[..header])?.saturating_add(2),
                Frame::Incomplete if rest.len() > LINE_BYTES_MAX => return None,
                Frame::Incomplete => return Some(at),
                Frame::Long(_, length) => self.bytes = length.saturating_add(2),
                Frame::Array(_, elements) => self.elements = self.elements.saturating_add(elements),
                Frame::Complete(_) => {}
                Frame::Invalid => return None,
            }
            at += header;
            self.elements -= 1;
        }
    }
}

/// The number in a header such as `$12\r\n`.
fn length_of(header: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(header.get(1..header.len().checked_sub(2)?)?).ok()?;
    text.parse().ok()
}

/// An error without the arguments that it repeats: those of AUTH are a password, and an answer that nobody asked for may
/// shift it to another command.
fn without_arguments(mut line: String) -> String {
    if let Some(at) = line.find(", with args") {
        line.truncate(at);
    }
    line
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
        assert_eq!(frame(b"*-1\r\n"), Frame::Complete(5));
        assert_eq!(frame(b"*2\r\n"), Frame::Array(4, 2));
        assert_eq!(frame(b"$9999999\r\n"), Frame::Long(10, 9_999_999));
        assert_eq!(frame(b"$99999999999\r\n"), Frame::Invalid);
        assert_eq!(frame(b"*99999999999\r\n"), Frame::Invalid);
        assert_eq!(frame(b"$-2\r\n"), Frame::Invalid);
        assert_eq!(frame(b"$x\r\n"), Frame::Invalid);
        assert_eq!(frame(b"HTTP/1.1 400 Bad Request\r\n"), Frame::Invalid);
    }

    #[test]
    fn reads_each_kind() {
        let text = |text: &'static str| Reply::Text(text.into());
        assert_eq!(read(b"+PONG\r\n"), text("PONG"));
        assert_eq!(read(b"$5\r\na\r\nb \r\n"), text("a\r\nb "));
        assert_eq!(read(b"$0\r\n\r\n"), text(""));
        assert_eq!(read(b"-ERR x\r\n"), Reply::Error("ERR x".into()));
        let line = b"-ERR unknown command 'AUTH', with args beginning with: 'secret'\r\n";
        assert_eq!(read(line), Reply::Error("ERR unknown command 'AUTH'".into()));
        assert_eq!(read(b"$-1\r\n"), Reply::Other);
        assert_eq!(read(b":1\r\n"), Reply::Other);
    }

    fn decode(pieces: &[&[u8]]) -> Vec<Decoded> {
        let (mut decoder, mut found) = (Decoder::default(), Vec::new());
        for piece in pieces {
            let mut came = *piece;
            loop {
                match decoder.next(came) {
                    Decoded::Incomplete => break,
                    other => found.push(other),
                }
                if matches!(found.last(), Some(Decoded::Invalid(_))) {
                    return found;
                }
                came = &[];
            }
            assert!(decoder.kept.len() <= REPLY_BYTES_MAX + LINE_BYTES_MAX + piece.len());
        }
        found
    }

    #[test]
    fn odd_answers_are_skipped_and_what_follows_is_read() {
        let pong = Decoded::Reply(Reply::Text("PONG".into()));
        for odd in [
            &b"*2\r\n$3\r\na\r\n\r\n*1\r\n:3\r\n"[..],
            b"*0\r\n",
            b"*-1\r\n",
            b"$-1\r\n",
            b"*3\r\n*-1\r\n$-1\r\n-ERR x\r\n",
        ] {
            let bytes = [odd, b"+PONG\r\n"].concat();
            let wanted = [Decoded::Reply(Reply::Other), pong.clone()];
            assert_eq!(decode(&[&bytes]), wanted, "{}", String::from_utf8_lossy(odd));
            let single: Vec<_> = bytes.chunks(1).collect();
            assert_eq!(decode(&single), wanted, "{}", String::from_utf8_lossy(odd));
        }
        assert!(matches!(decode(&[b"*1\r\nHTTP\r\n"])[..], [Decoded::Invalid(_)]));
    }

    #[test]
    fn the_beginning_of_a_long_text_is_read_and_its_end_skipped() {
        let line = "errorstat_abcdefgh:count=1\r\n";
        let body = line.repeat(3 * REPLY_BYTES_MAX / 2 / line.len());
        let bytes = format!("${}\r\n{body}\r\n+PONG\r\n", body.len()).into_bytes();
        for size in [1_000, 16_384, bytes.len()] {
            let pieces: Vec<_> = bytes.chunks(size).collect();
            let [
                Decoded::Reply(Reply::Long(text)),
                Decoded::Reply(Reply::Text(pong)),
            ] = &decode(&pieces)[..]
            else {
                panic!("{size}");
            };
            assert_eq!((pong.as_ref(), text.len() % line.len()), ("PONG", 0));
            assert!(text.len() > REPLY_BYTES_MAX - line.len() && text.len() <= REPLY_BYTES_MAX);
        }
    }

    /// Answers of all kinds, one after the other.
    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let scalar = prop_oneof![
            Just(b"+PONG\r\n".to_vec()),
            "[a-z ]{0,20}".prop_map(|text| format!("-ERR {text}\r\n").into_bytes()),
            any::<i64>().prop_map(|n| format!(":{n}\r\n").into_bytes()),
            Just(b"$-1\r\n".to_vec()),
            "[ -~\r\n]{0,60}".prop_map(|text| format!("${}\r\n{text}\r\n", text.len()).into_bytes()),
        ];
        let answer = scalar.prop_recursive(3, 20, 4, |inner| {
            proptest::collection::vec(inner, 0..4)
                .prop_map(|all| [format!("*{}\r\n", all.len()).into_bytes(), all.concat()].concat())
        });
        proptest::collection::vec(answer, 0..6).prop_map(|all| all.concat())
    }

    proptest! {
        #[test]
        fn never_panics_and_never_overruns(
            mut bytes in answers(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            for (at, byte) in changes {
                if !bytes.is_empty() {
                    let at = at.index(bytes.len());
                    bytes[at] = byte;
                }
            }
            if let Frame::Complete(n) = frame(&bytes) {
                prop_assert!(n <= bytes.len());
                read(&bytes[..n]);
            }
            decode(&[&bytes]);
        }

        /// The answers are the same for any division of the bytes into pieces, and none is lost.
        #[test]
        fn pieces_do_not_matter(bytes in answers(), size in 1usize..40) {
            let whole = decode(&[&bytes]);
            prop_assert!(whole.iter().all(|decoded| matches!(decoded, Decoded::Reply(_))));
            let pieces: Vec<_> = bytes.chunks(size).collect();
            prop_assert_eq!(decode(&pieces), whole);
        }
    }
}
