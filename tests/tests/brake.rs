//! The brake on absence: all agents are cut off from the collectors at once, as by a switch that dies.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector, http_get},
    eventually, history, holds_for,
    proxy::{Entry, Flow, Proxy},
    servers::{Redis, ZooKeeper},
    txnlog,
};
use zookeeper_client::Client;

/// Two collectors, and agents that reach them through two proxies.
struct Rig {
    zookeeper: ZooKeeper,
    reader: Client,
    redis: Redis,
    collectors: [Collector; 2],
    agents: Vec<Agent>,
    proxies: [Proxy; 2],
}

impl Rig {
    async fn new(sandbox: &Sandbox, agents: usize, brake: &str) -> Self {
        let (zookeeper, redis) = (sandbox.zookeeper().await, sandbox.redis().await);
        let reader = zookeeper.client().await;
        let text = format!(
            "heartbeat_interval = '200ms'\nsilent_after = '1s'\nfreshness_interval = '60s'\n\
             [zookeeper]\nservers = '127.0.0.1:{}'\nsession_timeout = '4s'\n[brake]\n{brake}\n",
            zookeeper.port.number
        );
        let a = sandbox.collector_with("a", &text).await;
        a.leads().await;
        let b = sandbox.collector_with("b", &text).await;
        let proxies = [Proxy::start(), Proxy::start()];
        proxies[0].lead_to(a.grpc.number);
        proxies[1].lead_to(b.grpc.number);
        let mut rig = Self {
            zookeeper,
            reader,
            redis,
            collectors: [a, b],
            agents: Vec::new(),
            proxies,
        };
        let ports = rig.proxies.each_ref().map(|proxy| proxy.port.number);
        for n in 0..agents {
            let (name, interval) = (format!("db{n}"), Duration::from_millis(100));
            let instances = [rig.redis.port.number];
            let agent = sandbox.agent_every(interval, &name, &instances, &ports).await;
            rig.agents.push(agent);
        }
        for n in 0..agents {
            eventually("published", || rig.published(n), |s| s == "UP/OK").await;
        }
        rig
    }

    async fn published(&self, n: usize) -> String {
        let id = format!("db{n}:{}", self.redis.port.number);
        self.zookeeper.state(&self.reader, &id).await
    }

    async fn phase(&self) -> String {
        let publisher = self.zookeeper.json(&self.reader, "/redkeeper/publisher").await;
        publisher.map_or_else(String::new, |json| json["phase"].as_str().unwrap().to_owned())
    }

    /// Writes of the whole fleet's state, and of statuses.
    fn writes(&self) -> (usize, usize) {
        let txns = txnlog::read(&self.zookeeper.data);
        let ops = txns.iter().flat_map(|txn| &txn.ops);
        let publisher = ops.filter(|op| op.path() == "/redkeeper/publisher");
        (publisher.count(), history::status_writes(&txns).count())
    }

    fn cut(&self) {
        for proxy in &self.proxies {
            proxy.set(|faults| {
                (faults.forth, faults.back, faults.entry) = (Flow::Hold, Flow::Hold, Entry::Mute);
            });
        }
    }
}

#[tokio::test]
async fn a_switch_that_dies_costs_one_write_and_no_status() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox, 4, "").await;
    eventually("live", || rig.phase(), |phase| phase == "live").await;
    let before = rig.writes();
    rig.cut();
    eventually("isolated", || rig.phase(), |phase| phase == "isolated").await;
    let up = || rig.published(0);
    holds_for("held", Duration::from_secs(8), up, |s| s == "UP/OK").await;
    let after = rig.writes();
    assert_eq!(after.1, before.1, "no status is written");
    assert_eq!(after.0, before.0 + 1, "and the phase once");
    // It is told wherever somebody looks.
    let a = &rig.collectors[0];
    assert_eq!(a.metric("redkeeper_agents_held"), Some(4.0));
    assert_eq!(a.metric("redkeeper_warnings{code=\"AGENTS_HELD\"}"), Some(1.0));
    let ready = http_get(a.http.number, "/readyz").unwrap();
    assert!(
        ready.contains("4 of 4 agents have been silent at once"),
        "{ready}"
    );
    let mut command = sandbox.command("redkeeper");
    let endpoint = format!("127.0.0.1:{}", a.grpc.number);
    let list = command.args(["--endpoints", &endpoint, "list"]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(list.contains("4 of 4 agents are silent at once"), "{list}");

    // A Redis dies behind the dead switch, and the switch comes back.
    rig.redis.process.kill();
    for proxy in &rig.proxies {
        proxy.heal();
    }
    for n in 0..4 {
        eventually(
            "true again",
            || rig.published(n),
            |s| s == "DOWN/CONNECTION_REFUSED",
        )
        .await;
    }
    eventually("live", || rig.phase(), |phase| phase == "live").await;
}

#[tokio::test]
async fn what_is_held_too_long_is_released_and_a_down_is_never_held() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox, 4, "hold = '3s'").await;
    // Three of four agents die; the last one sees a death.
    for agent in rig.agents.iter_mut().take(3) {
        agent.process.kill();
    }
    eventually("isolated", || rig.phase(), |phase| phase == "isolated").await;
    assert_eq!(rig.published(0).await, "UP/OK");
    rig.redis.process.kill();
    eventually("seen", || rig.published(3), |s| s == "DOWN/CONNECTION_REFUSED").await;
    for n in 0..3 {
        eventually("released", || rig.published(n), |s| s == "UNKNOWN/AGENT_SILENT").await;
    }
    eventually("live", || rig.phase(), |phase| phase == "live").await;
}

#[tokio::test]
async fn without_a_brake_every_silence_is_told_at_once() {
    let sandbox = Sandbox::new();
    let rig = Rig::new(&sandbox, 3, "min_agents = 0").await;
    rig.cut();
    for n in 0..3 {
        eventually("silent", || rig.published(n), |s| s == "UNKNOWN/AGENT_SILENT").await;
    }
    assert_eq!(rig.phase().await, "live");
}
