//! Servers of a scenario that the tests do not need: Sentinel, and what is told by it.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use redkeeper_tests::{
    Sandbox, eventually,
    ports::{Port, port},
    process::Process,
    servers::{Flavour, Redis},
};
use tonic::transport::Endpoint;

/// How long it may keep silent where something is to be told.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long it may take until it judges.
const SETTLED_MAX: Duration = Duration::from_secs(90);

/// A Sentinel that watches instances as masters `m0`, `m1`, ... with `down-after` of a second.
pub(crate) struct Sentinel {
    pub(crate) process: Process,
    port: Port,
}

impl Sentinel {
    /// `instances` are addresses with a port.
    pub(crate) fn start(sandbox: &Sandbox, instances: &[String]) -> Result<Self, String> {
        let port = port();
        let mut text = format!(
            "port {}\nbind 127.0.0.1\ndir {}\n",
            port.number,
            sandbox.path("").display()
        );
        for (n, instance) in instances.iter().enumerate() {
            let (host, port) = instance
                .rsplit_once(':')
                .ok_or(format!("{instance:?} has no port"))?;
            text.push_str(&format!(
                "sentinel monitor m{n} {host} {port} 1\nsentinel down-after-milliseconds m{n} 1000\n",
            ));
        }
        let config = sandbox.write("sentinel.conf", &text);
        let mut command = Command::new("redis-sentinel");
        command.arg(config);
        let process = Process::start(command, &sandbox.path("sentinel.log"));
        let sentinel = Self { process, port };
        let deadline = Instant::now() + Duration::from_secs(10);
        while sentinel.connect().is_err() {
            if Instant::now() > deadline {
                return Err(format!("Sentinel does not answer: {}", sentinel.process.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(sentinel)
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port.number))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        Ok(stream)
    }

    /// Waits until it judges: with a thousand masters its start is so slow that it takes itself for ill ("tilt") for 30 s.
    pub(crate) async fn settled(&self) -> Result<(), String> {
        let deadline = Instant::now() + SETTLED_MAX;
        loop {
            let info = self.info().map_err(|e| format!("Sentinel: {e}"))?;
            if info.contains("sentinel_tilt:0") && !info.contains("down,address=") {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(format!("Sentinel was not ready within {SETTLED_MAX:?}"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn info(&self) -> std::io::Result<String> {
        let mut reader = BufReader::new(self.connect()?);
        reader.get_mut().write_all(b"INFO sentinel\r\n")?;
        let mut length = String::new();
        reader.read_line(&mut length)?;
        let length = length.trim().trim_start_matches('$').parse().unwrap_or(0);
        let mut text = vec![0; length];
        reader.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Listens for an event; what came is told by the returned reader.
    pub(crate) fn subscribe(&self, event: &str) -> Result<Events, String> {
        let mut stream = self.connect().map_err(|e| format!("Sentinel: {e}"))?;
        stream
            .write_all(format!("SUBSCRIBE {event}\r\n").as_bytes())
            .map_err(|e| format!("Sentinel: {e}"))?;
        let mut events = Events(BufReader::new(stream));
        // The answer to SUBSCRIBE ends with the number of subscriptions.
        events.until(":1")?;
        Ok(events)
    }
}

/// Events of a Sentinel.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    /// Waits for a line that starts like this, and says when it came.
    pub(crate) fn until(&mut self, start: &str) -> Result<Instant, String> {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self
                .0
                .read_line(&mut line)
                .map_err(|e| format!("Sentinel said no {start:?} within {TIMEOUT:?}: {e}"))?;
            if read == 0 {
                return Err("Sentinel hung up".to_owned());
            }
            if line.starts_with(start) {
                return Ok(Instant::now());
            }
        }
    }
}

/// The address of a Redis on this machine.
pub(crate) fn address(redis: &Redis) -> String {
    format!("127.0.0.1:{}", redis.port.number)
}

/// Waits until a Redis answers.
pub(crate) async fn answers(redis: &Redis) {
    eventually(
        "an answer",
        || async { redis.ask("PING").is_ok() },
        |answers| *answers,
    )
    .await;
}

pub(crate) async fn pool(sandbox: &Sandbox, size: usize) -> Vec<Redis> {
    let mut servers = Vec::new();
    for _ in 0..size {
        servers.push(sandbox.redis().await);
    }
    servers
}

/// One Redis under so many addresses of the loopback: the cost of a server that is not its own process is the same to who
/// watches, and a machine bears more of them. What a Sentinel publishes to one of them would come back from all, as it does
/// not from servers of their own, so PUBLISH is not there.
pub(crate) async fn crowd(sandbox: &Sandbox, count: usize) -> (Redis, Vec<String>) {
    let args = [
        "--bind",
        "0.0.0.0",
        "--protected-mode",
        "no",
        "--maxclients",
        "20000",
        "--rename-command",
        "PUBLISH",
        "NOPUBLISH",
    ];
    let redis = sandbox.server(Flavour::Redis70, &args);
    answers(&redis).await;
    let port = redis.port.number;
    let addresses = (0..count).map(|n| format!("127.1.{}.{}:{port}", n / 250, n % 250 + 1));
    (redis, addresses.collect())
}

/// A runtime of one thread for the bench's own work.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
}

/// A gRPC address, with the settings of the product's own clients.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, String> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).map_err(|e| format!("{address}: {e}"))?;
    Ok(endpoint.tcp_nodelay(true).connect_timeout(Duration::from_secs(5)))
}

/// Waits until somebody listens at `127.0.0.1:PORT`.
pub(crate) async fn listens(port: u16) {
    let try_it = || async { TcpStream::connect(("127.0.0.1", port)).is_ok() };
    eventually("somebody listens", try_it, |listens| *listens).await;
}

/// A status znode as an application sees it: read, with a watch that tells of its next change.
pub(crate) async fn watched(
    client: &zookeeper_client::Client,
    path: &str,
    good: impl Fn(&str) -> bool,
) -> Result<zookeeper_client::OneshotWatcher, String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let read = client.get_and_watch_data(path).await;
        let last = match read {
            Ok((data, _, watcher)) if good(&String::from_utf8_lossy(&data)) => return Ok(watcher),
            Ok((data, ..)) => String::from_utf8_lossy(&data).into_owned(),
            Err(e) => e.to_string(),
        };
        if Instant::now() > deadline {
            return Err(format!(
                "{path} did not come into its first state within 30 s: {last}"
            ));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for the change, and says when it was told.
pub(crate) async fn told(watcher: zookeeper_client::OneshotWatcher) -> Result<Instant, String> {
    let changed = tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await;
    changed.map_err(|_| "the watch did not fire within 30 s".to_owned())?;
    Ok(Instant::now())
}

/// A JSON status with this state.
pub(crate) fn says(state: &'static str) -> impl Fn(&str) -> bool {
    move |text| {
        let json = serde_json::from_str::<serde_json::Value>(text);
        json.is_ok_and(|json| json["state"] == state)
    }
}
