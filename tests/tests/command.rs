//! The command as people and scripts use it: lists of endpoints of which the first is no collector, pipes whose reader
//! has gone, outputs that are closed or full, filters that nobody matches.
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use redkeeper_proto::v1::{self, Reason, report_status_request::Message};
use redkeeper_tests::{
    Sandbox, daemons::Collector, eventually, fake_agent, process::Process, servers::Flavour, wait,
};
use tokio_stream::StreamExt;

/// Runs it to its end, which must come in time.
async fn run(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.output().unwrap());
    tokio::time::timeout(wait::LIMIT, running)
        .await
        .expect("in time")
        .unwrap()
}

fn ask(sandbox: &Sandbox, endpoints: &str, words: &[&str]) -> Command {
    let mut command = sandbox.command("redkeeper");
    command.args(["--endpoints", endpoints]).args(words);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A collector that hears one agent with two instances, `db01:1` of cluster red and `db01:2` of blue.
async fn heard(sandbox: &Sandbox) -> (Collector, tonic::Streaming<v1::ReportStatusResponse>) {
    let a = sandbox
        .collector_with("a", "standalone = true\nsilent_after = '10m'\n")
        .await;
    let mut instances = vec![
        fake_agent::report("db01", 1, Reason::Ok),
        fake_agent::report("db01", 2, Reason::ConnectionRefused),
    ];
    for (instance, cluster) in instances.iter_mut().zip(["red", "blue"]) {
        instance.cluster = cluster.to_owned();
    }
    let evidence = &mut instances[1].verdict.as_mut().unwrap().evidence;
    *evidence = "refused \u{202e}desufer\u{1b}[31m".to_owned();
    instances[1].labels = [("note".to_owned(), "a\u{202e}b\u{1b}c".to_owned())].into();
    let snapshot = Message::Snapshot(v1::Snapshot {
        instances,
        last: true,
    });
    let Message::Hello(mut hello) = fake_agent::hello("db01", 1) else {
        panic!("no Hello")
    };
    hello.host = "vm.example".to_owned();
    let messages = [
        fake_agent::message(1, Message::Hello(hello)),
        fake_agent::message(2, snapshot),
    ];
    let stream = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let mut client = v1::agent_service_client::AgentServiceClient::new(a.channel().await.unwrap());
    let answers = client.report_status(stream).await.unwrap().into_inner();
    eventually(
        "reported",
        || a.state("db01:2"),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
    (a, answers)
}

#[tokio::test]
async fn the_first_answer_decides_and_an_endpoint_that_is_no_collector_is_named() {
    let sandbox = Sandbox::new();
    let (a, _agent) = heard(&sandbox).await;
    let redis = sandbox.server(Flavour::Redis70, &[]);
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent
        .local_addr()
        .map(|address| (silent, address.port()))
        .unwrap();
    let good = a.grpc.number;
    for (port, says) in [
        (a.http.number, "is an HTTP server and speaks no gRPC"),
        (redis.port.number, "is a Redis, and no collector"),
        (silent.1, "takes the connection, but does not answer"),
        (1, "nothing listens there"),
    ] {
        let alone = format!("127.0.0.1:{port}");
        let output = run(ask(&sandbox, &alone, &["--timeout", "2s", "list"])).await;
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("{alone} {}", &says)) || said.contains(says) && said.contains(&alone),
            "{said}"
        );
        for raw in ["h2", "http2", "transport", "FRAME", "os error 104"] {
            assert!(!said.contains(raw), "{said}");
        }
        for words in [&["list"][..], &["cluster"], &["agents"], &["get", "db01:1"]] {
            let both = format!("{alone}, 127.0.0.1:{good}");
            let start = Instant::now();
            let words: Vec<_> = ["--timeout", "2s"].iter().chain(words).copied().collect();
            let output = run(ask(&sandbox, &both, &words)).await;
            assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
            assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
        }
    }
    // A collector's no is an answer: nobody else is asked.
    let both = format!("127.0.0.1:{good},127.0.0.1:1");
    let output = run(ask(&sandbox, &both, &["get", "nobody:1"])).await;
    assert!(text(&output.stderr).contains("no instance \"nobody:1\" is known"));
    // So is what its library says of a request that is too large.
    let long = "a".repeat(70_000);
    let output = run(ask(&sandbox, &both, &["list", "--host", &long])).await;
    assert!(
        text(&output.stderr).contains("too large"),
        "{}",
        text(&output.stderr)
    );
}

