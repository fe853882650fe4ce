//! What an agent says of a collector that goes away, and of addresses that are no collector: no term of a library.
#![allow(clippy::unwrap_used)]

use redkeeper_tests::{Sandbox, eventually, servers::Flavour};

#[tokio::test]
async fn an_agent_says_in_words_why_a_stream_ended() {
    let sandbox = Sandbox::new();
    let mut a = sandbox.collector("a", None).await;
    let redis = sandbox.server(Flavour::Redis70, &[]);
    let collectors = [a.grpc.number, a.http.number, redis.port.number, 1];
    let collectors = collectors.map(|port| format!("'127.0.0.1:{port}'"));
    let text = format!("[[instances]]\naddress = '127.0.0.1:{}'\n", redis.port.number);
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
    let log = || async { agent.process.log() };
    for words in [
        "speaks no gRPC",
        "cannot connect: connection refused: nothing listens there",
    ] {
        eventually(words, log, |log| log.contains(words)).await;
    }
    // Each says why once, and not at each attempt.
    a.process.kill();
    let closed = "stream ended: the other side closed the connection";
    eventually(closed, log, |log| log.contains(closed)).await;
    let lines = agent.process.log();
    let lines: Vec<_> = lines
        .lines()
        .filter(|line| line.contains("stream ended"))
        .collect();
    assert!(lines.len() < 8, "{lines:#?}");
    for line in lines {
        for term in [
            "h2",
            "http2",
            "transport",
            "FRAME",
            "body",
            "grpc-status",
            "os error",
        ] {
            assert!(!line.contains(term), "{line}");
        }
    }
}
