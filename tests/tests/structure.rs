//! The structure of the source tree: which folder may use which (`tests/structure.txt`), no circle of imports between
//! files, and no file that has grown too long.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

const CRATES: [&str; 6] = ["core", "proto", "runtime", "collector", "probe-agent", "ctl"];
/// Lines of product code in one file, tests at its end not counted.
const LINES_MAX: usize = 350;

/// One file of product code.
struct Source {
    /// Path of its module within its crate.
    module: Vec<String>,
    /// Product code only.
    text: String,
}

/// All product code of a crate, by path within its `src`.
fn sources(root: &Path, name: &str) -> BTreeMap<String, Source> {
    let src = root.join(name).join("src");
    let (mut folders, mut found) = (vec![src.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if stem == "tests" || stem.starts_with("tests_") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let file = path.strip_prefix(&src).unwrap().display().to_string();
                let mut module: Vec<_> = file
                    .trim_end_matches(".rs")
                    .split('/')
                    .map(str::to_owned)
                    .collect();
                module.pop_if(|last| matches!(last.as_str(), "mod" | "lib" | "main"));
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                found.insert(file, Source { module, text: code });
            }
        }
    }
    found
}

/// Words and the signs that matter in paths. Comments are left out, and so are the names of macros' crates (`$crate`).
fn tokens(text: &str) -> Vec<String> {
    let mut all = Vec::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap();
        let mut word = String::new();
        for c in line.chars().chain([' ']) {
            if c.is_alphanumeric() || c == '_' {
                word.push(c);
                continue;
            }
            if !word.is_empty() {
                all.push(std::mem::take(&mut word));
            }
            if !c.is_whitespace() {
                all.push(c.to_string());
            }
        }
    }
    all
}

/// Reads the tree of a path from `at` on: `a::{b::C, d}` gives `a::b::C` and `a::d`. Returns where it ends.
fn tree(tokens: &[String], mut at: usize, prefix: &[String], into: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, into);
                    while tokens.get(at).is_some_and(|token| token != "," && token != "}") {
                        at += 1;
                    }
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            Some(word) if word.starts_with(|c: char| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned())
            }
            _ => {
                into.push(path);
                return at;
            }
        }
        at += 1;
        let separated = |n: usize| tokens.get(n).is_some_and(|token| token == ":");
        if !(separated(at) && separated(at + 1)) {
            into.push(path);
            return at;
        }
        at += 2;
    }
}

/// The files that a file names, by `crate::` and `super::`.
fn uses(file: &str, all: &BTreeMap<String, Source>) -> BTreeSet<String> {
    let source = &all[file];
    let tokens = tokens(&source.text);
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let begins = matches!(tokens[at].as_str(), "crate" | "super");
        let inside = at >= 2 && tokens[at - 1] == ":" && tokens[at - 2] == ":";
        if begins && !inside {
            at = tree(&tokens, at, &[], &mut paths).max(at + 1);
        } else {
            at += 1;
        }
    }
    let resolve = |path: &Vec<String>| {
        let supers = path.iter().take_while(|word| *word == "super").count();
        let base = match path.first()?.as_str() {
            "crate" => Vec::new(),
            _ => source.module[..source.module.len().checked_sub(supers)?].to_vec(),
        };
        let rest = path.iter().skip(supers.max(1)).cloned();
        let absolute: Vec<_> = base.into_iter().chain(rest).collect();
        // The file with the longest path that leads there.
        let leads = |(_, other): &(&String, &Source)| absolute.starts_with(&other.module);
        let (name, _) = all
            .iter()
            .filter(leads)
            .max_by_key(|(_, other)| other.module.len())?;
        Some(name.clone())
    };
    // A file may name the module that it is a part of.
    let ancestor = |other: &String| source.module.starts_with(&all[other].module);
    paths
        .iter()
        .filter_map(resolve)
        .filter(|other| !ancestor(other))
        .collect()
}

