//! Finds candidates in server configuration files. Reads only files.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use redkeeper_core::redis::server_conf::{Endpoint, ServerConf};

use super::candidate::{Candidate, SENTINEL};
use crate::host::files::read_regular;

/// Maximum number of includes followed from one file: more than a folder of drop-ins has.
const INCLUDES_MAX: usize = 256;
/// Maximum size of a configuration file.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Returns the candidates from the files that match these patterns.
pub(super) fn candidates(patterns: &[String]) -> Vec<Candidate> {
    let (mut found, mut read) = (Vec::new(), BTreeSet::new());
    for pattern in patterns {
        let paths = match glob::glob(pattern) {
            Ok(paths) => paths,
            Err(e) => {
                found.push(
                    Candidate::without_address(pattern).rejected(format!("is not a valid pattern: {e}")),
                );
                continue;
            }
        };
        for path in paths {
            match path {
                // Several patterns or links may lead to the same file.
                Ok(path) => {
                    if read.insert(fs::canonicalize(&path).unwrap_or_else(|_| path.clone())) {
                        found.push(by_file(&path));
                    }
                }
                Err(e) => {
                    let source = format!("folder {}", e.path().display());
                    if read.insert(e.path().to_owned()) {
                        found.push(
                            Candidate::without_address(source)
                                .rejected(format!("cannot be read: {}", e.error())),
                        );
                    }
                }
            }
        }
    }
    found
}

fn by_file(path: &Path) -> Candidate {
    let source = format!("file {}", path.display());
    let mut conf = ServerConf::default();
    let mut includes = 0;
    if let Err(e) = read_conf(path, &mut conf, &mut includes) {
        return Candidate::without_address(source).rejected(format!("cannot be read: {e}"));
    }
    if includes > INCLUDES_MAX {
        // The last directive wins, so what could be read may be overridden.
        return Candidate::without_address(source).rejected(format!(
            "includes {includes} files, of which {INCLUDES_MAX} are followed: name its address under [[instances]]"
        ));
    }
    if conf.sentinel {
        return Candidate::without_address(source).rejected(SENTINEL);
    }
    match conf.endpoint() {
        None => Candidate::without_address(source)
            .rejected("listens nowhere (port 0, and neither tls-port nor unixsocket)"),
        Some(Endpoint::Tls(address)) => Candidate {
            tls: true,
            ..Candidate::new(address, source)
        },
        Some(Endpoint::Plain(address) | Endpoint::Unix(address)) => Candidate::new(address, source),
    }
}

/// Reads a file's directives, with included files in the position of their `include`, as the server does: the last one
/// wins.
fn read_conf(path: &Path, conf: &mut ServerConf, read: &mut usize) -> std::io::Result<()> {
    let text = read_file(path)?;
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    for line in text.lines() {
        conf.read(line);
        for included in conf.includes.drain(..).collect::<Vec<_>>() {
            for file in expand(&base.join(included)) {
                *read += 1;
                // An include that cannot be read may set another port, but rarely does.
                if *read <= INCLUDES_MAX
                    && let Err(e) = read_conf(&file, conf, read)
                {
                    tracing::debug!(file = %file.display(), "include: {e}");
                }
            }
        }
    }
    Ok(())
}

fn expand(path: &Path) -> Vec<PathBuf> {
    let text = path.to_string_lossy();
    glob::glob(&text)
        .map(|paths| paths.filter_map(Result::ok).collect())
        .unwrap_or_default()
}

fn read_file(path: &Path) -> std::io::Result<String> {
    let bytes = read_regular(path, FILE_BYTES_MAX)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
