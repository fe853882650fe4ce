//! SIGHUP: what changed is changed, what did not keeps its connection, and a mistake changes nothing.
#![allow(clippy::unwrap_used)]

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

    // A mistake, a file that is gone, and one that drops too much: nothing changes.
    reload(&agent, "[[instances]]\naddress = 'nowhere'\n", "invalid").await;
    assert!(agent.process.log().contains("\"nowhere\" is no HOST:PORT"));
    reload(&agent, "instances = []\n", "refused").await;
    assert!(agent.process.log().contains("Send SIGHUP again within"));
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
