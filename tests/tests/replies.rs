//! Situation -> state, reason, stage, reads, writes: provoked on real servers, judged by `redkeeper-agent probe`.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::{Command, Output},
    time::Duration,
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox, eventually, long, ports,
    process::Process,
    servers::{Flavour, Redis},
};
use serde_json::Value;

/// State, reason, stage, reads, writes.
type Expected = [&'static str; 5];

const UP: Expected = ["UP", "OK", "REPLY", "yes", "yes"];
const HUNG: Expected = ["DOWN", "REPLY_TIMEOUT", "COMMAND", "no", "no"];

/// One diagnosis; checks that the exit code goes with the state.
fn probe(sandbox: &Sandbox, args: &[&str]) -> Value {
    let output: Output = sandbox
        .command("redkeeper-agent")
        .arg("probe")
        .args(args)
        .args(["--json", "--timeout", "1s"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = serde_json::from_str(text.trim())
        .unwrap_or_else(|e| panic!("{e}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    let code = match json["state"].as_str().unwrap() {
        "UP" => 0,
        "DEGRADED" => 1,
        "DOWN" => 2,
        _ => 3,
    };
    assert_eq!(output.status.code(), Some(code), "{json}");
    json
}

fn verdict(json: &Value) -> [String; 5] {
    ["state", "reason", "stage", "reads", "writes"].map(|key| json[key].as_str().unwrap_or("?").to_owned())
}

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
        let holes = ["DEGRADED", "CLUSTER_DOWN", "REPLY", "no", "no"];
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
        self.expect("wrong password", &redis, &["--password-file", &wrong], failed)
            .await;
        self.expect("right password", &redis, &["--password-file", &right], UP)
            .await;
        let stranger = ["--user", "stranger", "--password-file", &right];
        self.expect("a user that nobody made", &redis, &stranger, failed)
            .await;
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
        let stale = ["DEGRADED", "REPLICA_SYNCING", "REPLY", "yes", "no"];
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

/// A server that says this so many times to everybody, and then closes or holds the connection.
fn says(text: &'static [u8], closes: bool, times: usize) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 64];
        // The request first: some of these would otherwise be answers to nothing.
        if stream.read(&mut request).is_err() {
            return;
        }
        for chunk in std::iter::repeat_n(text, times) {
            // The agent hangs up when it has had enough.
            if stream.write_all(chunk).is_err() {
                return;
            }
        }
        if !closes {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            while stream.read(&mut request).is_ok_and(|n| n > 0) {}
        }
    });
    (address, thread)
}

#[tokio::test]
async fn what_is_no_redis_is_unknown_and_nothing_is_believed_without_end() {
    let sandbox = Sandbox::new();
    static GARBAGE: [u8; 65_536] = [b'x'; 65_536];
    // A line of which each part looks like the beginning of one.
    static LINE: [u8; 65_536] = [b'+'; 65_536];
    for (text, closes, expected) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            true,
            ["UNKNOWN", "NOT_REDIS"],
        ),
        (b"SSH-2.0-x\r\n", true, ["UNKNOWN", "NOT_REDIS"]),
        (b"+PON", true, ["DOWN", "CONNECTION_RESET"]),
        // Half an answer, and the other half never comes.
        (b"$1000000\r\n", false, ["DOWN", "REPLY_TIMEOUT"]),
        (b"$99999999999\r\n", false, ["UNKNOWN", "NOT_REDIS"]),
        (b"+OK\r\n+OK\r\n", false, ["UNKNOWN", "PROTOCOL_ERROR"]),
        (&GARBAGE, false, ["UNKNOWN", "NOT_REDIS"]),
        (&LINE, false, ["UNKNOWN", "NOT_REDIS"]),
    ] {
        // More than the agent believes, where it goes on.
        let (address, server) = says(text, closes, if text.len() > 1_000 { 40 } else { 1 });
        let json = probe(&sandbox, &[&address]);
        let short = String::from_utf8_lossy(&text[..text.len().min(20)]);
        assert_eq!([&json["state"], &json["reason"]], expected, "{short}: {json}");
        let works = if expected[0] == "DOWN" { "no" } else { "unknown" };
        assert_eq!(
            [&json["reads"], &json["writes"]],
            [works, works],
            "{short}: {json}"
        );
        server.join().unwrap();
    }
}

