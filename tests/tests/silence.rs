//! Silence of one connection is not the death of a server; and a server that does hang is left in peace.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector},
    eventually, holds_for,
    ports::{Port, port},
    servers::Flavour,
};

const UP: &str = "UP/OK";

/// An agent that probes one port every 50 ms, and calls it hung after half a second.
async fn agent(sandbox: &Sandbox, port: u16) -> (Collector, Agent, String) {
    let a = sandbox.collector("a", None).await;
    let text = format!(
        "[probe]\ninterval = '50ms'\nhang_after = '500ms'\nconnect_timeout = '200ms'\ninfo_interval = '500ms'\n\
         [[instances]]\naddress = '127.0.0.1:{port}'\n"
    );
    let agent = sandbox
        .agent_with("db01", &[format!("'127.0.0.1:{}'", a.grpc.number)], &text)
        .await;
    (a, agent, format!("db01:{port}"))
}

/// Asks on a connection of its own, which stays open.
fn say(stream: &mut TcpStream, line: &str) -> String {
    stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
    let mut answer = vec![0; 4_096];
    let length = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn a_child_that_holds_the_socket_of_a_killed_client_is_no_death() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let mut own = TcpStream::connect(("127.0.0.1", redis.port.number)).unwrap();
    own.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (a, agent, id) = agent(&sandbox, redis.port.number).await;
    eventually("UP", || a.state(&id), |s| s == UP).await;
    // A save that takes long: its child inherits the agent's connection, which is then closed by the parent only.
    for line in [
        "SET a 1",
        "SET b 1",
        "CONFIG SET rdb-key-save-delay 10000000",
        "BGSAVE",
    ] {
        assert!(say(&mut own, line).starts_with('+'), "{line}");
    }
    assert!(say(&mut own, "CLIENT KILL TYPE normal SKIPME yes").starts_with(":"));
    holds_for("UP", Duration::from_secs(2), || a.state(&id), |s| s == UP).await;
    let mute = || async { agent.metric("redkeeper_mute_connections_total") };
    eventually("the mute connection was replaced", mute, |n| {
        n.is_some_and(|n| n >= 1.0)
    })
    .await;
    assert!(
        agent
            .process
            .log()
            .contains("while a new one was answered, and was replaced")
    );
    // The child ends with its parent's word.
    assert!(say(&mut own, "CONFIG SET rdb-key-save-delay 0").starts_with('+'));
    say(&mut own, "SHUTDOWN NOSAVE");
}

/// A relay in front of a server. While it is told to, it takes what comes on old connections and forwards nothing;
/// it serves new ones.
fn relay(to: u16) -> (Port, Arc<AtomicBool>) {
    let (front, mute) = (port(), Arc::new(AtomicBool::new(false)));
    let listener = TcpListener::bind(("127.0.0.1", front.number)).unwrap();
    let muted = Arc::clone(&mute);
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (Ok(mut client), Ok(mut server)) = (client, TcpStream::connect(("127.0.0.1", to))) else {
                return;
            };
            let (mut to_client, mut from_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client).ok());
            let (muted, old) = (Arc::clone(&muted), !muted.load(Ordering::SeqCst));
            std::thread::spawn(move || {
                let mut bytes = [0; 4_096];
                while let Ok(length @ 1..) = client.read(&mut bytes) {
                    let forgotten = old && muted.load(Ordering::SeqCst);
                    if !forgotten && server.write_all(&bytes[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (front, mute)
}

#[tokio::test]
async fn a_relay_that_forgets_old_connections_is_no_death() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let (front, mute) = relay(redis.port.number);
    let (a, agent, id) = agent(&sandbox, front.number).await;
    eventually("UP", || a.state(&id), |s| s == UP).await;
    mute.store(true, Ordering::SeqCst);
    let replaced = || async { agent.metric("redkeeper_mute_connections_total") };
    let once = |n: &Option<f64>| *n == Some(1.0);
    let watched = async {
        holds_for("UP", Duration::from_millis(1_500), || a.state(&id), |s| s == UP).await;
    };
    tokio::join!(watched, async { eventually("replaced", replaced, once).await });
    // The server behind it hangs: both connections are silent.
    redis.process.signal(Signal::SIGSTOP);
    eventually("DOWN", || a.state(&id), |s| s == "DOWN/REPLY_TIMEOUT").await;
    let instance = a.instance(&id).await.unwrap();
    let evidence = instance.verdict.unwrap().evidence;
    assert!(evidence.contains("a second connection"), "{evidence}");
    redis.process.signal(Signal::SIGCONT);
    eventually("UP again", || a.state(&id), |s| s == UP).await;
}

#[tokio::test]
async fn a_stopped_server_with_a_short_queue_stays_one_outage() {
    let sandbox = Sandbox::new();
    let redis = sandbox.server(Flavour::Redis70, &["--tcp-backlog", "5"]);
    let (a, _agent, id) = agent(&sandbox, redis.port.number).await;
    eventually("UP", || a.state(&id), |s| s == UP).await;
    redis.process.signal(Signal::SIGSTOP);
    eventually("DOWN", || a.state(&id), |s| s == "DOWN/REPLY_TIMEOUT").await;
    let first = a.instance(&id).await.unwrap().verdict.unwrap();
    assert!(first.evidence.contains("stopped (state T)"), "{}", first.evidence);
    // Twelve times `hang_after`: a new connection for each or every other would fill the queue of 5.
    let verdict = || async { a.instance(&id).await.and_then(|instance| instance.verdict) };
    let same = |now: &Option<redkeeper_proto::v1::Verdict>| {
        now.as_ref().is_some_and(|now| {
            (now.reason, &now.since_time, &now.evidence) == (first.reason, &first.since_time, &first.evidence)
        })
    };
    holds_for("one outage", Duration::from_secs(6), verdict, same).await;
    // A client still gets into the queue.
    assert!(
        TcpStream::connect_timeout(
            &([127, 0, 0, 1], redis.port.number).into(),
            Duration::from_millis(500)
        )
        .is_ok()
    );
    redis.process.signal(Signal::SIGCONT);
    eventually("UP again", || a.state(&id), |s| s == UP).await;
}
