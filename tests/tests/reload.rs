//! SIGHUP: what changed is changed, what did not keeps its connection, and a mistake changes nothing.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix::sys::signal::Signal;
use redkeeper_tests::{Sandbox, daemons::Agent, eventually, servers::Redis};

const UP: &str = "UP/OK";

fn text(ports: &[u16]) -> String {
    let entry = |port: &u16| format!("[[instances]]\naddress = '127.0.0.1:{port}'\n");
    let list: String = ports.iter().map(entry).collect();
    format!("[probe]\ninterval = '100ms'\nhang_after = '1s'\n{list}")
}

/// Connections that a server has had so far.
fn connections(redis: &Redis) -> u64 {
    let stats = redis.ask("INFO stats").unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("total_connections_received:"));
    line.unwrap().trim().parse().unwrap()
}

async fn reload(agent: &Agent, text: &str, result: &str) {
    let line = format!("redkeeper_config_reloads_total{{result=\"{result}\"}}");
    let before = agent.metric(&line).unwrap_or(0.0);
    agent.write_config(text);
    agent.process.signal(Signal::SIGHUP);
    let count = || async { agent.metric(&line).unwrap_or(0.0) };
    eventually(&format!("reload: {result}"), count, |n| *n == before + 1.0).await;
}

#[tokio::test]
async fn a_reload_adds_and_drops_and_leaves_the_rest_alone() {
    let sandbox = Sandbox::new();
    let redis = [
        sandbox.redis().await,
        sandbox.redis().await,
        sandbox.redis().await,
    ];
    let ports = [0, 1, 2].map(|n| redis[n].port.number);
    let ids = ports.map(|port| format!("db01:{port}"));
    let a = sandbox.collector("a", None).await;
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text(&ports[..2])).await;
    for id in &ids[..2] {
        eventually("UP", || a.state(id), |s| s == UP).await;
    }
    let before = connections(&redis[0]);

    reload(&agent, &text(&[ports[0], ports[2]]), "ok").await;
    eventually("the new one", || a.state(&ids[2]), |s| s == UP).await;
    eventually("the dropped one", || a.state(&ids[1]), |s| s == "-").await;
    assert_eq!(a.state(&ids[0]).await, UP);
    // The question itself is one connection.
    assert_eq!(
        connections(&redis[0]),
        before + 1,
        "an unchanged instance was connected to again"
    );
    assert_eq!(
        a.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}"),
        Some(2.0)
    );

    // A mistake, and a file that drops too much: nothing changes.
    reload(&agent, "[[instances]]\naddress = 'nowhere'\n", "invalid").await;
    said(&agent, "\"nowhere\" has no port; write it as HOST:PORT").await;
    reload(&agent, "instances = []\n", "refused").await;
    said(&agent, "Send SIGHUP again within").await;
    assert_eq!(
        a.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}"),
        Some(2.0)
    );
    // Said twice, it is meant.
    reload(&agent, "instances = []\n", "ok").await;
    eventually("all forgotten", || a.state(&ids[0]), |s| s == "-").await;
    // And an agent without instances takes new ones.
    reload(&agent, &text(&ports), "ok").await;
    for id in &ids {
        eventually("UP", || a.state(id), |s| s == UP).await;
    }
}

#[tokio::test]
async fn a_rotated_password_needs_no_reload_and_causes_no_false_down() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let password = sandbox.write("password", "first\n");
    redis.ask("CONFIG SET requirepass first").unwrap();
    let config = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\nconnect_interval = '1s'\n[[instances]]\n\
         address = '127.0.0.1:{}'\npassword_file = '{}'\n",
        redis.port.number,
        password.display()
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &config).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == UP).await;
    let before = a.metric("redkeeper_transitions_total{reason=\"OK\"}");
    std::fs::write(&password, "second\n").unwrap();
    redis.ask("AUTH first\r\nCONFIG SET requirepass second").unwrap();
    // The lasting connection is cut: the next one must use the new password.
    redis
        .ask("AUTH second\r\nCLIENT KILL TYPE normal SKIPME yes")
        .unwrap();
    let rounds = || agent.metric("redkeeper_probe_rounds_total").unwrap();
    let now = rounds();
    eventually("20 more rounds", || async { rounds() }, |n| *n > now + 20.0).await;
    assert_eq!(a.state(&id).await, UP);
    assert_eq!(
        a.metric("redkeeper_transitions_total{reason=\"OK\"}"),
        before,
        "it was never anything else"
    );
}

