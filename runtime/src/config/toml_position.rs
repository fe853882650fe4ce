//! Finds the position of a key in a TOML text, so that a mistake can be reported with its line and column.

/// Byte offset of the key `path` in a TOML text, or of the nearest part of it that exists.
pub(super) fn find(text: &str, path: &[String]) -> Option<usize> {
    look_up(text, path).0
}

/// Byte offset of the key `path` in a TOML text.
pub(super) fn find_exactly(text: &str, path: &[String]) -> Option<usize> {
    match look_up(text, path) {
        (at, true) => at,
        _ => None,
    }
}

/// The offset of the last part of `path` that exists, and whether that is all of it.
fn look_up(text: &str, path: &[String]) -> (Option<usize>, bool) {
    let Ok(document) = toml_edit::ImDocument::parse(text) else {
        return (None, false);
    };
    let mut item: &toml_edit::Item = document.as_item();
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
