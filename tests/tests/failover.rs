//! Leaders and ZooKeeper that die, stop and come back.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    check::{self, Deaf, Silence},
    daemons::{Agent, Collector},
    eventually,
    history::Txn,
    holds_for,
    servers::{Redis, ZooKeeper},
    txnlog,
};
use zookeeper_client::Client;

const UP: &str = "UP/OK";

struct Rig {
    zookeeper: ZooKeeper,
    redis: Redis,
    a: Collector,
    b: Collector,
    _agent: Agent,
    reader: Client,
    id: String,
}

async fn rig(sandbox: &Sandbox) -> Rig {
    let zookeeper = sandbox.zookeeper().await;
    let redis = sandbox.redis().await;
    let a = sandbox.collector("a", Some(&zookeeper)).await;
    let reader = zookeeper.client().await;
    eventually(
        "a leads",
        || leader(&zookeeper, &reader),
        |l| l.as_ref().is_some_and(|(l, _)| l == "a"),
    )
    .await;
    let b = sandbox.collector("b", Some(&zookeeper)).await;
    let agent = sandbox.agent("db01", &[redis.port.number], &[&a, &b]).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || zookeeper.state(&reader, &id), |s| s == UP).await;
    eventually("UP at b", || b.state(&id), |s| s == UP).await;
    Rig {
        zookeeper,
        redis,
        a,
        b,
        _agent: agent,
        reader,
        id,
    }
}

/// Who leads, live, and in which epoch.
async fn leader(zookeeper: &ZooKeeper, reader: &Client) -> Option<(String, u64)> {
    let publisher = zookeeper.json(reader, "/redkeeper/publisher").await?;
    (publisher["phase"] == "live").then_some(())?;
    Some((
        publisher["holder"].as_str()?.to_owned(),
        publisher["epoch"].as_u64()?,
    ))
}

/// I1, I2, I6: whoever wrote, held the epoch, nothing older follows, and no agent was called silent: each could be
/// heard by all collectors at all times.
fn judge(txns: &[Txn]) {
    let none = BTreeSet::new();
    let silence = Silence {
        after: 1_000,
        heartbeat: 200,
        lag: 500,
    };
    assert_eq!(check::silence_is_real(txns, &Deaf::new(), &none, silence), Ok(()));
    assert_eq!(check::sole_writer(txns, &BTreeSet::new()), Ok(()));
    assert_eq!(check::no_stale_overwrite(txns, &BTreeSet::new()), Ok(()));
}

fn is(name: &str, epoch: u64) -> impl Fn(&Option<(String, u64)>) -> bool {
    let wanted = Some((name.to_owned(), epoch));
    move |found| *found == wanted
}

#[tokio::test]
async fn a_killed_leader_is_followed_without_any_status_changing() {
    let sandbox = Sandbox::new();
    let mut rig = rig(&sandbox).await;
    let status = rig.zookeeper.status(&rig.reader, &rig.id).await;
    rig.a.process.kill();
    eventually("b leads", || leader(&rig.zookeeper, &rig.reader), is("b", 2)).await;
    holds_for(
        "neutral",
        Duration::from_secs(2),
        || rig.zookeeper.status(&rig.reader, &rig.id),
        |now| *now == status,
    )
    .await;
    // And the new one publishes.
    let killed = check::wall_clock();
    rig.redis.process.kill();
    eventually(
        "DOWN",
        || rig.zookeeper.state(&rig.reader, &rig.id),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
    let txns = txnlog::read(&rig.zookeeper.data);
    judge(&txns);
    let truth = [(rig.id.clone(), vec![(killed, "DOWN".to_owned())])].into();
    let time = killed..killed + 2_000;
    assert_eq!(check::published_in_time(&txns, &truth, &time, 2_000), Ok(1));
}

#[tokio::test]
async fn a_stopped_leader_hands_over_at_once() {
    let sandbox = Sandbox::new();
    let mut rig = rig(&sandbox).await;
    let start = Instant::now();
    rig.a.process.signal(Signal::SIGTERM);
    eventually("b leads", || leader(&rig.zookeeper, &rig.reader), is("b", 2)).await;
    let took = start.elapsed();
    // The session would take 2 s to expire: only a hand-over is faster.
    assert!(took < Duration::from_millis(1_500), "took {took:?}");
    assert!(rig.a.process.ends_within(Duration::from_secs(10)).success());
    assert_eq!(rig.zookeeper.state(&rig.reader, &rig.id).await, UP);
}

#[tokio::test]
async fn a_leader_that_slept_beyond_its_session_writes_nothing_more() {
    let sandbox = Sandbox::new();
    let mut rig = rig(&sandbox).await;
    rig.a.process.signal(Signal::SIGSTOP);
    eventually("b leads", || leader(&rig.zookeeper, &rig.reader), is("b", 2)).await;
    rig.redis.process.kill();
    eventually(
        "DOWN by b",
        || rig.zookeeper.state(&rig.reader, &rig.id),
        |s| s.starts_with("DOWN"),
    )
    .await;
    rig.a.process.signal(Signal::SIGCONT);
    // It notices, gets a new session, and learns who leads.
    let sees = || async {
        let mut client = rig.a.client().await;
        let answer = client
            .get_cluster_status(redkeeper_proto::v1::GetClusterStatusRequest {})
            .await
            .ok()?
            .into_inner();
        Some((answer.header?.leader, answer.store?.phase))
    };
    let followed = Some(("b".to_owned(), "follower".to_owned()));
    eventually("a follows b", sees, |seen| *seen == followed).await;
    sandbox.restart(&mut rig.redis).await;
    eventually(
        "UP by b",
        || rig.zookeeper.state(&rig.reader, &rig.id),
        |s| s == UP,
    )
    .await;
    let txns = txnlog::read(&rig.zookeeper.data);
    judge(&txns);
    assert_eq!(
        leader(&rig.zookeeper, &rig.reader).await,
        Some(("b".to_owned(), 2))
    );
}

#[tokio::test]
async fn a_zookeeper_restart_loses_nothing() {
    let sandbox = Sandbox::new();
    let mut rig = rig(&sandbox).await;
    sandbox.restart_zookeeper(&mut rig.zookeeper).await;
    rig.redis.process.kill();
    let reader = rig.zookeeper.client().await;
    eventually(
        "DOWN",
        || rig.zookeeper.state(&reader, &rig.id),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
    sandbox.restart(&mut rig.redis).await;
    eventually("UP", || rig.zookeeper.state(&reader, &rig.id), |s| s == UP).await;
}

#[tokio::test]
async fn what_happens_while_zookeeper_is_away_is_there_after_its_return() {
    let sandbox = Sandbox::new();
    let mut rig = rig(&sandbox).await;
    rig.zookeeper.process.kill();
    rig.redis.process.kill();
    eventually(
        "true over gRPC",
        || rig.b.state(&rig.id),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
    // Away for 30 s, far beyond every session.
    let (a, b, id) = (&rig.a, &rig.b, &rig.id);
    let both = || async { (a.state(id).await, b.state(id).await) };
    let down = |(a, b): &(String, String)| a == "DOWN/CONNECTION_REFUSED" && a == b;
    eventually("both know", both, down).await;
    holds_for("true meanwhile", Duration::from_secs(30), both, down).await;
    sandbox.restart_zookeeper(&mut rig.zookeeper).await;
    let reader = rig.zookeeper.client().await;
    eventually(
        "DOWN is there",
        || rig.zookeeper.state(&reader, &rig.id),
        |s| s == "DOWN/CONNECTION_REFUSED",
    )
    .await;
}
