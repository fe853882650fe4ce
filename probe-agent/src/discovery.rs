//! Finds servers on this host: by their configuration files, and by their processes. Says of each candidate why it
//! is taken or left. Works unprivileged within what `/proc` shows, and says what it could not see.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use redkeeper_core::agent::{
    info,
    server_conf::{Endpoint, ServerConf},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

/// Where to look.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Globs of configuration files.
    pub config_files: Vec<String>,
    /// Whether processes are looked at, and under which names.
    pub process_names: Vec<String>,
}

/// Names of servers' processes. A Sentinel is listed so that it is explained.
pub const PROCESS_NAMES: [&str; 6] = [
    "redis-server",
    "valkey-server",
    "keydb-server",
    "dragonfly",
    "kvrocks",
    "redis-sentinel",
];

/// Includes that are followed below one file.
const INCLUDES_MAX: usize = 32;
/// Largest configuration file that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// How long a candidate may take to say a word.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);
/// A cluster node listens for its peers this much higher.
const BUS_OFFSET: u16 = 10_000;

/// Something that may be a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// `host:port`, or a Unix socket path; empty where none is known.
    pub address: String,
    /// How it was found.
    pub source: String,
    /// Why it is left; `None` where it is taken.
    pub left: Option<String>,
}

impl Candidate {
    fn new(address: impl Into<String>, source: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            source: source.into(),
            left: None,
        }
    }

    fn left(self, why: impl Into<String>) -> Self {
        Self {
            left: Some(why.into()),
            ..self
        }
    }
}

/// Everything that is found, each confirmed by speaking to it. `configured` are addresses that need no discovery.
pub async fn find(settings: Settings, configured: BTreeSet<String>) -> Vec<Candidate> {
    let looked = tokio::task::spawn_blocking(move || candidates(&settings)).await;
    let mut found = looked.unwrap_or_else(|e| {
        // Its end is seen; the next look comes all the same.
        tracing::error!("discovery failed: {e}");
        Vec::new()
    });
    let mut servers = BTreeMap::<String, String>::new();
    let mut addresses = BTreeSet::new();
    for candidate in &mut found {
        if candidate.left.is_some() {
            continue;
        }
        if configured.contains(&candidate.address) {
            candidate.left = Some("is configured by name".to_owned());
        } else if !addresses.insert(candidate.address.clone()) {
            candidate.left = Some("was found already".to_owned());
        } else {
            match confirm(&candidate.address).await {
                Err(why) => candidate.left = Some(why),
                Ok(None) => {}
                Ok(Some(server)) => {
                    if let Some(other) = servers.insert(server, candidate.address.clone()) {
                        candidate.left = Some(format!("is the server that is reached at {other}"));
                    }
                }
            }
        }
    }
    found
}

/// Speaks to it. Any RESP answer proves a server; INFO, where it is allowed, tells which one it is.
async fn confirm(address: &str) -> Result<Option<String>, String> {
    let ask = async {
        let mut bytes = Vec::new();
        let request = b"PING\r\nINFO server\r\nQUIT\r\n";
        if address.starts_with('/') {
            let mut stream = UnixStream::connect(address).await?;
            stream.write_all(request).await?;
            stream.take(65_536).read_to_end(&mut bytes).await?;
        } else {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request).await?;
            stream.take(65_536).read_to_end(&mut bytes).await?;
        }
        std::io::Result::Ok(bytes)
    };
    let bytes = tokio::time::timeout(CONFIRM_TIMEOUT, ask)
        .await
        .map_err(|_| format!("connected, but no answer within {CONFIRM_TIMEOUT:?}"))?
        .map_err(|e| format!("cannot be spoken to: {e}"))?;
    if !matches!(bytes.first(), Some(b'+' | b'-')) {
        return Err("does not speak RESP".to_owned());
    }
    let text = String::from_utf8_lossy(&bytes);
    let told = info::parse(&text);
    let port = text
        .lines()
        .find_map(|line| line.strip_prefix("tcp_port:"))
        .unwrap_or_default();
    Ok((!told.run_id.is_empty()).then(|| format!("{} {}", told.run_id, port.trim())))
}

fn candidates(settings: &Settings) -> Vec<Candidate> {
    let mut found = Vec::new();
    for pattern in &settings.config_files {
        match glob::glob(pattern) {
            Err(e) => found.push(Candidate::new("", pattern).left(format!("is no pattern: {e}"))),
            Ok(paths) => found.extend(paths.filter_map(Result::ok).map(|path| by_file(&path))),
        }
    }
    if !settings.process_names.is_empty() {
        found.extend(by_processes(&settings.process_names));
    }
    found
}

