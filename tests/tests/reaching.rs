//! Ways to an instance: IPv6, a name, a Unix socket. What is seen of its death and its hang is the same on each.
#![allow(clippy::unwrap_used)]

use std::{io::Write, net::TcpStream};

use nix::sys::signal::Signal;
use redkeeper_proto::v1::{self, ListTransitionsRequest};
use redkeeper_tests::{Sandbox, eventually, servers::Flavour};

#[tokio::test]
async fn each_way_shows_life_hang_and_death() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let path = sandbox.path("redis.sock").display().to_string();
    let mut redis = sandbox.server(
        Flavour::Redis70,
        &["--bind", "127.0.0.1", "-::1", "--unixsocket", &path],
    );
    let port = redis.port.number;
    let ways = [
        ("v6", format!("[::1]:{port}")),
        ("name", format!("localhost:{port}")),
        ("socket", path),
    ];
    let mut text =
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\nsuccesses_before_up = 3\nfailures_before_down = 2\n"
            .to_owned();
    for (name, address) in &ways {
        text.push_str(&format!(
            "[[instances]]\nname = '{name}'\naddress = '{address}'\n"
        ));
    }
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let _agent = sandbox.agent_with("db01", &collectors, &text).await;
    let all = async |what: &str, good: &dyn Fn(&str, &String) -> bool| {
        for (name, _) in &ways {
            eventually(&format!("{what} by {name}"), || a.state(name), |s| good(name, s)).await;
        }
    };
    all("UP", &|_, s| s == "UP/OK").await;
    redis.process.signal(Signal::SIGSTOP);
    all("hung", &|_, s| s == "DOWN/REPLY_TIMEOUT").await;
    for (name, _) in &ways {
        let verdict = a.instance(name).await.unwrap().verdict.unwrap();
        assert!(
            verdict.evidence.contains("stopped (state T)"),
            "{name}: {}",
            verdict.evidence
        );
    }
    redis.process.signal(Signal::SIGCONT);
    all("UP again", &|_, s| s == "UP/OK").await;
    redis.process.kill();
    all("dead", &|name, s| {
        // The path of the socket stays behind.
        s == "DOWN/CONNECTION_REFUSED" || (name == "socket" && s == "DOWN/SOCKET_MISSING")
    })
    .await;
}

/// Changes that are not health are transitions all the same.
#[tokio::test]
async fn role_master_and_run_id_are_recorded_and_sent() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let master = sandbox.redis().await;
    let mut redis = sandbox.redis().await;
    let _agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
    let verdict = || async { a.instance(&id).await.and_then(|i| i.verdict).unwrap_or_default() };
    let address = format!("127.0.0.1:{}", master.port.number);
    redis
        .ask(&format!("REPLICAOF 127.0.0.1 {}", master.port.number))
        .unwrap();
    let follows = |v: &v1::Verdict| v.master_address == address && v.reason() == v1::Reason::Ok;
    let seen = eventually("a replica", verdict, follows).await;
    assert_eq!((seen.role(), seen.writes()), (v1::Role::Replica, v1::Ability::No));
    assert!(seen.server_version.starts_with("7.0."), "{}", seen.server_version);
    redis.ask("REPLICAOF NO ONE").unwrap();
    eventually("a master again", verdict, |v| v.role() == v1::Role::Master).await;
    sandbox.restart(&mut redis).await;
    let run_id = redis.run_id();
    eventually("the new run_id", verdict, |v| v.run_id == run_id).await;

    let request = ListTransitionsRequest {
        instance_id: id.clone(),
        ..Default::default()
    };
    let answer = a
        .client()
        .await
        .list_transitions(request)
        .await
        .unwrap()
        .into_inner();
    let told: Vec<_> = answer
        .transitions
        .iter()
        .filter_map(|t| t.instance.clone()?.verdict)
        .map(|v| (v.role(), v.master_address, v.run_id))
        .collect();
    let has = |good: &dyn Fn(&(v1::Role, String, String)) -> bool| told.iter().any(good);
    assert!(
        has(&|(role, master, _)| *role == v1::Role::Replica && *master == address),
        "{told:?}"
    );
    assert!(
        has(&|(role, master, _)| *role == v1::Role::Master && master.is_empty()),
        "{told:?}"
    );
    assert!(has(&|(_, _, id)| *id == run_id), "{told:?}");
}

/// Through the lasting connection, because a new one is refused.
#[tokio::test]
async fn a_full_server_is_seen_while_its_clients_are_served() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let redis = sandbox.redis().await;
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\nconnect_interval = '1s'\n[[instances]]\naddress = '127.0.0.1:{}'\n",
        redis.port.number
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
    let fresh = |result: &str| {
        agent.metric(&format!(
            "redkeeper_fresh_connections_total{{result=\"{result}\"}}"
        ))
    };
    eventually(
        "a fresh connection",
        || async { fresh("served") },
        |n| *n >= Some(1.0),
    )
    .await;
    // Two may be there: this one, and the agent's lasting one.
    let mut operator = TcpStream::connect(("127.0.0.1", redis.port.number)).unwrap();
    operator.write_all(b"CONFIG SET maxclients 2\r\n").unwrap();
    let full = |s: &String| {
        assert!(!s.starts_with("DOWN"), "{s}");
        s == "DEGRADED/MAX_CLIENTS"
    };
    eventually("full", || a.state(&id), full).await;
    assert!(fresh("refused") >= Some(1.0));
    let verdict = a.instance(&id).await.unwrap().verdict.unwrap();
    let unknown = (v1::Ability::Unknown, v1::Ability::Unknown);
    assert_eq!((verdict.reads(), verdict.writes()), unknown);
    operator.write_all(b"CONFIG SET maxclients 100\r\n").unwrap();
    eventually("room again", || a.state(&id), |s| s == "UP/OK").await;
}
