//! Two of a kind that claim one id: who is alive keeps it, the other is told, shown, and gets it later.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector},
    eventually, holds_for,
};

const QUICK: &str = "standalone = true\nheartbeat_interval = '200ms'\nsilent_after = '1s'\n";

/// How often agents were refused because their id was in use.
fn refusals(collector: &Collector) -> f64 {
    let metric = collector.metric("redkeeper_agent_reports_total{result=\"id_in_use\"}");
    metric.unwrap_or(0.0)
}

fn refused(agent: &Agent, by: &Collector) -> bool {
    let address = format!("127.0.0.1:{}", by.grpc.number);
    agent.metric(&format!("redkeeper_uplink_refused{{collector=\"{address}\"}}")) == Some(1.0)
}

fn lines(log: &str, what: &str) -> usize {
    log.lines().filter(|line| line.contains(what)).count()
}

/// Standard output of `redkeeper agents`.
fn agents(sandbox: &Sandbox, collector: &Collector) -> String {
    let mut command = sandbox.command("redkeeper");
    let endpoint = format!("127.0.0.1:{}", collector.grpc.number);
    let output = command
        .args(["--endpoints", &endpoint, "agents"])
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An agent of this id that is alone in a folder of its own, so that another one can have the id too.
async fn agent(collector: &Collector, port: u16) -> (Sandbox, Agent) {
    let sandbox = Sandbox::new();
    let agent = sandbox.agent("db01", &[port], &[collector]).await;
    (sandbox, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_agent_of_an_id_waits_until_the_first_is_gone() {
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", QUICK).await;
    let (one, two) = (sandbox.redis().await, sandbox.redis().await);
    let ids = [&one, &two].map(|redis| format!("db01:{}", redis.port.number));
    let up = |id: &str| {
        let (id, collector) = (id.to_owned(), &collector);
        let up = |state: &String| state == "UP/OK";
        async move { eventually("its agent is heard", || collector.state(&id), up).await }
    };
    let (_first_folder, mut first) = agent(&collector, one.port.number).await;
    up(&ids[0]).await;
    let begun = std::time::Instant::now();
    let (_second_folder, mut second) = agent(&collector, two.port.number).await;
    eventually(
        "it is refused",
        || async { refused(&second, &collector) },
        |refused| *refused,
    )
    .await;

    // It comes again, ever more seldom, and disturbs nobody.
    eventually("it tries again", || async { refusals(&collector) }, |n| *n >= 5.0).await;
    // Four delays of at least half of 100, 200, 400 and 800 ms.
    assert!(
        begun.elapsed() > Duration::from_millis(750),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(first.metric("redkeeper_uplink_reconnects_total"), Some(0.0));
    assert_eq!(collector.state(&ids[0]).await, "UP/OK");
    assert_eq!(collector.state(&ids[1]).await, "-");
    let told = "the agent id \"db01\" is in use by an agent on host";
    assert_eq!(lines(&second.process.log(), told), 1, "{}", second.process.log());
    assert_eq!(
        lines(&collector.process.log(), told),
        1,
        "{}",
        collector.process.log()
    );
    assert_eq!(lines(&collector.process.log(), "agent connected"), 1);
    let shown = agents(&sandbox, &collector);
    assert!(
        shown.contains("warning: another agent with the id db01")
            && shown.contains("(127.0.0.1), is refused"),
        "{shown}"
    );

    // The first one ends: the second gets in. It comes back: now it is the one that waits.
    first.process.kill();
    up(&ids[1]).await;
    assert!(!agents(&sandbox, &collector).contains("warning"));
    _first_folder.restart_agent(&mut first);
    eventually(
        "it is refused",
        || async { refused(&first, &collector) },
        |refused| *refused,
    )
    .await;
    second.process.kill();
    up(&ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_slept_while_another_took_its_id_gets_it_back() {
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", QUICK).await;
    let redis = sandbox.redis().await;
    let id = format!("db01:{}", redis.port.number);
    let up = || async {
        let up = |state: &String| state == "UP/OK";
        eventually("an agent is heard", || collector.state(&id), up).await
    };
    let (_first_folder, first) = agent(&collector, redis.port.number).await;
    up().await;
    let (_second_folder, mut second) = agent(&collector, redis.port.number).await;
    eventually(
        "it is refused",
        || async { refused(&second, &collector) },
        |refused| *refused,
    )
    .await;

    first.process.signal(Signal::SIGSTOP);
    let free = || async { refused(&second, &collector) };
    eventually("the second one is taken in", free, |refused| !*refused).await;
    up().await;
    first.process.signal(Signal::SIGCONT);
    eventually(
        "the first one is refused",
        || async { refused(&first, &collector) },
        |refused| *refused,
    )
    .await;
    let state = || collector.state(&id);
    holds_for("the second one reports", Duration::from_secs(1), state, |state| {
        state == "UP/OK"
    })
    .await;

    second.process.kill();
    eventually(
        "the first one is back",
        || async { refused(&first, &collector) },
        |refused| !*refused,
    )
    .await;
    up().await;
}
