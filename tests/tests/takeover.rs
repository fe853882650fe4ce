//! Take-over on evidence: a leader whose process has ended is followed at once, one that is only cut off is not, and one
//! that is wrongly taken for dead does no harm.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox, check,
    daemons::{Agent, Collector},
    eventually, holds_for,
    proxy::{Entry, Flow, Proxy},
    servers::{Redis, ZooKeeper},
    txnlog,
};
use zookeeper_client::Client;

/// The longest that ZooKeeper grants here. Who leads long before it can expire leads by evidence.
const SESSION: &str = "10s";
const BEFORE_EXPIRY: Duration = Duration::from_secs(7);

/// Collectors `a`, which leads and is reached by the others through a proxy, and `b`; one agent with one Redis.
struct Rig {
    zookeeper: ZooKeeper,
    reader: Client,
    redis: Redis,
    a: Collector,
    b: Collector,
    _agent: Agent,
    to_a: Proxy,
    id: String,
}

fn text(zookeeper: &ZooKeeper, session: &str, more: &str) -> String {
    format!(
        "heartbeat_interval = '200ms'\nsilent_after = '1s'\n{more}\n[zookeeper]\nservers = '127.0.0.1:{}'\n\
         session_timeout = '{session}'\n",
        zookeeper.port.number
    )
}

/// The leader, and its epoch, once it is live.
async fn leader(rig: &Rig) -> Option<(String, u64)> {
    let publisher = rig.zookeeper.json(&rig.reader, "/redkeeper/publisher").await?;
    (publisher["phase"] == "live").then_some(())?;
    Some((
        publisher["holder"].as_str()?.to_owned(),
        publisher["epoch"].as_u64()?,
    ))
}

fn is(name: &str, epoch: u64) -> impl Fn(&Option<(String, u64)>) -> bool {
    let wanted = Some((name.to_owned(), epoch));
    move |found| *found == wanted
}

impl Rig {
    async fn new(sandbox: &Sandbox, session: &str) -> Self {
        let zookeeper = sandbox.zookeeper().await;
        let (redis, reader) = (sandbox.redis().await, zookeeper.client().await);
        let to_a = Proxy::start();
        let advertise = format!("advertise = '127.0.0.1:{}'", to_a.port.number);
        let a = sandbox
            .collector_with("a", &text(&zookeeper, session, &advertise))
            .await;
        to_a.lead_to(a.grpc.number);
        a.leads().await;
        let b = sandbox.collector_with("b", &text(&zookeeper, session, "")).await;
        let agent = sandbox.agent("db01", &[redis.port.number], &[&a, &b]).await;
        let id = format!("db01:{}", redis.port.number);
        let rig = Self {
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
        }
        rig.b.links(1).await;
        rig
    }

    /// Kills Redis, which the present leader must publish.
    async fn publishes(&mut self) {
        self.redis.process.kill();
        let state = || self.zookeeper.state(&self.reader, &self.id);
        eventually("DOWN", state, |s| s == "DOWN/CONNECTION_REFUSED").await;
    }

    /// I1, I2: whoever wrote held the epoch, and nothing older follows.
    fn judge(&self) {
        let (txns, none) = (txnlog::read(&self.zookeeper.data), BTreeSet::new());
        assert_eq!(check::sole_writer(&txns, &none), Ok(()));
        assert_eq!(check::no_stale_overwrite(&txns, &none), Ok(()));
    }
}

#[tokio::test]
async fn a_killed_leader_is_followed_long_before_its_session_expires() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox, SESSION).await;
    let status = rig.zookeeper.status(&rig.reader, &rig.id).await;
    let start = Instant::now();
    rig.a.process.kill();
    rig.to_a.reset_and_refuse();
    eventually("b leads", || leader(&rig), is("b", 2)).await;
    let took = start.elapsed();
    assert!(took < BEFORE_EXPIRY, "took {took:?}");
    assert_eq!(
        rig.zookeeper.status(&rig.reader, &rig.id).await,
        status,
        "neutral"
    );
    rig.publishes().await;
    rig.judge();
}

/// The path to the leader resets and refuses while the leader lives, and is connected with ZooKeeper and its agent.
#[tokio::test]
async fn a_leader_that_is_wrongly_taken_for_dead_is_fenced_and_nothing_is_lost() {
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox, SESSION).await;
    let status = rig.zookeeper.status(&rig.reader, &rig.id).await;
    rig.to_a.reset_and_refuse();
    let start = Instant::now();
    eventually("b leads", || leader(&rig), is("b", 2)).await;
    assert!(start.elapsed() < BEFORE_EXPIRY);
    let follows = || async { rig.a.metric("redkeeper_leader") };
    eventually("a no longer leads", follows, |n| *n == Some(0.0)).await;
    let neutral = || rig.zookeeper.status(&rig.reader, &rig.id);
    holds_for("neutral", Duration::from_secs(2), neutral, |now| *now == status).await;
    rig.publishes().await;
    assert!(is("b", 2)(&leader(&rig).await), "and no further term");
    rig.judge();
}

/// A stopped process, and a path on which nothing passes: neither proves anything, so the session decides.
#[tokio::test]
async fn a_leader_that_is_stopped_or_cut_off_is_no_proof() {
    let sandbox = Sandbox::new();
    let rig = Rig::new(&sandbox, SESSION).await;
    rig.to_a.set(|faults| {
        (faults.forth, faults.back, faults.entry) = (Flow::Hold, Flow::Hold, Entry::Mute);
    });
    let silent = || async { rig.b.metric("redkeeper_warnings{code=\"COLLECTOR_SILENT\"}") };
    eventually("a is silent for b", silent, |n| *n == Some(1.0)).await;
    let leads = || leader(&rig);
    holds_for("a leads", Duration::from_secs(3), leads, is("a", 1)).await;
    rig.to_a.heal();
    rig.b.links(1).await;
    assert!(is("a", 1)(&leader(&rig).await));

    rig.a.process.signal(Signal::SIGSTOP);
    eventually("a is silent for b again", silent, |n| *n == Some(1.0)).await;
    assert!(is("a", 1)(&leader(&rig).await), "the session has not expired");
    rig.a.process.signal(Signal::SIGCONT);
    rig.b.links(1).await;
    assert!(is("a", 1)(&leader(&rig).await));
    rig.judge();
}
