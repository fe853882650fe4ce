//! The sandbox provides everything that a test needs: folder, ports, servers and daemons.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::Once,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    daemons::{Agent, Collector, http_get},
    ports::{Port, cluster_port, port},
    process::Process,
    servers::{Flavour, Redis, ZooKeeper},
    wait::eventually,
};

/// Prefix of the folders' names, in the temporary folder.
const PREFIX: &str = "redkeeper-sandbox-";
/// A folder older than this is locked, if its owner is alive.
const LOCKED_AFTER: Duration = Duration::from_secs(60);

/// A folder for one test, and the location of the binaries.
#[derive(Debug)]
pub struct Sandbox {
    folder: TempDir,
    /// Held as long as the owner lives, so that others recognise the folder of a dead one.
    _lock: File,
    binaries: PathBuf,
    descriptors: Option<u32>,
}

/// Removes what killed owners left in `folder`. Their processes ended with them.
fn sweep(folder: &Path) {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in all.filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let age = entry
            .metadata()
            .and_then(|data| data.modified())
            .map(|at| at.elapsed());
        let is_old = matches!(age, Ok(Ok(age)) if age > LOCKED_AFTER);
        let is_free = || File::open(entry.path()).is_ok_and(|lock| lock.try_lock().is_ok());
        if is_old && is_free() {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Waits until a daemon says on its admin port that it is alive.
async fn is_alive(daemon: &str, admin: u16) {
    let what = format!("{daemon} is alive");
    eventually(
        &what,
        || async { http_get(admin, "/livez").is_ok_and(|page| page == "ok\n") },
        |alive| *alive,
    )
    .await;
}

/// Folder of this workspace's binaries, which `./test` builds before the tests run.
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
    /// Creates a sandbox.
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
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| sweep(&std::env::temp_dir()));
        let folder = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir()
            .expect("temporary folder");
        let lock = File::open(folder.path()).expect("temporary folder");
        lock.lock().expect("a lock on the temporary folder");
        Self {
            folder,
            _lock: lock,
            binaries,
            descriptors: None,
        }
    }

    /// Limits the open files of commands of this workspace that are started from now on.
    pub fn limit_descriptors(&mut self, descriptors: u32) {
        self.descriptors = Some(descriptors);
    }

    /// Returns a path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Creates a command of this workspace.
    pub fn command(&self, binary: &str) -> Command {
        let binary = self.binaries.join(binary);
        let mut command = match self.descriptors {
            Some(n) => {
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={n}:{n}")).arg(binary);
                limited
            }
            None => Command::new(binary),
        };
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
        let debug = ["--enable-debug-command", "yes"];
        self.server_process(Flavour::Redis70, self.folder.path(), port, &debug)
    }

    fn server_process(&self, flavour: Flavour, dir: &Path, port: u16, args: &[&str]) -> Process {
        let mut command = Command::new(flavour.binary().unwrap_or_else(|| "redis-server".into()));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(dir).args(args);
        Process::start(command, &self.path(&format!("redis-{port}.log")))
    }

    /// Starts a server of this flavour with these arguments, in its own folder.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn server(&self, flavour: Flavour, args: &[&str]) -> Redis {
        let port = if args.contains(&"--cluster-enabled") {
            cluster_port()
        } else {
            port()
        };
        let dir = self.path(&format!("server-{}", port.number));
        std::fs::create_dir_all(&dir).expect("a folder");
        let process = self.server_process(flavour, &dir, port.number, args);
        Redis { process, port }
    }

    /// Starts a Redis 7.0 with these arguments on a port that was reserved before.
    pub fn server_at(&self, port: Port, args: &[&str]) -> Redis {
        let process = self.server_process(Flavour::Redis70, self.folder.path(), port.number, args);
        Redis { process, port }
    }

    /// Kills a server made by [`server`](Self::server) and starts it again in its folder.
    pub fn restart_server(&self, redis: &mut Redis, flavour: Flavour, args: &[&str]) {
        redis.process.kill();
        let dir = self.path(&format!("server-{}", redis.port.number));
        redis.process = self.server_process(flavour, &dir, redis.port.number, args);
    }

    /// Starts a killed Redis again on its port.
    pub async fn restart(&self, redis: &mut Redis) {
        redis.process.kill();
        redis.process = self.redis_process(redis.port.number);
        redis.answers().await;
    }

    /// Starts a ZooKeeper that does not wait for the disk, and waits until it serves.
    pub async fn zookeeper(&self) -> ZooKeeper {
        self.zookeeper_with(&["-Xmx256m", "-Dzookeeper.forceSync=no"])
            .await
    }

    /// Starts a ZooKeeper that acknowledges a write only once it is on the disk, as in production.
    pub async fn durable_zookeeper(&self) -> ZooKeeper {
        self.zookeeper_with(&["-Xmx512m"]).await
    }

    /// The same with room for a million znodes.
    pub async fn large_zookeeper(&self) -> ZooKeeper {
        self.zookeeper_with(&["-Xmx4g"]).await
    }

    /// Starts a ZooKeeper that cuts the connection on requests above 32 KiB, as some are configured.
    pub async fn zookeeper_with_small_requests(&self) -> ZooKeeper {
        self.zookeeper_with(&["-Xmx256m", "-Dzookeeper.forceSync=no", "-Djute.maxbuffer=32768"])
            .await
    }

    async fn zookeeper_with(&self, java: &'static [&'static str]) -> ZooKeeper {
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
        let process = self.zookeeper_process(&config, java);
        let zookeeper = ZooKeeper {
            java,
            process,
            port,
            data,
            config,
        };
        zookeeper.serves().await;
        zookeeper
    }

    fn zookeeper_process(&self, config: &Path, java: &[&str]) -> Process {
        let mut command = Command::new("java");
        let jars = "/usr/share/java/zookeeper.jar:/usr/share/java/slf4j-nop.jar";
        command.args(java).args(["-XX:+PrintClassHistogram", "-cp", jars]);
        command
            .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
            .arg(config);
        Process::start(command, &self.path("zookeeper.log"))
    }

    /// Starts a stopped ZooKeeper again with its data.
    pub async fn restart_zookeeper(&self, zookeeper: &mut ZooKeeper) {
        zookeeper.process.kill();
        zookeeper.process = self.zookeeper_process(&zookeeper.config, zookeeper.java);
        zookeeper.serves().await;
    }

    /// Starts a collector; `zookeeper` is `None` for a standalone one.
    pub async fn collector(&self, id: &str, zookeeper: Option<&ZooKeeper>) -> Collector {
        let store = match zookeeper {
            Some(zk) => format!(
                "[zookeeper]\nservers = \"127.0.0.1:{}\"\nsession_timeout = \"2s\"\n",
                zk.port.number
            ),
            None => "standalone = true\n".to_owned(),
        };
        let text = format!("heartbeat_interval = \"200ms\"\nsilent_after = \"1s\"\n{store}");
        self.collector_with(id, &text).await
    }

    /// Starts a collector with `text` as the rest of its configuration, and waits until it is alive.
    pub async fn collector_with(&self, id: &str, text: &str) -> Collector {
        let (grpc, http, admin) = (port(), port(), port());
        let text = format!(
            "id = \"{id}\"\ngrpc_listen = \"127.0.0.1:{}\"\nhttp_listen = \"127.0.0.1:{}\"\n\
             admin_listen = \"127.0.0.1:{}\"\n{text}",
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
        is_alive(&format!("collector {id}"), collector.admin.number).await;
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

    /// Starts a Redis, the collector `a` and the agent `db01` between them, and waits until the collector tells that
    /// the Redis is UP. The text is the id of the instance. `zookeeper` is `None` for a standalone collector.
    pub async fn reported_redis(&self, zookeeper: Option<&ZooKeeper>) -> (Redis, Collector, Agent, String) {
        let redis = self.redis().await;
        let collector = self.collector("a", zookeeper).await;
        let agent = self.agent("db01", &[redis.port.number], &[&collector]).await;
        let id = format!("db01:{}", redis.port.number);
        eventually("UP", || collector.state(&id), |s| s == "UP/OK").await;
        (redis, collector, agent, id)
    }

    /// Starts an agent that probes at this interval and reports to these gRPC ports.
    pub async fn agent_every(
        &self,
        interval: Duration,
        id: &str,
        instances: &[u16],
        collectors: &[u16],
    ) -> Agent {
        let list: Vec<_> = collectors
            .iter()
            .map(|port| format!("\"127.0.0.1:{port}\""))
            .collect();
        let mut text = format!(
            "[probe]\ninterval = \"{interval:?}\"\nhang_after = \"1s\"\nconnect_timeout = \"500ms\"\ninfo_interval = \"1s\"\n"
        );
        for port in instances {
            text.push_str(&format!(
                "[[instances]]\naddress = \"127.0.0.1:{port}\"\ncluster = \"test\"\n"
            ));
        }
        self.agent_with(id, &list, &text).await
    }

    /// Starts an agent that reports to these gRPC addresses, with `text` as the rest of its configuration, and
    /// waits until it is alive.
    ///
    /// # Panics
    /// When its folder cannot be made.
    pub async fn agent_with(&self, id: &str, collectors: &[String], text: &str) -> Agent {
        let admin = port();
        let text = format!(
            "id = \"{id}\"\ncollectors = [{}]\nadmin_listen = \"127.0.0.1:{}\"\n{text}",
            collectors.join(", "),
            admin.number
        );
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
        is_alive(&format!("agent {id}"), agent.admin.number).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_dead_owners_are_swept() {
        let all = tempfile::tempdir().unwrap();
        let folder = |name: &str, age: Duration| {
            let path = all.path().join(name);
            std::fs::create_dir(&path).unwrap();
            std::fs::write(path.join("file"), "").unwrap();
            let lock = File::open(&path).unwrap();
            lock.set_modified(std::time::SystemTime::now() - age).unwrap();
            (path, lock)
        };
        let (old, young) = (2 * LOCKED_AFTER, Duration::ZERO);
        let (dead, _) = folder("redkeeper-sandbox-dead", old);
        let (alive, lock) = folder("redkeeper-sandbox-alive", old);
        lock.lock().unwrap();
        let (fresh, _) = folder("redkeeper-sandbox-fresh", young);
        let (other, _) = folder("other", old);
        sweep(all.path());
        let there = [dead, alive, fresh, other].map(|path| path.exists());
        assert_eq!(there, [false, true, true, true]);
    }
}