/// `folder: those that it may use`, for each folder below a crate's `src`.
fn rules(root: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let text = fs::read_to_string(root.join("tests/structure.txt")).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let rule = |line: &str| {
        let (folder, may) = line.split_once(':').unwrap();
        (
            folder.to_owned(),
            may.split_whitespace().map(str::to_owned).collect(),
        )
    };
    lines.map(rule).collect()
}

/// The folder of a file: that below `src`, or the file itself where it stands in `src`.
fn folder(name: &str, file: &str) -> String {
    let first = file.split('/').next().unwrap();
    format!("{name}/{}", first.trim_end_matches(".rs"))
}

/// Files that lie on a circle of `edges`: each can be reached from itself.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reaches_itself = |start: &&String| {
        let (mut open, mut seen) = (vec![*start], BTreeSet::new());
        while let Some(file) = open.pop() {
            for next in edges.get(file).into_iter().flatten() {
                if next == *start {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    };
    edges.keys().filter(reaches_itself).cloned().collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn folders_use_what_they_may_and_no_imports_go_in_a_circle() {
    let (root, mut wrong) = (root(), Vec::new());
    let rules = rules(&root);
    let mut used = BTreeSet::new();
    for name in CRATES {
        let all = sources(&root, name);
        let edges: BTreeMap<_, _> = all.keys().map(|file| (file.clone(), uses(file, &all))).collect();
        for (file, others) in &edges {
            let from = folder(name, file);
            // What ties everything together may use everything.
            if matches!(file.as_str(), "app.rs" | "main.rs" | "lib.rs") {
                continue;
            }
            for other in others {
                let to = folder(name, other);
                let allowed = rules.get(&from).is_some_and(|may| may.contains(&to));
                if from != to && !allowed {
                    wrong.push(format!("{name}/src/{file} uses {other}: {from} may not use {to}"));
                }
                used.insert((from.clone(), to));
            }
        }
        wrong.extend(
            circles(&edges)
                .into_iter()
                .map(|file| format!("{name}/src/{file} is on a circle of imports")),
        );
    }
    for (from, to) in rules
        .iter()
        .flat_map(|(from, may)| may.iter().map(move |to| (from, to)))
    {
        if !used.contains(&(from.clone(), to.clone())) {
            wrong.push(format!(
                "structure.txt: {from} does not use {to}; remove the rule"
            ));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_file_has_grown_too_long() {
    let long = CRATES.iter().flat_map(|name| {
        let all = sources(&root(), name);
        let long = all
            .into_iter()
            .map(|(file, source)| (file, source.text.lines().count()));
        long.filter(|(_, lines)| *lines > LINES_MAX)
            .map(|(file, lines)| format!("{name}/src/{file}: {lines} lines"))
            .collect::<Vec<_>>()
    });
    let long: Vec<_> = long.collect();
    assert!(
        long.is_empty(),
        "more than {LINES_MAX} lines:\n{}",
        long.join("\n")
    );
}

#[test]
fn a_circle_and_a_nested_use_are_seen() {
    let source = |module: &str, text: &str| Source {
        module: module.split("::").map(str::to_owned).collect(),
        text: text.to_owned(),
    };
    let all = BTreeMap::from([
        (
            "a/mod.rs".to_owned(),
            source(
                "a",
                "mod b;\nuse crate::c::{self, d::{E, F as G}};\n// use crate::x;",
            ),
        ),
        (
            "a/b.rs".to_owned(),
            source("a::b", "use super::{A, super::x::f};\nfn g() { crate::c::h() }"),
        ),
        ("c.rs".to_owned(), source("c", "use crate::a::A;")),
        ("x.rs".to_owned(), source("x", "")),
    ]);
    let edges: BTreeMap<_, _> = all.keys().map(|file| (file.clone(), uses(file, &all))).collect();
    assert_eq!(edges["a/mod.rs"], BTreeSet::from(["c.rs".to_owned()]));
    assert_eq!(
        edges["a/b.rs"],
        BTreeSet::from(["c.rs".to_owned(), "x.rs".to_owned()])
    );
    assert_eq!(circles(&edges), ["a/mod.rs", "c.rs"]);
}
