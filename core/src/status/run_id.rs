//! `run_id` of a server. Nearly all are 40 hexadecimal digits, which are stored in 20 bytes because a collector keeps
//! one for each instance.

use std::{fmt, sync::Arc};

use super::text::cut_shared;
use crate::limits::RUN_ID_BYTES_MAX;

/// Identifies one life of a server; it changes with each restart. Empty where it is not known.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RunId(Form);

#[derive(Clone, PartialEq, Eq, Hash)]
enum Form {
    Digits([u8; RUN_ID_BYTES_MAX / 2]),
    Text(Arc<str>),
}

impl RunId {
    /// Takes what a server reports; text that is too long is truncated.
    pub fn new(text: &str) -> Self {
        Self(match digits(text.as_bytes()) {
            Some(digits) => Form::Digits(digits),
            None => Form::Text(cut_shared(text, RUN_ID_BYTES_MAX)),
        })
    }

    /// True if it is not known.
    pub fn is_empty(&self) -> bool {
        matches!(&self.0, Form::Text(text) if text.is_empty())
    }
}

/// Packs 40 digits. Only lower case is accepted, so that the text is written as it was read.
fn digits(text: &[u8]) -> Option<[u8; RUN_ID_BYTES_MAX / 2]> {
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut digits = [0; RUN_ID_BYTES_MAX / 2];
    if text.len() != RUN_ID_BYTES_MAX {
        return None;
    }
    for (byte, pair) in digits.iter_mut().zip(text.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(digits)
}

impl Default for RunId {
    fn default() -> Self {
        Self(Form::Text(Arc::default()))
    }
}

impl From<&str> for RunId {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        match &self.0 {
            Form::Text(text) => f.write_str(text),
            Form::Digits(bytes) => {
                let mut text = [0; RUN_ID_BYTES_MAX];
                for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
                    pair[0] = DIGITS[usize::from(byte >> 4)];
                    pair[1] = DIGITS[usize::from(byte & 15)];
                }
                // ASCII, so this cannot fail.
                f.write_str(std::str::from_utf8(&text).unwrap_or_default())
            }
        }
    }
}

impl fmt::Debug for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RunId({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn digits_are_kept_as_bytes() {
        let text = "0123456789abcdef0123456789abcdef01234567";
        assert!(matches!(RunId::new(text).0, Form::Digits(_)));
        assert!(matches!(RunId::new(&text.to_uppercase()).0, Form::Text(_)));
        assert!(RunId::default().is_empty() && RunId::new("").is_empty());
        assert_eq!(std::mem::size_of::<RunId>(), 24);
    }

    proptest! {
        #[test]
        fn what_was_said_is_told(text in "[0-9a-fA-F]{38,41}|[a-z0-9]{0,40}") {
            let kept = &text[..text.len().min(RUN_ID_BYTES_MAX)];
            prop_assert_eq!(RunId::new(&text).to_string(), kept);
            prop_assert_eq!(RunId::new(&text) == RunId::new(kept), true);
        }
    }
}
