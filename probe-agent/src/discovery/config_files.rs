//! Candidates from configuration files of servers. Reads files, nothing else.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use redkeeper_core::redis::server_conf::{Endpoint, ServerConf};

use super::candidate::{Candidate, SENTINEL};

/// Includes that are followed below one file: those of a folder of drop-ins, and more.
const INCLUDES_MAX: usize = 256;
/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What the files of these patterns tell.
pub(super) fn candidates(patterns: &[String]) -> Vec<Candidate> {
    let (mut found, mut read) = (Vec::new(), BTreeSet::new());
    for pattern in patterns {
        let paths = match glob::glob(pattern) {
            Ok(paths) => paths,
            Err(e) => {
                found.push(Candidate::nowhere(pattern).left(format!("is no pattern: {e}")));
                continue;
            }
        };
        for path in paths {
            match path {
                // Several patterns, and links, may lead to one file.
                Ok(path) => {
                    if read.insert(fs::canonicalize(&path).unwrap_or_else(|_| path.clone())) {
                        found.push(by_file(&path));
                    }
                }
                Err(e) => {
                    let source = format!("folder {}", e.path().display());
                    if read.insert(e.path().to_owned()) {
                        found.push(Candidate::nowhere(source).left(format!("cannot be read: {}", e.error())));
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
        return Candidate::nowhere(source).left(format!("cannot be read: {e}"));
    }
    if includes > INCLUDES_MAX {
        // The last one wins, so what the others say may be wrong.
        return Candidate::nowhere(source).left(format!(
            "includes {includes} files, of which {INCLUDES_MAX} are followed: name its address under [[instances]]"
        ));
    }
    if conf.sentinel {
        return Candidate::nowhere(source).left(SENTINEL);
    }
    match conf.endpoint() {
        None => {
            Candidate::nowhere(source).left("listens nowhere (port 0, and neither tls-port nor unixsocket)")
        }
        Some(Endpoint::Tls(address)) => Candidate {
            tls: true,
            ..Candidate::new(address, source)
        },
        Some(Endpoint::Plain(address) | Endpoint::Unix(address)) => Candidate::new(address, source),
    }
}

/// Takes a file's directives, those of included files in their place, as the server does: the last one wins.
fn read_conf(path: &Path, conf: &mut ServerConf, read: &mut usize) -> std::io::Result<()> {
    let text = read_file(path)?;
    let base = path.parent().unwrap_or(Path::new("/")).to_owned();
    for line in text.lines() {
        conf.read(line);
        for included in conf.includes.drain(..).collect::<Vec<_>>() {
            for file in expand(&base.join(included)) {
                *read += 1;
                // One that cannot be read may say another port, but mostly does not.
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
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("is no regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(std::io::Error::other("is too large for a configuration file"));
    }
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}
