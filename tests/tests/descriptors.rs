//! Too many connections, and no descriptors left: the daemons go on, say what they lack, and let an operator in.
#![allow(clippy::unwrap_used)]

use std::{
    io::{ErrorKind, Read},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use redkeeper_tests::{
    Sandbox,
    daemons::{self, http_get},
    eventually, holds_for, ports,
};

/// Connections on which nothing is ever sent.
fn idle(port: u16, count: usize) -> Vec<TcpStream> {
    (0..count)
        .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
        .collect()
}

/// CPU time that a process has used, in clock ticks.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    [11, 12]
        .map(|at: usize| fields[at].parse::<u64>().unwrap())
        .iter()
        .sum()
}

#[tokio::test]
async fn idle_connections_leave_the_collector_in_service() {
    let mut sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    sandbox.limit_descriptors(64);
    let a = sandbox.collector("a", None).await;
    let (grpc, http) = (idle(a.grpc.number, 120), idle(a.http.number, 120));
    let refused = |port: &str| {
        let line = format!("redkeeper_connections_refused_total{{port=\"{port}\",limit=\"address\"}}");
        a.metric(&line).unwrap_or(0.0)
    };
    let most = || async { (refused("grpc"), refused("http")) };
    eventually("most are refused", most, |(grpc, http)| {
        *grpc > 100.0 && *http > 100.0
    })
    .await;
    assert!(a.process.descriptors() < 64);
    // It costs next to nothing while they are there: a busy loop would take 100 ticks in each second.
    let before = cpu_ticks(a.process.pid());
    let alive = || async { http_get(a.admin.number, "/livez") };
    holds_for("alive", Duration::from_secs(1), alive, |page| {
        page.as_deref() == Ok("ok\n")
    })
    .await;
    let used = cpu_ticks(a.process.pid()) - before;
    assert!(used < 50, "{used} ticks");
    assert_eq!(
        a.metric("redkeeper_accept_errors_total{port=\"grpc\"}"),
        Some(0.0)
    );
    let log = a.process.log();
    let lines = log.matches("its address holds as many as one may").count();
    assert_eq!(lines, 2, "one line for each port:\n{log}");

    // Those that say nothing are cut, and an agent of the same address gets in.
    for mut stream in grpc.into_iter().chain(http) {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // The gRPC server greets; then comes the end, or a reset.
        let ended = stream.read_to_end(&mut Vec::new()).map_err(|e| e.kind());
        assert!(
            !matches!(ended, Err(ErrorKind::WouldBlock | ErrorKind::TimedOut)),
            "{ended:?}"
        );
    }
    let _agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
}

#[tokio::test]
async fn an_operator_gets_in_when_an_agent_has_no_descriptors_left() {
    let mut sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    // Each takes a connection and never answers, so the agent holds one descriptor for each.
    let port = ports::port();
    let bind = |n: u8| TcpListener::bind(std::net::SocketAddr::from(([127, 0, 1, n], port.number))).unwrap();
    let servers: Vec<_> = (1..=60).map(bind).collect();
    sandbox.limit_descriptors(48);
    let instances = servers.iter().map(|server| {
        let address = server.local_addr().unwrap();
        format!(
            "[[instances]]\naddress = \"{address}\"\nname = \"{}\"\n",
            address.ip()
        )
    });
    let text = format!(
        "[probe]\ninterval = \"100ms\"\nhang_after = \"60s\"\n{}",
        instances.collect::<String>()
    );
    let list = [format!("\"127.0.0.1:{}\"", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &list, &text).await;
    let page = || async { a.metric("redkeeper_instances{state=\"UNKNOWN\",reason=\"AGENT_FAULT\"}") };
    eventually("some cannot be probed", page, |n| n.is_some_and(|n| n >= 10.0)).await;
    for path in ["/livez", "/metrics", "/debug/tasks"] {
        assert!(daemons::http_get(agent.admin.number, path).is_ok(), "{path}");
    }
    assert_eq!(a.metric("redkeeper_instances{state=\"DOWN\""), None);
}