#[tokio::test]
async fn endpoints_are_read_as_people_type_them() {
    let sandbox = Sandbox::new();
    let (a, _agent) = heard(&sandbox).await;
    let good = format!("127.0.0.1:{}", a.grpc.number);
    for endpoints in [
        format!(" {good} "),
        format!("{good},"),
        format!("127.0.0.1:1, {good}"),
    ] {
        let output = run(ask(&sandbox, &endpoints, &["agents"])).await;
        assert!(output.status.success(), "{endpoints:?}: {}", text(&output.stderr));
    }
    for endpoints in ["", "http://a", "a:0", "a:99999", "::1:7400", "user@a", "a/"] {
        let output = run(ask(&sandbox, endpoints, &["agents"])).await;
        assert_eq!(
            output.status.code(),
            Some(2),
            "{endpoints:?}: {}",
            text(&output.stderr)
        );
        assert!(text(&output.stderr).starts_with("redkeeper: --endpoints: "));
    }
    let mut command = sandbox.command("redkeeper");
    command
        .arg("agents")
        .env("REDKEEPER_ENDPOINTS", format!("{good}, "));
    assert!(run(command).await.status.success());
}

#[tokio::test]
async fn a_watch_ends_with_its_reader_although_nothing_changes() {
    let sandbox = Sandbox::new();
    let (a, _agent) = heard(&sandbox).await;
    let good = format!("127.0.0.1:{}", a.grpc.number);
    for words in [&["watch"][..], &["watch", "-o", "json"]] {
        let mut command = ask(&sandbox, &good, words);
        let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        let mut reader = BufReader::new(watch.stdout.take().unwrap());
        reader.read_line(&mut first).unwrap();
        assert!(first.contains("db01:1"), "{first}");
        drop(reader);
        let ended = tokio::task::spawn_blocking(move || watch.wait().unwrap());
        let status = tokio::time::timeout(Duration::from_secs(5), ended).await;
        let status = status.expect("it ends although nothing changes").unwrap();
        assert!(status.success(), "{status}");
    }
}

#[tokio::test]
async fn outputs_that_are_closed_or_full_are_no_panic() {
    let sandbox = Sandbox::new();
    let (a, _agent) = heard(&sandbox).await;
    let good = format!("127.0.0.1:{}", a.grpc.number);
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let closed = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let agent = |words: &[&str]| {
        let mut command = sandbox.command("redkeeper-agent");
        command.args(words);
        command
    };
    for words in [
        &["list"][..],
        &["list", "-o", "json"],
        &["get", "db01:1"],
        &["cluster"],
        &["agents"],
        &["watch"],
    ] {
        let mut command = ask(&sandbox, &good, words);
        command.stdout(full()).stderr(Stdio::piped());
        let output = run_as_is(command).await;
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(
            text(&output.stderr).contains("No space left"),
            "{words:?}: {}",
            text(&output.stderr)
        );
        let mut command = ask(&sandbox, &good, words);
        command.stdout(closed());
        assert!(
            run_as_is(command).await.status.success(),
            "{words:?} into a closed pipe"
        );
    }
    for (words, code) in [(&["list"][..], 1), (&["list", "--state", "nope"], 2)] {
        for stderr in [full(), closed()] {
            let mut command = ask(&sandbox, "127.0.0.1:1", words);
            command.stderr(stderr).stdout(Stdio::null());
            assert_eq!(run_as_is(command).await.status.code(), Some(code), "{words:?}");
        }
    }
    // The agent's: the code says what it always says.
    for (words, code) in [
        (&["acl"][..], 0),
        (&["discover", "--explain"], 0),
        (&["probe", "127.0.0.1:1"], 2),
        (&["probe", "nowhere"], 64),
    ] {
        let mut command = agent(words);
        command.stdout(closed()).stderr(closed());
        assert_eq!(run_as_is(command).await.status.code(), Some(code), "{words:?}");
    }
    let mut command = agent(&["acl"]);
    command.stdout(full()).stderr(Stdio::piped());
    let output = run_as_is(command).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("No space left"));
}

