//! Finds the position of a key in a TOML text, so that a mistake can be reported with its line and column.

/// Byte offset of the key `path` in a TOML text, or of the nearest part of it that exists.
pub(super) fn find(text: &str, path: &[String]) -> Option<usize> {
    look_up(toml_edit::ImDocument::parse(text).ok()?.as_item(), path).0
}

/// The lines of many keys of one TOML text.
pub(super) struct Positions {
    document: Option<toml_edit::ImDocument<String>>,
    /// Byte offset of the start of each line.
    lines: Vec<usize>,
}

impl Positions {
    /// Reads the text once. A text that is not TOML has no keys.
    pub(super) fn of(text: &str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        Self {
            document: toml_edit::ImDocument::parse(text.to_owned()).ok(),
            lines: std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect(),
        }
    }

    /// Line, from 1, of the key `path`; `None` if the text does not have it.
    pub(super) fn line_of(&self, path: &[String]) -> Option<usize> {
        let (Some(at), true) = look_up(self.document.as_ref()?.as_item(), path) else {
            return None;
        };
        Some(self.lines.partition_point(|start| *start <= at))
    }
}

/// The offset of the last part of `path` that exists, and whether that is all of it.
fn look_up(mut item: &toml_edit::Item, path: &[String]) -> (Option<usize>, bool) {
    let mut best = None;
    for part in path {
        let next = match part.parse::<usize>() {
            Ok(index) if item.is_array() || item.is_array_of_tables() => item.get(index),
            _ => {
                let key = item.as_table_like().and_then(|table| table.get_key_value(part));
                if let Some((key, _)) = key {
                    best = key.span().map(|span| span.start).or(best);
                }
                key.map(|(_, item)| item)
            }
        };
        let Some(next) = next else { return (best, false) };
        if part.parse::<usize>().is_ok() {
            best = next.span().map(|span| span.start).or(best);
        }
        item = next;
    }
    (best, true)
}

/// Line and column, from 1, of a byte offset in a text.
pub(super) fn position(text: &str, at: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..at.min(text.len())];
    let line = before.iter().filter(|b| **b == b'\n').count() + 1;
    let column = before.iter().rev().take_while(|b| **b != b'\n').count() + 1;
    (line, column)
}
