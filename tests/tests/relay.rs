//! Relaying: an agent that the leader does not hear is heard by way of another collector.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector},
    eventually, history, holds_for,
    proxy::{Entry, Flow, Proxy},
    servers::{Redis, ZooKeeper},
    txnlog,
};
use zookeeper_client::Client;

/// Leader `a`, which the agent reaches through a proxy, follower `b`, and one agent with one Redis.
struct Rig<'a> {
    sandbox: &'a Sandbox,
    zookeeper: ZooKeeper,
    reader: Client,
    redis: Redis,
    a: Collector,
    b: Collector,
    _agent: Agent,
    to_a: Proxy,
    id: String,
}

impl<'a> Rig<'a> {
    async fn new(sandbox: &'a Sandbox) -> Self {
        let zookeeper = sandbox.zookeeper().await;
        let (redis, reader) = (sandbox.redis().await, zookeeper.client().await);
        // Both have a `silent_after` of 1 s and a heartbeat each 200 ms.
        let a = sandbox.collector("a", Some(&zookeeper)).await;
        a.leads().await;
        let b = sandbox.collector("b", Some(&zookeeper)).await;
        let to_a = Proxy::start();
        to_a.lead_to(a.grpc.number);
        let collectors = [to_a.port.number, b.grpc.number];
        let hundredth = Duration::from_millis(100);
        let agent = sandbox
            .agent_every(hundredth, "db01", &[redis.port.number], &collectors)
            .await;
        let id = format!("db01:{}", redis.port.number);
        let rig = Self {
            sandbox,
            zookeeper,
            reader,
            redis,
            a,
            b,
            _agent: agent,
            to_a,
            id,
        };
        for collector in [&rig.a, &rig.b] {
            eventually("UP", || collector.state(&rig.id), |s| s == "UP/OK").await;
            collector.links(1).await;
        }
        eventually("published", || rig.published(), |s| s == "UP/OK").await;
        rig
    }

    async fn published(&self) -> String {
        self.zookeeper.state(&self.reader, &self.id).await
    }

    /// By which path `a` hears the agent, as the command shows it.
    fn path(&self) -> String {
        let mut command = self.sandbox.command("redkeeper");
        let endpoint = format!("127.0.0.1:{}", self.a.grpc.number);
        let output = command.args(["--endpoints", &endpoint, "get", &self.id]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        let path = text.lines().find_map(|line| line.split_once(", heard "));
        path.map_or_else(|| text.clone(), |(_, path)| path.to_owned())
    }

    fn relayed(&self, direction: &str, collector: &Collector) -> f64 {
        let name = format!("redkeeper_relayed_messages_total{{direction=\"{direction}\"}}");
        collector.metric(&name).unwrap_or(0.0)
    }

    fn status_writes(&self) -> usize {
        let txns = txnlog::read(&self.zookeeper.data);
        history::status_writes(&txns).count()
    }

    async fn until_path(&self, path: &str) {
        eventually(path, || async { self.path() }, |now| now == path).await;
    }
}

#[tokio::test]
async fn an_agent_that_is_cut_from_the_leader_alone_causes_no_write() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox).await;
    assert_eq!(rig.path(), "direct");
    let sent = [&rig.a, &rig.b].map(|collector| rig.relayed("sent", collector));
    assert_eq!(sent, [0.0, 0.0], "everybody hears everybody");
    let before = rig.status_writes();
    // Nothing passes, and nobody is told; then connections are refused; then they lead nowhere.
    type Fault = fn(&mut redkeeper_tests::proxy::Faults);
    let faults: [Fault; 3] = [
        |faults| (faults.forth, faults.back, faults.entry) = (Flow::Hold, Flow::Hold, Entry::Mute),
        |faults| (faults.entry, faults.resets) = (Entry::Refuse, faults.resets + 1),
        |faults| (faults.entry, faults.resets) = (Entry::Mute, faults.resets + 1),
    ];
    for fault in faults {
        rig.to_a.set(fault);
        rig.until_path("via b").await;
        let up = || rig.a.state(&rig.id);
        holds_for("UP at the leader", Duration::from_secs(4), up, |s| s == "UP/OK").await;
        rig.to_a.heal();
        rig.until_path("direct").await;
    }
    assert_eq!(rig.status_writes(), before);
    assert!(rig.relayed("received", &rig.a) > 10.0);
    assert_eq!(rig.relayed("sent", &rig.a), 0.0);

    // What the relayed agent sees is published as always.
    rig.to_a.reset_and_refuse();
    rig.until_path("via b").await;
    rig.redis.process.kill();
    eventually("DOWN", || rig.published(), |s| s == "DOWN/CONNECTION_REFUSED").await;
    rig.sandbox.restart(&mut rig.redis).await;
    eventually("UP", || rig.published(), |s| s == "UP/OK").await;
}

#[tokio::test]
async fn an_agent_that_dies_while_it_is_relayed_is_silent_and_not_down() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox).await;
    rig.to_a.reset_and_refuse();
    rig.until_path("via b").await;
    rig._agent.process.kill();
    eventually("silent", || rig.published(), |s| s == "UNKNOWN/AGENT_SILENT").await;
}
