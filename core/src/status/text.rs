//! Cleans and shortens text that comes from servers and agents, so that it can be stored and shown.

use std::sync::Arc;

/// Whether a character changes the direction of the text around it, which would then be misread.
pub const fn is_directional(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_unwanted(c: char) -> bool {
    c.is_control() || is_directional(c)
}

/// `text` truncated to at most `max` bytes at a character boundary, with control characters and those that change the
/// direction of text replaced.
pub fn cut(text: &str, max: usize) -> String {
    let mut out = String::with_capacity(text.len().min(max));
    for c in text.chars() {
        let c = if is_unwanted(c) { ' ' } else { c };
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

/// The truncated text in shared memory. All empty texts share one allocation.
pub fn cut_shared(text: &str, max: usize) -> Arc<str> {
    if text.is_empty() {
        Arc::default()
    } else if text.len() <= max && !text.contains(is_unwanted) {
        text.into()
    } else {
        cut(text, max).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_keeps_characters_whole() {
        assert_eq!(cut("aéb", 2), "a");
        assert_eq!(cut("a\nb", 9), "a b");
        assert_eq!(cut("a\u{202e}b\u{2066}", 9), "a b ");
        for text in ["", "a", "aéb", "a\nb", "\u{202e}"] {
            (0..5).for_each(|max| assert_eq!(*cut_shared(text, max), cut(text, max)));
        }
    }
}
