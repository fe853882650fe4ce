//! P10: what reaches ZooKeeper for 10,000 healthy instances, beside a daemon that writes each status every 10 s.

use std::time::Duration;

use redkeeper_tests::{Sandbox, eventually, history, txnlog};

use crate::{floors, report::Outcome, rig::runtime};

const AGENTS: usize = 20;
const EACH: usize = 500;
/// Of the daemon that redkeeper replaces.
const WRITES_EACH: f64 = 10.0;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let time = Duration::from_secs(if quick { 20 } else { 600 });
    let all = AGENTS * EACH;
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.durable_zookeeper().await;
    let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
    let collector = sandbox.collector_with("a", &store).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let words = [address, AGENTS.to_string(), EACH.to_string(), "1000".to_owned()];
    let _fleet = floors::start(&sandbox, "fleet", &words);
    // Every status is there, and nothing more is to be written.
    let statuses = || async { history::status_writes(&txnlog::read(&zookeeper.data)).count() };
    eventually("all are published", statuses, |n| *n >= all).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = (statuses().await, txnlog::read(&zookeeper.data).len());
    tokio::time::sleep(time).await;
    let after = (statuses().await, txnlog::read(&zookeeper.data).len());
    let up = collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}");
    if up != Some(all as f64) {
        return Err(format!("{up:?} of {all} instances were UP at the end"));
    }
    let mut outcome = Outcome::default();
    outcome.value(
        "writes_per_healthy_instance",
        Some((after.0 - before.0) as f64 / all as f64),
    );
    outcome.value("transactions_of_any_kind", Some((after.1 - before.1) as f64));
    outcome.value(
        "writes_of_a_daemon_per_instance",
        Some(time.as_secs_f64() / WRITES_EACH),
    );
    outcome.notes.push(format!(
        "counted in ZooKeeper's own transaction log over {} s",
        time.as_secs()
    ));
    Ok(outcome)
}