fn by_file(path: &Path) -> Candidate {
    let source = format!("file {}", path.display());
    let mut conf = ServerConf::default();
    if let Err(e) = read_conf(path, &mut conf, &mut 0) {
        return Candidate::new("", source).left(format!("cannot be read: {e}"));
    }
    if conf.sentinel {
        return Candidate::new("", source).left("is a Sentinel, which holds no data");
    }
    match conf.endpoint() {
        None => {
            Candidate::new("", source).left("listens nowhere (port 0, and neither tls-port nor unixsocket)")
        }
        Some(Endpoint::Tls(address)) => {
            Candidate::new(address, source).left("speaks TLS only: name it under [[instances]] with `tls`")
        }
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

fn by_processes(names: &[String]) -> Vec<Candidate> {
    let Ok(folders) = fs::read_dir("/proc") else {
        return vec![Candidate::new("", "/proc").left("cannot be read: no process is seen")];
    };
    let own_namespace = fs::read_link("/proc/self/ns/net").ok();
    let mut found = Vec::new();
    for pid in folders
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
    {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if !names.iter().any(|name| name == comm.trim_end()) {
            continue;
        }
        let source = format!("process {pid} ({})", comm.trim_end());
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title).replace('\0', " ");
        let namespace = fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        if title.contains("[sentinel]") {
            found.push(Candidate::new("", source).left("is a Sentinel, which holds no data"));
        } else if namespace.is_some() && namespace != own_namespace {
            let why = "is in another network namespace, such as a container's; name its address under [[instances]]";
            found.push(Candidate::new("", source).left(why));
        } else {
            found.extend(of_process(pid, &source, &title));
        }
    }
    found
}

/// What a process listens on: by its sockets where they may be seen, else by its title.
fn of_process(pid: u32, source: &str, title: &str) -> Vec<Candidate> {
    let Some(inodes) = sockets(pid) else {
        let Some(address) = by_title(title) else {
            let why = "its sockets cannot be seen without the right to, and its title tells no address";
            return vec![Candidate::new("", source).left(why)];
        };
        return vec![Candidate::new(address, format!("{source}, by its title"))];
    };
    let mut ports = BTreeSet::new();
    for table in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        ports.extend(
            crate::process::listeners(&text)
                .filter(|(inode, _)| inodes.contains(inode))
                .map(|(_, port)| port),
        );
    }
    if ports.is_empty() {
        return match by_title(title).filter(|address| address.starts_with('/')) {
            Some(path) => vec![Candidate::new(path, source)],
            None => vec![Candidate::new("", source).left("listens on no TCP port")],
        };
    }
    let one = |port: &u16| {
        let candidate = Candidate::new(format!("127.0.0.1:{port}"), source);
        match port.checked_sub(BUS_OFFSET).filter(|base| ports.contains(base)) {
            Some(base) => candidate.left(format!("is the cluster bus of port {base}")),
            None => candidate,
        }
    };
    ports.iter().map(one).collect()
}

/// Inodes of a process's sockets; `None` where they may not be seen.
fn sockets(pid: u32) -> Option<BTreeSet<u64>> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let inode = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    };
    Some(descriptors.flatten().filter_map(inode).collect())
}

/// `redis-server *:6379 [cluster]`, or `... unixsocket:/path`.
fn by_title(title: &str) -> Option<String> {
    let word = title.split_whitespace().find(|word| word.contains(':'))?;
    if let Some(path) = word.strip_prefix("unixsocket:") {
        return Some(path.to_owned());
    }
    let (host, port) = word.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host {
        "*" | "0.0.0.0" => "127.0.0.1",
        host => host,
    };
    Some(if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

/// The table of `discover --explain`.
pub fn explain(found: &[Candidate]) -> String {
    let mut text = format!(
        "{:<24} {:<6} {:<44} {}\n",
        "ADDRESS", "TAKEN", "FOUND BY", "WHY NOT"
    );
    for candidate in found {
        let address = if candidate.address.is_empty() {
            "-"
        } else {
            &candidate.address
        };
        let taken = if candidate.left.is_none() { "yes" } else { "no" };
        let line = format!(
            "{address:<24} {taken:<6} {:<44} {}",
            candidate.source,
            candidate.left.as_deref().unwrap_or("")
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_tell_addresses() {
        assert_eq!(
            by_title("redis-server *:6379 [cluster]").as_deref(),
            Some("127.0.0.1:6379")
        );
        assert_eq!(
            by_title("redis-server 10.0.0.1:7000").as_deref(),
            Some("10.0.0.1:7000")
        );
        assert_eq!(
            by_title("redis-server unixsocket:/run/r.sock").as_deref(),
            Some("/run/r.sock")
        );
        assert_eq!(by_title("redis-server ::1:6379").as_deref(), Some("[::1]:6379"));
        assert_eq!(by_title("redis-server"), None);
        assert_eq!(by_title("redis-server x:y"), None);
    }
}
