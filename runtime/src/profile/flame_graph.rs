//! A profile as a flame graph.

use inferno::flamegraph::{Options, from_lines};

use super::{Profile, ProfileError, symbols::Symbols};

/// The profile as a flame graph (SVG), for a browser.
///
/// # Errors
/// When nothing was sampled.
pub fn flame_graph(profile: &Profile, title: &str) -> Result<Vec<u8>, ProfileError> {
    let symbols = Symbols::of(profile);
    let line = |stack: &super::Stack| {
        let names = symbols.names(&stack.addresses);
        // From the outermost function on. A semicolon would end a name.
        let path: Vec<_> = names.iter().rev().map(|name| name.replace(';', ",")).collect();
        format!("{} {:.0}", path.join(";"), stack.weight)
    };
    let mut lines: Vec<_> = profile.stacks.iter().map(line).collect();
    if lines.is_empty() {
        let text = "nothing was sampled: the process was idle, or has allocated little";
        return Err(ProfileError::Failed(text.to_owned()));
    }
    lines.sort();
    let mut options = Options::default();
    options.title = format!("{title}: {}", profile.unit.title());
    profile.unit.name().clone_into(&mut options.count_name);
    let mut svg = Vec::new();
    from_lines(&mut options, lines.iter().map(String::as_str), &mut svg)
        .map_err(|e| ProfileError::Failed(format!("the flame graph cannot be drawn: {e}")))?;
    Ok(svg)
}