/// With the outputs that the command was given.
async fn run_as_is(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.spawn().unwrap().wait_with_output().unwrap());
    tokio::time::timeout(wait::LIMIT, running)
        .await
        .expect("in time")
        .unwrap()
}

#[tokio::test]
async fn filters_filter_and_say_what_nobody_has() {
    let sandbox = Sandbox::new();
    let (a, _agent) = heard(&sandbox).await;
    let good = format!("127.0.0.1:{}", a.grpc.number);
    for (words, wanted, note) in [
        (&["--cluster", "red"][..], &["db01:1"][..], ""),
        (
            &["--cluster", "nope"],
            &[],
            "no instance is in cluster \"nope\"; clusters: blue, red",
        ),
        (&["--host", "db01", "--state", "down"], &["db01:2"], ""),
        (&["--host", "vm.example"], &[], "here --host db01"),
        (
            &["--host", "db09,db01"],
            &["db01:1", "db01:2"],
            "no agent \"db09\" reports an instance; agents: db01",
        ),
        (&["--reason", "REASON_77"], &[], ""),
        (&["--limit", "1"], &["db01:1"], ""),
    ] {
        for json in [false, true] {
            let format: &[&str] = if json { &["-o", "json"] } else { &[] };
            let words: Vec<_> = ["list"].iter().chain(words).chain(format).copied().collect();
            let output = run(ask(&sandbox, &good, &words)).await;
            assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert!(
                if note.is_empty() {
                    err.is_empty()
                } else {
                    err.contains(note)
                },
                "{words:?}: {err}"
            );
            if json {
                let document: serde_json::Value = serde_json::from_str(&out).unwrap();
                let ids = document["instances"].as_array().into_iter().flatten();
                let ids: Vec<_> = ids.map(|instance| instance["id"].as_str().unwrap()).collect();
                assert_eq!(ids, wanted, "{words:?}");
                assert_eq!(document["header"]["servedBy"], "a");
            } else {
                let ids: Vec<_> = out
                    .lines()
                    .filter_map(|line| line.split_whitespace().nth(2))
                    .collect();
                let ids: Vec<_> = ids.into_iter().filter(|word| word.starts_with("db01:")).collect();
                assert_eq!(ids, wanted, "{words:?}: {out}");
            }
        }
    }
    // A watch shows what it was asked for, and nothing of others turns the terminal's text around.
    let output = run(ask(&sandbox, &good, &["get", "db01:2"])).await;
    let shown = text(&output.stdout);
    assert!(shown.contains("note=a\\u{202e}b\\u{1b}c"), "{shown}");
    assert!(!shown.contains(['\u{202e}', '\u{1b}']), "{shown}");
    let mut watch = ask(&sandbox, &good, &["watch", "--cluster", "blue"]);
    watch.stdout(Stdio::piped());
    let log = sandbox.path("watch.log");
    let mut watch = Process::start(watch, &log);
    let shown = || async { std::fs::read_to_string(&log).unwrap_or_default() };
    eventually("its snapshot", shown, |log| log.contains("db01:2")).await;
    watch.kill();
    assert!(!shown().await.contains("db01:1"));
}

/// The whole time is limited, however the system looks up names, and the process does not wait for the resolver.
#[tokio::test]
async fn a_limit_of_time_covers_all_that_a_command_waits_for() {
    let sandbox = Sandbox::new();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let endpoints = format!("127.0.0.1:{port},127.0.0.1:{port},localhost:{port}");
    let start = Instant::now();
    let output = run(ask(&sandbox, &endpoints, &["--timeout", "600ms", "watch"])).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    assert!(
        text(&output.stderr).contains("does not answer within"),
        "{}",
        text(&output.stderr)
    );
    for time in ["0s", "1ns", "292y", "-1s", "5", ""] {
        let output = run(ask(&sandbox, "a:1", &[&format!("--timeout={time}"), "list"])).await;
        assert_eq!(output.status.code(), Some(2), "{time:?}");
    }
}
