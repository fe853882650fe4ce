//! Everything a test needs: folder, ports, servers, daemons, and eyes that do not depend on them.

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use redkeeper_proto::v1::{self, status_service_client::StatusServiceClient};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use crate::{process::Process, wait::eventually};

/// Ports below the range from which the kernel takes outgoing ones.
const PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A free port, kept for this process by a locked file as long as it lives.
#[derive(Debug)]
pub struct Port {
    /// The number.
    pub number: u16,
    _lock: File,
}

/// Takes a free port that no other test process has taken.
///
/// # Panics
/// When there is none.
pub fn port() -> Port {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let folder = std::env::temp_dir().join("redkeeper-test-ports");
    std::fs::create_dir_all(&folder).expect("temporary folder");
    let offset = u16::try_from(std::process::id() % 9_973).unwrap_or(0);
    for _ in 0..PORTS.len() {
        let number = PORTS.start + (offset + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let lock = File::create(folder.join(number.to_string())).expect("lock file");
        if lock.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
            return Port { number, _lock: lock };
        }
    }
    panic!("no free port in {PORTS:?}");
}

/// A folder and the binaries.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
    binaries: PathBuf,
}

/// Path of a binary of this workspace, built by `./test` before the tests run.
fn binaries() -> PathBuf {
    let mut path = std::env::current_exe().expect("own path");
    path.pop();
    if path.ends_with("deps") {
        path.pop();
    }
    path
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A fresh one.
    ///
    /// # Panics
    /// When there is no temporary folder or the daemons were not built.
    pub fn new() -> Self {
        let binaries = binaries();
        let agent = binaries.join("redkeeper-agent");
        assert!(
            agent.exists(),
            "{} is missing; `./test` builds it",
            agent.display()
        );
        Self {
            folder: tempfile::Builder::new()
                .prefix("redkeeper-")
                .tempdir()
                .expect("temporary folder"),
            binaries,
        }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A command of this workspace.
    pub fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.binaries.join(binary));
        command
            .env_clear()
            .env("PATH", std::env::var("PATH").unwrap_or_default())
            .env("RUST_BACKTRACE", "1");
        command
    }

    /// Writes a file in the folder.
    ///
    /// # Panics
    /// When that fails.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    /// Starts a Redis and waits until it answers.
    pub async fn redis(&self) -> Redis {
        let port = port();
        let process = self.redis_process(port.number);
        let redis = Redis { process, port };
        redis.answers().await;
        redis
    }

    fn redis_process(&self, port: u16) -> Process {
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--enable-debug-command",
            "yes",
        ]);
        command.arg("--dir").arg(self.folder.path());
        Process::start(command, &self.path(&format!("redis-{port}.log")))
    }

    /// Starts a killed Redis again on its port.
    pub async fn restart(&self, redis: &mut Redis) {
        redis.process.kill();
        redis.process = self.redis_process(redis.port.number);
        redis.answers().await;
    }

    /// Starts a ZooKeeper and waits until it serves.
    pub async fn zookeeper(&self) -> ZooKeeper {
        let port = port();
        let data = self.path("zookeeper-data");
        std::fs::create_dir_all(&data).expect("data folder");
        let text = format!(
            "tickTime=500\ndataDir={}\nclientPort={}\nclientPortAddress=127.0.0.1\nmaxClientCnxns=0\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\n",
            data.display(),
            port.number
        );
        let config = self.write("zoo.cfg", &text);
        let process = self.zookeeper_process(&config);
        let zookeeper = ZooKeeper {
            process,
            port,
            data,
            config,
        };
        zookeeper.serves().await;
        zookeeper
    }

    fn zookeeper_process(&self, config: &Path) -> Process {
        let mut command = Command::new("java");
        let jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar";
        command.args(["-Xmx256m", "-Dzookeeper.forceSync=no", "-cp", jars]);
        command
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(config);
        Process::start(command, &self.path("zookeeper.log"))
    }

    /// Starts a stopped ZooKeeper again with its data.
    pub async fn restart_zookeeper(&self, zookeeper: &mut ZooKeeper) {
        zookeeper.process.kill();
        zookeeper.process = self.zookeeper_process(&zookeeper.config);
        zookeeper.serves().await;
    }

    /// Starts a collector; `zookeeper` is `None` for a standalone one.
    pub async fn collector(&self, id: &str, zookeeper: Option<&ZooKeeper>) -> Collector {
        let (grpc, http, admin) = (port(), port(), port());
        let store = match zookeeper {
            Some(zk) => format!(
                "[zookeeper]\nservers = \"127.0.0.1:{}\"\nsession_timeout = \"2s\"\n",
                zk.port.number
            ),
            None => "standalone = true\n".to_owned(),
        };
        let text = format!(
            "id = \"{id}\"\ngrpc_listen = \"127.0.0.1:{}\"\nhttp_listen = \"127.0.0.1:{}\"\n\
             admin_listen = \"127.0.0.1:{}\"\nheartbeat_interval = \"200ms\"\nsilent_after = \"1s\"\n{store}",
            grpc.number, http.number, admin.number
        );
        let config = self.write(&format!("{id}.toml"), &text);
        let process = self.collector_process(id, &config);
        let collector = Collector {
            id: id.to_owned(),
            process,
            grpc,
            http,
            admin,
            config,
        };
        let what = format!("collector {id} is alive");
        eventually(
            &what,
            || async { http_get(collector.admin.number, "/livez").is_ok_and(|page| page == "ok\n") },
            |alive| *alive,
        )
        .await;
        collector
    }

    fn collector_process(&self, id: &str, config: &Path) -> Process {
        let mut command = self.command("redkeeper-collector");
        command.arg("--config").arg(config);
        Process::start(command, &self.path(&format!("collector-{id}.log")))
    }

    /// Starts an ended collector again.
    pub fn restart_collector(&self, collector: &mut Collector) {
        collector.process.kill();
        collector.process = self.collector_process(&collector.id, &collector.config);
    }

    /// Starts an agent for these instances and collectors.
    pub async fn agent(&self, id: &str, instances: &[u16], collectors: &[&Collector]) -> Agent {
        let collectors: Vec<_> = collectors.iter().map(|c| c.grpc.number).collect();
        self.agent_every(Duration::from_millis(100), id, instances, &collectors)
            .await
    }

    /// Starts an agent that probes at this interval and reports to these gRPC ports.
    pub async fn agent_every(
        &self,
        interval: Duration,
        id: &str,
        instances: &[u16],
        collectors: &[u16],
    ) -> Agent {
        let admin = port();
        let list: Vec<_> = collectors
            .iter()
            .map(|port| format!("\"127.0.0.1:{port}\""))
            .collect();
        let mut text = format!(
            "id = \"{id}\"\ncollectors = [{}]\nadmin_listen = \"127.0.0.1:{}\"\n[probe]\ninterval = \"{interval:?}\"\n\
             hang_after = \"1s\"\nconnect_timeout = \"500ms\"\ninfo_interval = \"1s\"\n",
            list.join(", "),
            admin.number
        );
        for port in instances {
            text.push_str(&format!(
                "[[instances]]\naddress = \"127.0.0.1:{port}\"\ncluster = \"test\"\n"
            ));
        }
        let config = self.write(&format!("{id}.toml"), &text);
        let hooks = self.path(&format!("{id}-hooks"));
        std::fs::create_dir_all(&hooks).expect("folder");
        let process = self.agent_process(id, &config, &hooks);
        let agent = Agent {
            id: id.to_owned(),
            process,
            admin,
            config,
            hooks,
        };
        let what = format!("agent {id} is alive");
        eventually(
            &what,
            || async { http_get(agent.admin.number, "/livez").is_ok_and(|page| page == "ok\n") },
            |alive| *alive,
        )
        .await;
        agent
    }

    fn agent_process(&self, id: &str, config: &Path, hooks: &Path) -> Process {
        let mut command = self.command("redkeeper-agent");
        command
            .arg("--config")
            .arg(config)
            .env("REDKEEPER_TEST_HOOK", hooks);
        Process::start(command, &self.path(&format!("agent-{id}.log")))
    }

    /// Starts an ended agent again.
    pub fn restart_agent(&self, agent: &mut Agent) {
        agent.process.kill();
        agent.process = self.agent_process(&agent.id, &agent.config, &agent.hooks);
    }
}

