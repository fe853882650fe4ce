//! Documents that name parts of the code: each reason with its state, and paths of files.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::{Path, PathBuf},
};

use redkeeper_core::status::{Reason, Role};

/// What paths in documents begin with, seen from the repository's root.
const FOLDERS: [&str; 9] = [
    "core/",
    "collector/",
    "probe-agent/",
    "runtime/",
    "proto/",
    "ctl/",
    "tests/",
    "deploy/",
    "docs/",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn first_word(cell: &str) -> &str {
    cell.split([' ', ',']).next().unwrap_or_default()
}

#[test]
fn replies_has_one_row_for_each_reason_with_its_state_and_abilities() {
    let text = read(&root().join("docs/replies.md"));
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| `")).collect();
    for reason in Reason::ALL {
        let start = format!("| `{reason}` |");
        let own: Vec<&str> = rows
            .iter()
            .copied()
            .filter(|row| row.starts_with(&start))
            .collect();
        assert_eq!(own.len(), 1, "rows that begin with {start} in docs/replies.md");
        let cells: Vec<&str> = own[0].split('|').map(str::trim).collect();
        let &[_, _, state, reads, writes, ..] = cells.as_slice() else {
            panic!("too few columns: {}", own[0]);
        };
        // Those of a master: where the state is UP they depend on the role.
        let (can_read, can_write) = reason.abilities(Role::Master);
        assert_eq!(
            [state, first_word(reads), first_word(writes)],
            [reason.state().as_str(), can_read.as_str(), can_write.as_str()],
            "{}",
            own[0]
        );
    }
    assert_eq!(
        rows.len(),
        Reason::ALL.len(),
        "docs/replies.md has rows of no reason"
    );
}

/// What stands between backticks, outside of code blocks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    let prose = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !is_fence && !in_block
    });
    prose.flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether a path exists. `tests/NAME` is short for the end-to-end test of that name.
fn exists(path: &str) -> bool {
    let root = root();
    let test = path
        .strip_prefix("tests/")
        .map(|name| root.join("tests/tests").join(name));
    root.join(path).exists() || test.is_some_and(|test| test.is_dir() || test.with_extension("rs").exists())
}

#[test]
fn paths_in_documents_exist() {
    let root = root();
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let mut files: Vec<PathBuf> = docs
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    let others = [
        "ARCHITECTURE.md",
        "probe-agent/ARCHITECTURE.md",
        "collector/ARCHITECTURE.md",
        "CONTRIBUTING.md",
    ];
    files.extend(others.map(|name| root.join(name)));
    let (mut checked, mut missing) = (0, Vec::new());
    for file in &files {
        let text = read(file);
        for path in code_spans(&text) {
            let is_path = FOLDERS.iter().any(|folder| path.starts_with(*folder));
            // A pattern, or a path with something to be filled in, names no one file.
            if !is_path || path.contains(['*', '<', '{', ' ']) {
                continue;
            }
            checked += 1;
            if !exists(path) {
                missing.push(format!("{}: {path}", file.display()));
            }
        }
    }
    assert_eq!(missing, Vec::<String>::new());
    assert!(
        checked > 50,
        "only {checked} paths found: the documents are not read as they are meant"
    );
}