/// Waits for a line of the log, which a thread of its own writes.
async fn said(agent: &Agent, text: &str) {
    eventually(text, || async { agent.process.log() }, |log| log.contains(text)).await;
}

/// What `--check-config` says, and its exit code.
fn check(sandbox: &Sandbox, agent: &Agent) -> (Option<i32>, String) {
    let mut command = sandbox.command("redkeeper-agent");
    command
        .arg("--check-config")
        .arg("--config")
        .arg(sandbox.path(&format!("{}.toml", agent.id)));
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[tokio::test]
async fn a_file_that_is_missing_stops_its_own_instance_only() {
    let sandbox = Sandbox::new();
    let (guarded, open) = (sandbox.redis().await, sandbox.redis().await);
    guarded.ask("CONFIG SET requirepass secret").unwrap();
    let a = sandbox.collector("a", None).await;
    let password = sandbox.path("later");
    let instances = format!(
        "[[instances]]\naddress = '127.0.0.1:{}'\npassword_file = '{}'\n[[instances]]\naddress = '127.0.0.1:{}'\n",
        guarded.port.number,
        password.display(),
        open.port.number
    );
    let probe = "[probe]\ninterval = '100ms'\nhang_after = '1s'\n";
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox
        .agent_with("db01", &collectors, &format!("{probe}{instances}"))
        .await;
    let ids = [&guarded, &open].map(|redis| format!("db01:{}", redis.port.number));
    eventually("the other one is UP", || a.state(&ids[1]), |s| s == UP).await;
    eventually("it says why", || a.state(&ids[0]), |s| s == "UNKNOWN/AGENT_FAULT").await;
    let evidence = a.instance(&ids[0]).await.unwrap().verdict.unwrap().evidence;
    assert!(evidence.contains(&password.display().to_string()), "{evidence}");
    let log = || async { agent.process.log() };
    eventually("the log names the file once", log, |log| {
        log.contains("instances.0.password_file: ")
    })
    .await;
    let (code, text) = check(&sandbox, &agent);
    assert!(
        code == Some(0) && text.contains("warning: ") && text.contains(":9:1: instances.0.password_file"),
        "{code:?} {text}"
    );

    // A reload with another such file changes what it can.
    let tls = "[[instances]]\naddress = '127.0.0.1:1'\nname = 'tls'\ntls = { ca_file = '/no/such/ca' }\n";
    reload(&agent, &format!("{probe}{instances}{tls}"), "ok").await;
    eventually(
        "nothing listens there",
        || a.state("tls"),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
    let (code, text) = check(&sandbox, &agent);
    assert!(
        code == Some(0) && text.matches("warning: ").count() == 2,
        "{code:?} {text}"
    );
    assert_eq!(a.state(&ids[1]).await, UP);

    // It heals when the file is there. A mistake of form is refused all the same.
    std::fs::write(&password, "secret\n").unwrap();
    eventually("UP", || a.state(&ids[0]), |s| s == UP).await;
    let wrong = "[[instances]]\naddress = 'nowhere'\npassword_file = '/no/such'\n";
    reload(&agent, wrong, "invalid").await;
    let (code, text) = check(&sandbox, &agent);
    assert!(
        code == Some(78) && text.contains("\"nowhere\" has no port"),
        "{code:?} {text}"
    );
    said(&agent, "the former one stays in force").await;
    let log = agent.process.log();
    assert_eq!(log.matches("\"nowhere\" has no port").count(), 1, "{log}");
    assert!(!log.contains("nothing was started"), "{log}");
}

#[tokio::test]
async fn globs_that_match_nothing_are_told_by_a_check() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let found = sandbox.write(
        "found.conf",
        &format!("bind 127.0.0.1\nport {}\n", redis.port.number),
    );
    let port = redis.port.number;
    let text = format!(
        "[discovery]\nconfig_files = ['{}']\nignore = ['127.0.0.1:1', '*:{port}']\n\
         [[access]]\naddresses = ['[::1]:*', '127.0.0.1:{port}', '/run/*']\nuser = 'u'\npassword_file = '{}'\n\
         [[instances]]\naddress = '/run/redis.sock'\nname = 'socket'\n",
        found.display(),
        found.display(),
    );
    let a = sandbox.collector("a", None).await;
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    let (code, text) = check(&sandbox, &agent);
    assert_eq!(code, Some(0));
    let told: Vec<_> = text.lines().filter(|line| line.contains("matches no")).collect();
    assert_eq!(told.len(), 2, "{text}");
    assert!(
        told[0].contains("access.0.addresses.0: \"[::1]:*\" matches no address"),
        "{text}"
    );
    assert!(told[1].contains("discovery.ignore.0: \"127.0.0.1:1\""), "{text}");
}

/// Candidates that take the connection and say nothing keep discovery busy for seconds.
#[tokio::test]
async fn a_slow_first_look_holds_up_neither_probes_nor_the_end() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let folder = sandbox.path("conf");
    std::fs::create_dir(&folder).unwrap();
    let port = redkeeper_tests::ports::port();
    let silent: Vec<_> = (1..=200u8)
        .map(|n| {
            let address = std::net::SocketAddr::from(([127, 0, 2, n], port.number));
            let text = format!("bind {}\nport {}\n", address.ip(), address.port());
            std::fs::write(folder.join(format!("{n}.conf")), text).unwrap();
            std::net::TcpListener::bind(address).unwrap()
        })
        .collect();
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n[discovery]\nconfig_files = ['{}/*.conf']\n\
         [[instances]]\naddress = '127.0.0.1:{}'\n",
        folder.display(),
        redis.port.number
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let mut agent = sandbox.agent_with("db01", &collectors, &text).await;
    let log = || async { agent.process.log() };
    eventually("the configured one is probed", log, |log| {
        log.contains("state=UP")
    })
    .await;
    assert_eq!(agent.metric("redkeeper_uplink_connected"), None);
    assert!(
        !agent.process.log().contains("stream open"),
        "nothing is reported before the look is done"
    );
    agent.process.signal(Signal::SIGTERM);
    assert_eq!(agent.process.ends_within(Duration::from_secs(3)).code(), Some(0));
    drop(silent);
}