/// A Redis.
#[derive(Debug)]
pub struct Redis {
    /// The server.
    pub process: Process,
    /// Where it listens.
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

    fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    async fn answers(&self) {
        eventually(
            "Redis answers",
            || async { self.ask("PING").ok() },
            |text| text.as_deref().is_some_and(|text| text.starts_with("+PONG")),
        )
        .await;
    }
}

/// A ZooKeeper.
#[derive(Debug)]
pub struct ZooKeeper {
    /// The server.
    pub process: Process,
    /// Where it listens.
    pub port: Port,
    /// Its data, with the transaction log.
    pub data: PathBuf,
    config: PathBuf,
}

impl ZooKeeper {
    fn word(&self, word: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port.number))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(word.as_bytes())?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }

    async fn serves(&self) {
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

    /// A client of the test's own.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self) -> zookeeper_client::Client {
        let address = format!("127.0.0.1:{}", self.port.number);
        zookeeper_client::Client::connect(&address)
            .await
            .expect("a session")
    }

    /// A znode's JSON; `None` where there is none.
    pub async fn json(&self, client: &zookeeper_client::Client, path: &str) -> Option<serde_json::Value> {
        let (data, _) = client.get_data(path).await.ok()?;
        serde_json::from_slice(&data).ok()
    }

    /// A status znode.
    pub async fn status(&self, client: &zookeeper_client::Client, id: &str) -> Option<serde_json::Value> {
        // The layout's hash, written again: an independent reader.
        let hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3)
        });
        self.json(client, &format!("/redkeeper/instances/{:02x}/{id}", hash & 0xff))
            .await
    }

    /// `STATE/REASON` of a status znode; `-` where there is none.
    pub async fn state(&self, client: &zookeeper_client::Client, id: &str) -> String {
        let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or("?").to_owned();
        match self.status(client, id).await {
            Some(status) => format!("{}/{}", text(&status, "state"), text(&status, "reason")),
            None => "-".to_owned(),
        }
    }
}

