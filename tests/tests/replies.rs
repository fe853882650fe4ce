//! Situation -> state, reason, stage, reads, writes: provoked on real servers, judged by `redkeeper-agent probe`.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::Duration,
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    diagnosis::{probe, verdict},
    eventually, ports,
    process::Process,
    servers::{Flavour, Redis},
};
use serde_json::Value;

/// State, reason, stage, reads, writes.
type Expected = [&'static str; 5];

const UP: Expected = ["UP", "OK", "REPLY", "yes", "yes"];
const HUNG: Expected = ["DOWN", "REPLY_TIMEOUT", "COMMAND", "no", "no"];

struct Bench {
    sandbox: Sandbox,
    flavour: Flavour,
}

impl Bench {
    async fn server(&self, args: &[&str]) -> Redis {
        let redis = self.sandbox.server(self.flavour, args);
        let answers = || async { redis.ask("PING").unwrap_or_default() };
        let what = format!("an answer of {:?} {args:?}", self.flavour);
        eventually(&what, answers, |text| !text.is_empty()).await;
        redis
    }

    fn address(redis: &Redis) -> String {
        format!("127.0.0.1:{}", redis.port.number)
    }

    /// Waits until the diagnosis is as expected: what was provoked may need a moment. Meanwhile it may be whatever the
    /// server was before, but a server that lives is never DOWN.
    async fn expect(&self, situation: &str, redis: &Redis, more: &[&str], expected: Expected) -> Value {
        let down_is_wrong = expected[0] != "DOWN";
        self.wait_for(situation, &Self::address(redis), more, expected, down_is_wrong)
            .await
    }

    /// The same, of a server that was DOWN with reason.
    async fn expect_back(&self, situation: &str, redis: &Redis, expected: Expected) -> Value {
        self.wait_for(situation, &Self::address(redis), &[], expected, false)
            .await
    }

    async fn wait_for(
        &self,
        situation: &str,
        address: &str,
        more: &[&str],
        expected: Expected,
        down_is_wrong: bool,
    ) -> Value {
        let args: Vec<_> = [address].iter().chain(more).copied().collect();
        let what = format!("{situation} on {:?}", self.flavour);
        let once = || async { probe(&self.sandbox, &args) };
        let good = |json: &Value| {
            assert!(!down_is_wrong || json["state"] != "DOWN", "{what}: {json}");
            verdict(json) == expected.map(str::to_owned)
        };
        eventually(&what, once, good).await
    }

    fn ask(redis: &Redis, commands: &str) {
        redis.ask(commands).unwrap();
    }

    async fn all(&self) {
        self.health().await;
        self.silence().await;
        self.permission().await;
        self.replication().await;
        self.loading().await;
        self.unreachable().await;
        self.sentinel().await;
    }

    async fn health(&self) {
        let redis = self.server(&[]).await;
        let json = self.expect("normal", &redis, &[], UP).await;
        let server = if self.flavour == Flavour::Valkey81 {
            "valkey"
        } else {
            "redis"
        };
        assert_eq!(
            (json["server"].as_str(), json["role"].as_str()),
            (Some(server), Some("master"))
        );
        assert_eq!(json["run_id"].as_str(), Some(redis.run_id().as_str()));
        let version = match self.flavour {
            Flavour::Redis70 => "7.0.",
            Flavour::Redis62 => "6.2.",
            Flavour::Valkey81 => "8.1.",
        };
        assert!(json["version"].as_str().unwrap().starts_with(version), "{json}");
        assert_eq!(json["evidence"], "PING answered \"PONG\"");
        for stage in ["connect", "ping", "info", "total"] {
            assert!(
                json["timings_ms"][stage].as_f64().unwrap() > 0.0,
                "{stage}: {json}"
            );
        }
        assert_eq!(
            json["process"]["pid"].as_u64(),
            Some(u64::from(redis.process.pid()))
        );
        Self::ask(&redis, "CONFIG SET maxmemory 1");
        let full = ["DEGRADED", "OUT_OF_MEMORY", "REPLY", "yes", "no"];
        self.expect("out of memory", &redis, &[], full).await;
        Self::ask(
            &redis,
            "CONFIG SET maxmemory 0\r\nCONFIG SET min-replicas-to-write 1",
        );
        let lonely = ["DEGRADED", "NOT_ENOUGH_REPLICAS", "REPLY", "yes", "no"];
        self.expect("too few replicas", &redis, &[], lonely).await;
        Self::ask(&redis, "CONFIG SET min-replicas-to-write 0");
        self.expect("enough again", &redis, &[], UP).await;

        let redis = self.server(&[]).await;
        Self::ask(&redis, "CONFIG SET maxclients 1");
        let _only_one = TcpStream::connect(Self::address(&redis)).unwrap();
        let crowded = ["DEGRADED", "MAX_CLIENTS", "CONNECT", "unknown", "unknown"];
        self.expect("too many clients", &redis, &[], crowded).await;

        let redis = self.server(&["--rename-command", "PING", ""]).await;
        self.expect("PING renamed away", &redis, &[], UP).await;

        let redis = self.server(&["--cluster-enabled", "yes"]).await;
        let holes = ["DEGRADED", "CLUSTER_DOWN", "REPLY", "unknown", "no"];
        self.expect("slots missing", &redis, &[], holes).await;
        let bus = format!("127.0.0.1:{}", redis.port.number + 10_000);
        let reset = ["DOWN", "CONNECTION_RESET", "COMMAND", "no", "no"];
        self.wait_for("the bus of a cluster", &bus, &[], reset, false)
            .await;

        let redis = self.server(&[]).await;
        Self::ask(&redis, "CONFIG SET save \"3600 1\"\r\nSET a 1");
        std::fs::remove_dir_all(self.sandbox.path(&format!("server-{}", redis.port.number))).unwrap();
        Self::ask(&redis, "BGSAVE");
        let unsaved = ["DEGRADED", "PERSISTENCE_FAILED", "REPLY", "yes", "no"];
        self.expect("saving fails", &redis, &[], unsaved).await;
    }

    async fn silence(&self) {
        let redis = self.server(&[]).await;
        redis.process.signal(Signal::SIGSTOP);
        let json = self.expect("stopped", &redis, &[], HUNG).await;
        assert!(
            json["evidence"].as_str().unwrap().contains("stopped (state T)"),
            "{json}"
        );
        redis.process.signal(Signal::SIGCONT);
        self.expect_back("continued", &redis, UP).await;

        let endless = "EVAL \"while true do end\" 0\r\n";
        let mut client = TcpStream::connect(Self::address(&redis)).unwrap();
        client.write_all(endless.as_bytes()).unwrap();
        let json = self
            .expect("a script below the threshold", &redis, &[], HUNG)
            .await;
        assert!(
            json["evidence"].as_str().unwrap().contains("its process runs"),
            "{json}"
        );

        let redis = self.server(&["--lua-time-limit", "300"]).await;
        let mut client = TcpStream::connect(Self::address(&redis)).unwrap();
        client.write_all(endless.as_bytes()).unwrap();
        let busy = ["DOWN", "BUSY_SCRIPT", "REPLY", "no", "no"];
        let json = self
            .expect("a script above the threshold", &redis, &[], busy)
            .await;
        let evidence = json["evidence"].as_str().unwrap();
        assert!(evidence.contains("the process is alive"), "{json}");
    }

    async fn permission(&self) {
        let redis = self.server(&[]).await;
        let file = |name: &str, text: &str| self.sandbox.write(name, text).display().to_string();
        let (right, wrong) = (file("right", "secret\n"), file("wrong", "guess\n"));
        self.expect(
            "a password that nobody asked for",
            &redis,
            &["--password-file", &right],
            UP,
        )
        .await;
        Self::ask(&redis, "CONFIG SET requirepass secret");
        let locked = ["UNKNOWN", "AUTH_REQUIRED", "AUTH", "unknown", "unknown"];
        self.expect("no password", &redis, &[], locked).await;
        let failed = ["UNKNOWN", "AUTH_FAILED", "AUTH", "unknown", "unknown"];
        let told = |json: &Value, user: &str, file: &str| {
            let hint = format!("user \"{user}\", password of {file}");
            assert!(json["evidence"].as_str().unwrap().ends_with(&hint), "{json}");
        };
        let json = self
            .expect("wrong password", &redis, &["--password-file", &wrong], failed)
            .await;
        told(&json, "default", &wrong);
        self.expect("right password", &redis, &["--password-file", &right], UP)
            .await;
        let stranger = ["--user", "stranger", "--password-file", &right];
        let json = self
            .expect("a user that nobody made", &redis, &stranger, failed)
            .await;
        told(&json, "stranger", &right);
        Self::ask(&redis, "AUTH secret\r\nACL SETUSER pinger on >secret -@all +ping");
        let pinger = ["--user", "pinger", "--password-file", &right];
        let json = self
            .expect("a user that may only ping", &redis, &pinger, UP)
            .await;
        assert_eq!(json["run_id"], "");
        Self::ask(&redis, "AUTH secret\r\nACL SETUSER nobody on >secret -@all");
        let denied = ["UNKNOWN", "PERMISSION_DENIED", "COMMAND", "unknown", "unknown"];
        let nobody = ["--user", "nobody", "--password-file", &right];
        self.expect("a user without permissions", &redis, &nobody, denied)
            .await;
        Self::ask(&redis, "AUTH secret\r\nACL SETUSER default off");
        self.expect("the default user is off", &redis, &[], locked).await;

        // A password is bytes: here one in Latin-1.
        let redis = self.server(&[]).await;
        let mut client = TcpStream::connect(Self::address(&redis)).unwrap();
        client.write_all(b"CONFIG SET requirepass gr\xfcn\r\n").unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"+OK\r\n");
        let file = self.sandbox.path("latin");
        std::fs::write(&file, b"gr\xfcn\n").unwrap();
        let latin = file.display().to_string();
        self.expect(
            "a password that is no UTF-8",
            &redis,
            &["--password-file", &latin],
            UP,
        )
        .await;
    }

    async fn replication(&self) {
        let master = self.server(&[]).await;
        let replica = self.server(&[]).await;
        self.first_sync(&replica).await;
        Self::ask(&replica, &format!("REPLICAOF 127.0.0.1 {}", master.port.number));
        let json = self
            .expect("a replica", &replica, &[], ["UP", "OK", "REPLY", "yes", "no"])
            .await;
        assert_eq!(json["master"].as_str(), Some(Self::address(&master).as_str()));
        drop(master);
        let stale = ["DEGRADED", "MASTER_LINK_DOWN", "REPLY", "yes", "no"];
        self.expect("its master is dead", &replica, &[], stale).await;
        // Redis 6.2 shows that stale data is refused when it has refused some.
        Self::ask(&replica, "CONFIG SET replica-serve-stale-data no\r\nGET a");
        let alone = ["DEGRADED", "MASTER_LINK_DOWN", "REPLY", "no", "no"];
        self.expect("stale data forbidden", &replica, &[], alone).await;
    }

    /// The master takes its time with the file that it sends.
    async fn first_sync(&self, replica: &Redis) {
        let master = self
            .server(&["--rdb-key-save-delay", "2000", "--repl-diskless-sync", "no"])
            .await;
        let keys: String = (0..3_000).map(|n| format!("SET key{n} value\r\n")).collect();
        Self::ask(&master, &keys);
        Self::ask(replica, &format!("REPLICAOF 127.0.0.1 {}", master.port.number));
        let syncing = ["DEGRADED", "REPLICA_SYNCING", "REPLY", "yes", "no"];
        self.expect("a replica that begins", replica, &[], syncing).await;
        // Before the connection to the master stands, its link is only down.
        let address = Self::address(replica);
        let evidence = || async { probe(&self.sandbox, &[&address])["evidence"].to_string() };
        let begun = |text: &String| text.contains("first synchronisation");
        eventually("a first synchronisation", evidence, begun).await;
        Self::ask(replica, "REPLICAOF NO ONE");
    }

    async fn loading(&self) {
        let mut redis = self.server(&["--rdbcompression", "no"]).await;
        let slow = if self.flavour == Flavour::Redis62 {
            // It answers each 2 MB only: large values make that often enough.
            let value = "x".repeat(1 << 20);
            let keys =
                (0..120).map(|n| format!("*3\r\n$3\r\nSET\r\n$6\r\nkey{n:03}\r\n$1048576\r\n{value}\r\n"));
            Self::ask(&redis, &format!("{}SAVE", keys.collect::<String>()));
            &["--key-load-delay", "50000"][..]
        } else {
            let keys: String = (0..3_000).map(|n| format!("SET key{n} value\r\n")).collect();
            Self::ask(&redis, &format!("{keys}SAVE"));
            let often = "--loading-process-events-interval-bytes";
            &["--key-load-delay", "3000", often, "1024"]
        };
        self.sandbox.restart_server(&mut redis, self.flavour, slow);
        let expected = ["DEGRADED", "LOADING", "REPLY", "no", "no"];
        let json = self.expect_back("loading", &redis, expected).await;
        let evidence = json["evidence"].as_str().unwrap();
        assert!(
            evidence.contains("% done") && evidence.contains("s left"),
            "{json}"
        );
    }

    async fn unreachable(&self) {
        let mut redis = self.server(&["--tcp-backlog", "1"]).await;
        redis.process.signal(Signal::SIGSTOP);
        // Its queue takes two; whoever comes then waits for the kernel.
        let address = Self::address(&redis).parse().unwrap();
        let patience = Duration::from_millis(200);
        let fill = (0..8).map_while(|_| TcpStream::connect_timeout(&address, patience).ok());
        let queue: Vec<_> = fill.collect();
        assert!(queue.len() < 8, "the queue never fills");
        let late = ["DOWN", "CONNECT_TIMEOUT", "CONNECT", "no", "no"];
        self.expect("a full queue", &redis, &[], late).await;
        redis.process.kill();
        let refused = ["DOWN", "CONNECTION_REFUSED", "CONNECT", "no", "no"];
        let json = self.expect("nothing listens", &redis, &[], refused).await;
        assert!(json["timings_ms"]["connect"].as_f64().is_some(), "{json}");
        let nameless = ["UNKNOWN", "RESOLVE_FAILED", "RESOLVE", "unknown", "unknown"];
        self.wait_for(
            "a name without address",
            "no-such-host.invalid:6379",
            &[],
            nameless,
            true,
        )
        .await;
    }

    /// It holds no data: it is alive, and serves neither reads nor writes.
    async fn sentinel(&self) {
        let (port, nobody) = (ports::port(), ports::port());
        let text = format!(
            "port {}\nsentinel monitor m 127.0.0.1 {} 1\n",
            port.number, nobody.number
        );
        let config = self.sandbox.write("sentinel.conf", &text);
        let mut command = Command::new(self.flavour.binary().unwrap());
        command.arg(config).arg("--sentinel");
        let _sentinel = Process::start(command, &self.sandbox.path("sentinel.log"));
        let address = format!("127.0.0.1:{}", port.number);
        let alive = ["UP", "OK", "REPLY", "no", "no"];
        let json = self.wait_for("a Sentinel", &address, &[], alive, false).await;
        assert_eq!(json["role"], "sentinel");
    }
}

async fn all(flavour: Flavour) {
    if flavour.binary().is_none() {
        redkeeper_tests::skipped!("{flavour:?} is not there; ./test fetches it");
        return;
    }
    Bench {
        sandbox: Sandbox::new(),
        flavour,
    }
    .all()
    .await;
}

#[tokio::test]
async fn every_situation_has_its_meaning_on_redis_7_0() {
    all(Flavour::Redis70).await;
}

#[tokio::test]
async fn every_situation_has_its_meaning_on_redis_6_2() {
    all(Flavour::Redis62).await;
}

#[tokio::test]
async fn every_situation_has_its_meaning_on_valkey_8_1() {
    all(Flavour::Valkey81).await;
}