/// A state file whose reading never ends, as on a file system that hangs.
#[tokio::test]
async fn a_state_file_that_hangs_holds_up_no_probe() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let pipe = sandbox.path("state.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n[discovery]\nconfig_files = ['{}/*.conf']\nstate_file = '{}'\n\
         [[instances]]\naddress = '127.0.0.1:{}'\n",
        sandbox.path("").display(),
        pipe.display(),
        redis.port.number
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let mut agent = sandbox.agent_with("db01", &collectors, &text).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("it is probed and reported", || a.state(&id), |s| s == UP).await;
    said(
        &agent,
        "what was discovered before is not remembered: not read within 2s",
    )
    .await;
    agent.process.signal(Signal::SIGTERM);
    assert_eq!(agent.process.ends_within(Duration::from_secs(5)).code(), Some(0));
}

#[tokio::test]
async fn discovery_that_is_switched_on_looks_at_once() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", None).await;
    let text = text(&[1]);
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    let file = sandbox.write(
        "found.conf",
        &format!("bind 127.0.0.1\nport {}\n", redis.port.number),
    );
    let discovery = format!(
        "[discovery]\ninterval = '300s'\nconfig_files = ['{}']\n",
        file.display()
    );
    reload(&agent, &format!("{text}{discovery}"), "ok").await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == UP).await;
}
