//! Formatting of errors.

/// Formats an error and its causes in one line. `Display` of redkeeper's own errors never repeats the cause.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
