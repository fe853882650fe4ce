//! `redkeeper-agent probe` and `acl` beside the table of replies: peers that are no Redis, sockets, permissions, flavours,
//! what people are told.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpListener,
    time::Duration,
};

use redkeeper_tests::{
    Sandbox,
    diagnosis::{probe, verdict},
    eventually, long, netns, ports,
    process::Process,
    servers::Flavour,
};
use serde_json::Value;

const UP: [&str; 5] = ["UP", "OK", "REPLY", "yes", "yes"];

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
    eventually("reached", reached, |json| verdict(json) == UP).await;
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
        redis.ask("CONFIG RESETSTAT\r\nACL LOG RESET").unwrap();
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
            include_str!("../../core/src/redis/flavours/dragonfly.txt"),
            "dragonfly",
            "df-v2.0.0",
        ),
        (
            include_str!("../../core/src/redis/flavours/keydb.txt"),
            "keydb",
            "6.3.4",
        ),
        (
            include_str!("../../core/src/redis/flavours/kvrocks.txt"),
            "kvrocks",
            "2.17.0",
        ),
        (
            include_str!("../../core/src/redis/flavours/garnet.txt"),
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
    for (flavour, bind) in [
        (Flavour::Redis70, "--bind 0.0.0.0"),
        (Flavour::Redis62, ""),
        (Flavour::Valkey81, "--bind 0.0.0.0"),
    ] {
        let Some(server) = flavour.binary() else {
            redkeeper_tests::skipped!("{flavour:?} is not there; ./test fetches it");
            continue;
        };
        let set = [("SERVER", server.to_str().unwrap()), ("BIND", bind)];
        let Some(output) = netns::run(&sandbox, script, &set) else {
            return;
        };
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

/// A process whose child borrows its memory (vfork) waits in state D until the child ends, as one does for its disk.
#[cfg(target_arch = "x86_64")]
const WAITS: &str = "
use Socket;
my ($port) = @ARGV;
socket(my $s, PF_INET, SOCK_STREAM, 0) or die $!;
bind($s, sockaddr_in($port, INADDR_LOOPBACK)) or die $!;
listen($s, 16) or die $!;
# SYS_vfork, and SYS_exit in the child.
if (syscall(58) == 0) { select(undef, undef, undef, 5); syscall(60, 0); }
";

#[cfg(target_arch = "x86_64")]
#[tokio::test]
async fn a_server_that_waits_for_its_disk_is_said_to() {
    let sandbox = Sandbox::new();
    let port = ports::port();
    let mut command = std::process::Command::new("perl");
    command.args(["-e", WAITS, &port.number.to_string()]);
    let server = Process::start(command, &sandbox.path("server.log"));
    let stat = format!("/proc/{}/stat", server.pid());
    // It waited for its own files too, before it listened.
    let waits = || async {
        let listens = std::net::TcpStream::connect(("127.0.0.1", port.number)).is_ok();
        let stat = std::fs::read_to_string(&stat).unwrap_or_default();
        listens && stat.contains("(perl) D ")
    };
    eventually("it waits", waits, |waits| *waits).await;
    let json = probe(&sandbox, &[&format!("127.0.0.1:{}", port.number)]);
    assert_eq!(
        [&json["state"], &json["reason"]],
        ["DOWN", "REPLY_TIMEOUT"],
        "{json}"
    );
    let evidence = json["evidence"].as_str().unwrap();
    assert!(evidence.contains("(state D)"), "{json}");
}
