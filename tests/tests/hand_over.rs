//! Handing leadership over on request: to the next in line, or to a certain collector.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, time::Duration};

use redkeeper_tests::{
    Sandbox, check,
    daemons::{Agent, Collector},
    eventually, history, holds_for,
    servers::{Redis, ZooKeeper},
    txnlog,
};
use zookeeper_client::Client;

/// Collectors `a`, which leads, `b` and `c`; one agent with one Redis.
struct Rig<'a> {
    sandbox: &'a Sandbox,
    zookeeper: ZooKeeper,
    reader: Client,
    redis: Redis,
    collectors: Vec<Collector>,
    _agent: Agent,
    id: String,
}

impl<'a> Rig<'a> {
    async fn new(sandbox: &'a Sandbox) -> Self {
        let zookeeper = sandbox.zookeeper().await;
        let (redis, reader) = (sandbox.redis().await, zookeeper.client().await);
        let mut collectors = Vec::new();
        for id in ["a", "b", "c"] {
            let collector = sandbox.collector(id, Some(&zookeeper)).await;
            if id == "a" {
                collector.leads().await;
            }
            collectors.push(collector);
        }
        let all: Vec<_> = collectors.iter().collect();
        let agent = sandbox.agent("db01", &[redis.port.number], &all).await;
        let id = format!("db01:{}", redis.port.number);
        let rig = Self {
            sandbox,
            zookeeper,
            reader,
            redis,
            collectors,
            _agent: agent,
            id,
        };
        for collector in &rig.collectors {
            eventually("UP", || collector.state(&rig.id), |s| s == "UP/OK").await;
            collector.links(2).await;
        }
        eventually("published", || rig.published(), |s| s == "UP/OK").await;
        rig
    }

    async fn published(&self) -> String {
        self.zookeeper.state(&self.reader, &self.id).await
    }

    /// Runs `redkeeper leader step-down` with these arguments, and returns its exit code and what it says.
    fn step_down(&self, asked: usize, arguments: &[&str]) -> (Option<i32>, String) {
        let mut command = self.sandbox.command("redkeeper");
        let endpoint = format!("127.0.0.1:{}", self.collectors[asked].grpc.number);
        command.args(["--endpoints", &endpoint, "leader", "step-down"]);
        let output = command.args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.code(), text.concat())
    }

    fn sessions(&self) -> Vec<Option<f64>> {
        let sessions = |c: &Collector| c.metric("redkeeper_zookeeper_sessions_total");
        self.collectors.iter().map(sessions).collect()
    }

    async fn candidates(&self) -> usize {
        let candidates = self.reader.list_children("/redkeeper/election").await;
        candidates.map_or(0, |candidates| candidates.len())
    }

    /// The publisher's phase and holder.
    async fn publisher(&self) -> String {
        let json = self.zookeeper.json(&self.reader, "/redkeeper/publisher").await;
        let json = json.unwrap_or_default();
        format!("{} {}", json["phase"], json["holder"]).replace('"', "")
    }
}

#[tokio::test]
async fn leadership_goes_to_whom_it_is_handed_and_nothing_is_lost() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox).await;
    let status = rig.zookeeper.status(&rig.reader, &rig.id).await;
    // A follower is asked, and `b` stands before `c` in the line.
    let told = rig.step_down(1, &["--to", "c"]);
    let expected = "c leads (term 2); a has stepped down (term 1)\n".to_owned();
    assert_eq!(told, (Some(0), expected));
    eventually("c is live", || rig.publisher(), |s| s == "live c").await;
    // The others stand in line again, in the sessions that they had.
    eventually("three candidates", || rig.candidates(), |n| *n == 3).await;
    let (code, told) = rig.step_down(0, &[]);
    assert_eq!(code, Some(0), "{told}");
    assert!(
        told.ends_with(" leads (term 3); c has stepped down (term 2)\n"),
        "{told}"
    );
    assert_eq!(rig.sessions(), [Some(1.0); 3]);
    assert_eq!(
        rig.zookeeper.status(&rig.reader, &rig.id).await,
        status,
        "neutral"
    );
    rig.redis.process.kill();
    eventually("DOWN", || rig.published(), |s| s == "DOWN/CONNECTION_REFUSED").await;
    let (txns, none) = (txnlog::read(&rig.zookeeper.data), BTreeSet::new());
    assert_eq!(check::sole_writer(&txns, &none), Ok(()));
    assert_eq!(check::no_stale_overwrite(&txns, &none), Ok(()));
    assert_eq!(history::status_writes(&txns).count(), 2, "UP and DOWN");
}

#[tokio::test]
async fn who_cannot_lead_is_refused_and_the_leader_goes_on() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox).await;
    for (to, why) in [
        ("nobody", "no collector \"nobody\" is known"),
        ("no id", "no collector \"no id\" is known"),
        ("a", "that collector leads already"),
    ] {
        let (code, told) = rig.step_down(2, &["--to", to]);
        assert!(code == Some(1) && told.contains(why), "{to}: {code:?} {told}");
    }
    for collector in &mut rig.collectors[1..] {
        collector.process.signal(nix::sys::signal::Signal::SIGTERM);
    }
    eventually("a is alone", || rig.candidates(), |n| *n == 1).await;
    let (code, told) = rig.step_down(0, &[]);
    assert!(
        code == Some(1) && told.contains("no other collector is a candidate"),
        "{code:?} {told}"
    );
    let leads = || rig.publisher();
    holds_for("a leads", Duration::from_secs(1), leads, |s| s == "live a").await;
}
