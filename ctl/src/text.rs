//! Text for terminals: tables, and foreign text made harmless.

use redkeeper_core::status::is_directional;

/// Rows under a header, in columns as wide as their widest cell so far.
pub(crate) struct Table {
    widths: Vec<usize>,
    /// Formatted rows that are not yet printed.
    pub(crate) text: String,
}

impl Table {
    pub(crate) fn new(columns: usize) -> Self {
        Self {
            widths: vec![0; columns],
            text: String::new(),
        }
    }

    pub(crate) fn add(&mut self, rows: impl Iterator<Item = Vec<String>>) {
        let rows: Vec<Vec<_>> = rows
            .map(|row| row.iter().map(|cell| clean(cell)).collect())
            .collect();
        for row in &rows {
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in rows {
            let start = self.text.len();
            for (width, cell) in self.widths.iter().zip(&row) {
                self.text.push_str(cell);
                let rest = width.saturating_sub(cell.chars().count()) + 2;
                self.text.extend(std::iter::repeat_n(' ', rest));
            }
            let end = self.text[start..].trim_end().len();
            self.text.truncate(start + end);
            self.text.push('\n');
        }
    }
}

/// Formats a whole table.
pub(crate) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new(header.len());
    let head = header.iter().map(|&word| word.to_owned()).collect();
    table.add(std::iter::once(head).chain(rows));
    table.text
}

/// Escapes characters of foreign text that would move a terminal's cursor or change the direction of the text.
pub(crate) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_directional(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_others_reaches_the_terminal_as_a_command() {
        assert_eq!(
            clean("a\u{1b}[31m\u{202e}b\n\u{2066}ä✓"),
            "a\\u{1b}[31m\\u{202e}b\\n\\u{2066}ä✓"
        );
        let text = table(
            &["A", "LONG"],
            [vec!["x\u{202e}".to_owned(), String::new()]].into_iter(),
        );
        assert_eq!(text, "A          LONG\nx\\u{202e}\n");
    }

    #[test]
    fn pages_stay_in_their_columns() {
        let mut table = Table::new(2);
        let row = |cell: &str| [vec![cell.to_owned(), "b".to_owned()]].into_iter();
        table.add(row("aaa"));
        table.add(row("✓"));
        table.add(row("aaaaa"));
        assert_eq!(table.text, "aaa  b\n✓    b\naaaaa  b\n");
    }
}