/// A collector.
#[derive(Debug)]
pub struct Collector {
    /// Its name.
    pub id: String,
    /// The daemon.
    pub process: Process,
    /// gRPC.
    pub grpc: Port,
    /// HTTP for everybody.
    pub http: Port,
    /// HTTP for the operator.
    pub admin: Port,
    config: PathBuf,
}

impl Collector {
    /// A gRPC client.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self) -> StatusServiceClient<Channel> {
        StatusServiceClient::new(self.channel().await.expect("a connection"))
    }

    /// A connection to its gRPC port.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let address = format!("http://127.0.0.1:{}", self.grpc.number);
        Endpoint::from_shared(address)?
            .connect_timeout(Duration::from_secs(2))
            .connect()
            .await
    }

    /// `STATE/REASON` of an instance over gRPC; `-` where it is not known or nobody answers.
    pub async fn state(&self, id: &str) -> String {
        match self.instance(id).await.and_then(|instance| instance.verdict) {
            Some(v) => {
                let state = v1::InstanceState::try_from(v.state)
                    .unwrap_or_default()
                    .as_str_name();
                let reason = v1::Reason::try_from(v.reason).unwrap_or_default().as_str_name();
                format!(
                    "{}/{}",
                    state.trim_start_matches("INSTANCE_STATE_"),
                    reason.trim_start_matches("REASON_")
                )
            }
            None => "-".to_owned(),
        }
    }

    /// An instance over gRPC.
    pub async fn instance(&self, id: &str) -> Option<v1::Instance> {
        let mut client = StatusServiceClient::new(self.channel().await.ok()?);
        client
            .get_instance(v1::GetInstanceRequest { id: id.to_owned() })
            .await
            .ok()?
            .into_inner()
            .instance
    }

    /// One metric line's value.
    pub fn metric(&self, line_start: &str) -> Option<f64> {
        metric(self.admin.number, line_start)
    }
}

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub id: String,
    /// The daemon.
    pub process: Process,
    /// Embedded HTTP.
    pub admin: Port,
    config: PathBuf,
    hooks: PathBuf,
}

impl Agent {
    /// Makes the worker of an instance panic (`panic`) or block (`block`).
    ///
    /// # Panics
    /// When the hook cannot be placed.
    pub fn hook(&self, what: &str, instance: &str) {
        std::fs::write(self.hooks.join(format!("{what}-{instance}")), "").expect("hook");
    }

    /// One metric line's value.
    pub fn metric(&self, line_start: &str) -> Option<f64> {
        metric(self.admin.number, line_start)
    }

    /// Live tasks.
    pub fn tasks(&self) -> Option<usize> {
        http_get(self.admin.number, "/debug/tasks/count")
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

fn metric(port: u16, line_start: &str) -> Option<f64> {
    let page = http_get(port, "/metrics").ok()?;
    page.lines()
        .find_map(|line| line.strip_prefix(line_start))?
        .trim()
        .parse()
        .ok()
}

/// Body of a page.
///
/// # Errors
/// When nobody answers; the text says why.
pub fn http_get(port: u16, path: &str) -> Result<String, String> {
    let get = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = get().map_err(|e| e.to_string())?;
    text.split_once("\r\n\r\n")
        .map(|(_, body)| body.to_owned())
        .ok_or_else(|| format!("no HTTP answer: {text:?}"))
}
