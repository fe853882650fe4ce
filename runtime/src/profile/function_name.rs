//! Full names of functions. The debug information of a function that was inlined has its bare name only, such as `encode`;
//! the path of its file tells the crate and the module.

/// Folders of redkeeper's crates whose name differs from that of the crate.
const OWN_CRATES: [(&str, &str); 6] = [
    ("core", "redkeeper_core"),
    ("proto", "redkeeper_proto"),
    ("runtime", "redkeeper_runtime"),
    ("collector", "redkeeper_collector"),
    ("probe-agent", "redkeeper_agent"),
    ("ctl", "redkeeper"),
];

/// The name of a function with crate and module, from its name and its file.
pub(super) fn full(name: &str, file: Option<&str>) -> String {
    let name = &without_arguments(name);
    if name.starts_with('<') || name.contains("::") {
        return name.to_owned();
    }
    match file.and_then(module) {
        Some(module) => format!("{module}::{name}"),
        None => name.to_owned(),
    }
}

/// A name without the arguments of a generic function, which may be thousands of characters: `f<A<B>>` is `f`. What stands
/// between angle brackets at the beginning of a part, as in `<A as B>::f` and `a::<impl A>::f`, is the part itself.
fn without_arguments(name: &str) -> String {
    if name.starts_with('<') {
        return name.to_owned();
    }
    let (mut kept, mut depth, mut last) = (String::new(), 0usize, ' ');
    for c in name.chars() {
        match c {
            '<' if depth > 0 || last != ':' => depth += 1,
            // The arrow of a function's type is no bracket.
            '>' if depth > 0 && last != '-' => depth -= 1,
            _ if depth == 0 => kept.push(c),
            _ => {}
        }
        last = c;
    }
    kept
}

/// The module of a Rust file: `/.../library/core/src/time.rs` is `core::time`, `/.../hyper-1.2.0/src/lib.rs` is `hyper`.
fn module(file: &str) -> Option<String> {
    let (folder, rest) = file.rsplit_once("/src/")?;
    let (before, folder) = folder.rsplit_once('/').unwrap_or(("", folder));
    let of_library = before.contains("/registry/") || before.ends_with("/library");
    let own = OWN_CRATES.iter().find(|(own, _)| !of_library && *own == folder);
    let mut path = match own {
        Some((_, name)) => (*name).to_owned(),
        None => without_version(folder).replace('-', "_"),
    };
    for part in rest.strip_suffix(".rs")?.split('/') {
        if !matches!(part, "mod" | "lib" | "main") {
            path.push_str("::");
            path.push_str(part);
        }
    }
    Some(path)
}

fn without_version(folder: &str) -> &str {
    match folder.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => name,
        _ => folder,
    }
}

/// Whether a full name is redkeeper's own: `redkeeper_core::f`, or a method, `<redkeeper_core::T as Trait>::f`.
pub(super) fn is_own(name: &str) -> bool {
    name.trim_start_matches(['<', '&', '*']).starts_with("redkeeper")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_name_is_completed_from_its_file() {
        for (name, file, wanted) in [
            (
                "encode",
                "/x/collector/src/http/gauges.rs",
                "redkeeper_collector::http::gauges::encode",
            ),
            ("main", "/x/probe-agent/src/main.rs", "redkeeper_agent::main"),
            (
                "f<a::B>",
                "/x/runtime/src/net/mod.rs",
                "redkeeper_runtime::net::f",
            ),
            (
                "add",
                "/rustc/59807616e1/library/core/src/time.rs",
                "core::time::add",
            ),
            (
                "poll",
                "/c/registry/src/index-1/hyper-util-0.1.21/src/rt/mod.rs",
                "hyper_util::rt::poll",
            ),
            ("poll", "/c/registry/src/index-1/core/src/lib.rs", "core::poll"),
            ("je_malloc", "src/jemalloc.c", "je_malloc"),
            ("a::b", "/x/collector/src/app.rs", "a::b"),
            ("<A as B>::c", "/x/collector/src/app.rs", "<A as B>::c"),
        ] {
            assert_eq!(full(name, Some(file)), wanted);
        }
        for (name, wanted) in [
            ("f<A<B>, fn(A) -> B<C>>", "f"),
            ("a::{closure#0}<A>", "a::{closure#0}"),
            ("core::ptr::<impl *const T>::f", "core::ptr::<impl *const T>::f"),
            ("<a::B<C> as d::E>::f", "<a::B<C> as d::E>::f"),
        ] {
            assert_eq!(without_arguments(name), wanted);
        }
        assert_eq!(full("f", None), "f");
        assert_eq!(full("", Some("/src/")), "");
    }

    #[test]
    fn own_functions_are_told_from_those_of_libraries() {
        assert!(is_own("redkeeper_core::f") && is_own("<&redkeeper_core::A as B>::c"));
        assert!(!is_own("<alloc::vec::Vec<redkeeper_core::A>>::push") && !is_own("tokio::f"));
    }
}
