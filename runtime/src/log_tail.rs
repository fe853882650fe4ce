//! The last log lines, kept in memory for `/debug/log` and `/debug/bundle`: where standard error goes is not known.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Bytes that are kept: some thousand lines.
const BYTES_MAX: usize = 256 * 1024;

/// Lines, the oldest first.
#[derive(Default)]
struct Tail {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Tail {
    fn push(&mut self, line: &[u8]) {
        // A line that is longer than all that is kept is cut.
        let line = &line[..line.len().min(BYTES_MAX)];
        self.bytes += line.len();
        self.lines.push_back(line.to_vec());
        while self.bytes > BYTES_MAX {
            self.bytes -= self.lines.pop_front().map_or(self.bytes, |first| first.len());
        }
    }
}

static TAIL: Mutex<Tail> = Mutex::new(Tail {
    lines: VecDeque::new(),
    bytes: 0,
});

fn tail() -> MutexGuard<'static, Tail> {
    TAIL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last lines as one text.
pub fn text() -> String {
    let tail = tail();
    let (first, second) = tail.lines.as_slices();
    String::from_utf8_lossy(&[first.concat(), second.concat()].concat()).into_owned()
}

/// Keeps each line that is written, and passes it on. It runs on the log's own thread.
pub(crate) struct Keep<W>(pub(crate) W);

impl<W: Write> Write for Keep<W> {
    /// `line` is one line, as the logging library writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        tail().push(line);
        // Passed on as a whole, so that no part of it is kept twice.
        self.0.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_within_the_bound() {
        let mut tail = Tail::default();
        for n in 0..10_000 {
            tail.push(format!("{n:099}\n").as_bytes());
            let bytes: usize = tail.lines.iter().map(Vec::len).sum();
            assert!(bytes == tail.bytes && bytes <= BYTES_MAX);
        }
        assert_eq!(tail.lines.len(), BYTES_MAX / 100);
        assert!(tail.lines.back().unwrap().ends_with(b"09999\n"));
        tail.push(&vec![b'x'; BYTES_MAX * 2]);
        assert_eq!((tail.lines.len(), tail.bytes), (1, BYTES_MAX));
    }

    #[test]
    fn lines_are_passed_on() {
        let mut out = Vec::new();
        let mut keep = Keep(&mut out);
        keep.write_all(b"a line of this test\n").unwrap();
        keep.flush().unwrap();
        assert_eq!(out, b"a line of this test\n");
        assert!(text().contains("a line of this test\n"));
    }
}