#[tokio::test]
async fn a_unix_socket_is_reached_or_missing() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("redis.sock").display().to_string();
    let missing = probe(&sandbox, &[&path]);
    assert_eq!(
        verdict(&missing),
        ["DOWN", "SOCKET_MISSING", "CONNECT", "no", "no"]
    );
    let _redis = sandbox.server(Flavour::Redis70, &["--unixsocket", &path]);
    let reached = || async { probe(&sandbox, &[&path]) };
    eventually("reached", reached, |json| verdict(json) == UP.map(str::to_owned)).await;
}

#[tokio::test]
async fn the_printed_acl_user_is_enough_and_not_more() {
    let sandbox = Sandbox::new();
    let output = sandbox
        .command("redkeeper-agent")
        .args(["acl", "--user", "watcher"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("ACL SETUSER"))
        .unwrap()
        .replace("PASSWORD", "secret");
    let password = sandbox.write("password", "secret\n").display().to_string();
    let text = |port: u16| {
        format!(
            "[probe]\ninterval = '20ms'\ninfo_interval = '200ms'\nconnect_interval = '1s'\nhang_after = '1s'\n\
             [[instances]]\naddress = '127.0.0.1:{port}'\nuser = 'watcher'\npassword_file = '{password}'\n"
        )
    };
    for flavour in [Flavour::Redis70, Flavour::Redis62, Flavour::Valkey81] {
        if flavour.binary().is_none() {
            redkeeper_tests::skipped!("{flavour:?} is not there; ./test fetches it");
            continue;
        }
        let redis = sandbox.server(flavour, &["--cluster-enabled", "yes"]);
        let ready = || async { redis.ask(&line).unwrap_or_default() };
        eventually("the user is made", ready, |answer| answer.starts_with("+OK")).await;
        Bench::ask(&redis, "CONFIG RESETSTAT\r\nACL LOG RESET");
        let a = sandbox.collector("a", None).await;
        let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
        let agent = sandbox
            .agent_with("db01", &collectors, &text(redis.port.number))
            .await;
        let rounds = || async { agent.metric("redkeeper_probe_rounds_total") };
        // An hour at the default interval has 7,200 PINGs.
        let wanted = if long() { 7_200 } else { 100 };
        for part in (1..=wanted / 100).map(|n| f64::from(n * 100)) {
            eventually("100 rounds more", rounds, |n| n.is_some_and(|n| n >= part)).await;
        }
        let denials = redis.ask("ACL LOG").unwrap();
        assert!(denials.starts_with("*0"), "{flavour:?}: {denials}");
        let stats = redis.ask("INFO commandstats").unwrap();
        let used: Vec<_> = stats
            .lines()
            .filter_map(|l| l.strip_prefix("cmdstat_")?.split_once(':'))
            .map(|(name, _)| name)
            .collect();
        let allowed = [
            "ping",
            "info",
            "auth",
            "cluster",
            "cluster|info",
            "acl",
            "acl|log",
            "config",
            "config|resetstat",
            "quit",
        ];
        assert!(used.contains(&"ping"), "{stats}");
        for name in used {
            assert!(allowed.contains(&name), "{flavour:?} saw {name}");
        }
    }
}

/// Servers that are not run here, through the whole path: what their releases write, said by a server of the test.
#[tokio::test]
async fn other_flavours_are_known_by_what_they_say() {
    let sandbox = Sandbox::new();
    for (info, server, version) in [
        (
            include_str!("../../core/src/agent/flavours/dragonfly.txt"),
            "dragonfly",
            "df-v2.0.0",
        ),
        (
            include_str!("../../core/src/agent/flavours/keydb.txt"),
            "keydb",
            "6.3.4",
        ),
        (
            include_str!("../../core/src/agent/flavours/kvrocks.txt"),
            "kvrocks",
            "2.17.0",
        ),
        (
            include_str!("../../core/src/agent/flavours/garnet.txt"),
            "garnet",
            "2.2.0",
        ),
    ] {
        let info = info.replace('\n', "\r\n");
        let answers = format!("+PONG\r\n${}\r\n{info}\r\n", info.len());
        let (address, server_ended) = says(answers.leak().as_bytes(), false, 1);
        let json = probe(&sandbox, &[&address]);
        assert_eq!(verdict(&json), UP, "{json}");
        assert_eq!(
            (&json["server"], &json["version"]),
            (&server.into(), &version.into())
        );
        server_ended.join().unwrap();
    }
}

/// A usage error is no verdict: 2 would mean DOWN.
#[test]
fn a_wrong_usage_is_no_verdict() {
    let sandbox = Sandbox::new();
    for args in [
        &["probe"][..],
        &["probe", "nowhere"],
        &["probe", "127.0.0.1:1", "--timeout", "0s"],
        &["probe", "127.0.0.1:1", "--frobnicate"],
    ] {
        let output = sandbox.command("redkeeper-agent").args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn a_diagnosis_for_people_tells_everything() {
    let sandbox = Sandbox::new();
    let nobody = ports::port();
    let output = sandbox
        .command("redkeeper-agent")
        .args(["probe", &format!("127.0.0.1:{}", nobody.number)])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for part in [
        "state     DOWN\n",
        "reason    CONNECTION_REFUSED\n",
        "stage     CONNECT",
        "evidence  connection refused",
        "timings   connect ",
    ] {
        assert!(text.contains(part), "{part}\nnot in\n{text}");
    }
}

/// In a network namespace of its own, where a second address on the loopback stands for a remote client.
#[tokio::test]
async fn protected_mode_is_unknown_and_no_route_is_down() {
    let sandbox = Sandbox::new();
    // 6.2 is protected only where no address is named.
    let script = "ip link set lo up && ip addr add 192.0.2.1/32 dev lo || exit 77\n\
                  \"$SERVER\" --port 6399 $BIND --save '' --dir \"$DIR\" >\"$DIR/log\" 2>&1 &\n\
                  for attempt in $(seq 100); do\n\
                  \"$AGENT\" probe 127.0.0.1:6399 >/dev/null && break; sleep 0.2; done\n\
                  \"$AGENT\" probe 192.0.2.1:6399 --json; \"$AGENT\" probe 198.51.100.1:6399 --json\n";
    let agent = sandbox.command("redkeeper-agent").get_program().to_owned();
    let namespaces = std::process::Command::new("unshare")
        .args(["--net", "--pid", "--fork", "true"])
        .status();
    if !namespaces.is_ok_and(|status| status.success()) {
        redkeeper_tests::skipped!("no network namespace can be made here; it needs root");
        return;
    }
    for (flavour, bind) in [
        (Flavour::Redis70, "--bind 0.0.0.0"),
        (Flavour::Redis62, ""),
        (Flavour::Valkey81, "--bind 0.0.0.0"),
    ] {
        let Some(server) = flavour.binary() else {
            redkeeper_tests::skipped!("{flavour:?} is not there; ./test fetches it");
            continue;
        };
        let output = std::process::Command::new("unshare")
            .args(["--net", "--pid", "--fork", "--kill-child", "sh", "-c", script])
            // What the tests are told by variables is no setting of an agent.
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("SERVER", server)
            .env("BIND", bind)
            .env("AGENT", &agent)
            .env("DIR", sandbox.path(""))
            .output()
            .unwrap();
        if output.status.code() == Some(77) {
            redkeeper_tests::skipped!("the command ip is not there");
            return;
        }
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines = text
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        let (json, unreachable) = (lines.next().unwrap(), lines.next().unwrap());
        let expected = ["UNKNOWN", "PROTECTED_MODE", "CONNECT", "unknown", "unknown"];
        assert_eq!(verdict(&json), expected, "{flavour:?}: {json}");
        let expected = ["DOWN", "HOST_UNREACHABLE", "CONNECT", "no", "no"];
        assert_eq!(verdict(&unreachable), expected, "{unreachable}");
    }
}
