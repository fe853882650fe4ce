//! Prints JSON for programs.

use std::io::{self, Write};

use serde::Serialize;

/// One JSON document, with the protobuf mapping's field names.
pub(crate) fn json(value: &impl Serialize) -> io::Result<()> {
    // Written in one call, because standard output is buffered by line.
    let mut text = serde_json::to_vec(value)?;
    text.push(b'\n');
    io::stdout().lock().write_all(&text)
}
