//! Address globs. IPv6 addresses are written in brackets, which a plain glob would read as a character set.

use glob::{Pattern, PatternError};

/// Parses a glob in which the brackets of an IPv6 address, such as `[::1]:*`, are literal.
///
/// # Errors
/// When the text is not a valid glob.
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

/// An address glob, and its position in the configuration.
#[derive(Clone, Debug)]
pub(super) struct Placed {
    /// Key such as `access.0.addresses.1`; with file and line once these are known.
    pub(super) place: String,
    /// The compiled glob.
    pub(super) pattern: Pattern,
    /// The glob as written.
    pub(super) text: String,
}

/// Reports the globs that match none of the addresses, one line each.
pub(super) fn unmatched(patterns: &[Placed], addresses: &[String]) -> Vec<String> {
    let useless = |one: &&Placed| !addresses.iter().any(|address| one.pattern.matches(address));
    let line = |one: &Placed| {
        let Placed { place, text, .. } = one;
        format!("{place}: {text:?} matches no address that is configured or found now")
    };
    patterns.iter().filter(useless).map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_that_matches_nothing_is_told() {
        let placed = |place: &str, text: &str| Placed {
            place: place.to_owned(),
            pattern: address_pattern(text).unwrap(),
            text: text.to_owned(),
        };
        let patterns = [placed("a", "10.0.0.*:*"), placed("b", "[::1]:63??")];
        let addresses = ["10.0.0.7:6379".to_owned()];
        let told = unmatched(&patterns, &addresses);
        assert_eq!(
            told,
            ["b: \"[::1]:63??\" matches no address that is configured or found now"]
        );
        assert_eq!(unmatched(&patterns, &[]).len(), 2);
    }

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
