//! Globs of addresses. An IPv6 address stands in brackets, which a glob would take for a set of characters.

use glob::{Pattern, PatternError};

/// A glob in which `[::1]:*` means what it says.
///
/// # Errors
/// When it is no glob.
pub(super) fn address_pattern(text: &str) -> Result<Pattern, PatternError> {
    let ipv6 = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    let is_address = |inside: &str| {
        inside.contains(':')
            && inside
                .chars()
                .all(|c| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '*' | '?' | '%'))
    };
    match ipv6.filter(|(inside, _)| is_address(inside)) {
        Some((inside, rest)) => Pattern::new(&format!("[[]{inside}[]]{rest}")),
        None => Pattern::new(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_of_addresses_are_no_sets() {
        for (pattern, address, matches) in [
            ("[::1]:*", "[::1]:6379", true),
            ("[::1]:*", "::6379", false),
            ("[fd00:*]:63??", "[fd00::7]:6379", true),
            ("[*:*]:6379", "[2001:db8::1]:6379", true),
            ("10.0.0.[12]:*", "10.0.0.2:6379", true),
            ("[ab]c:*", "ac:1", true),
            ("/run/*", "/run/redis.sock", true),
        ] {
            let found = address_pattern(pattern).unwrap().matches(address);
            assert_eq!(found, matches, "{pattern} {address}");
        }
        assert!(address_pattern("[").is_err());
    }
}
