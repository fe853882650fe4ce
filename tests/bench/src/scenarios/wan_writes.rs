//! P10: what reaches ZooKeeper for 10,000 healthy instances, beside a daemon that writes each status every 10 s, in the
//! same windows.

use std::time::Duration;

use redkeeper_tests::{
    Sandbox, eventually,
    history::{self, Txn},
    txnlog,
};

use crate::{floors, report::Outcome, rig::runtime, stats::Samples};

const AGENTS: usize = 20;
const EACH: usize = 500;
/// The score card counts over so long.
const MINUTES: f64 = 10.0;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Writes of statuses by redkeeper and by the daemon, and transactions that are not the daemon's.
fn counted(txns: &[Txn]) -> [usize; 3] {
    let daemons = |txn: &&Txn| txn.ops.iter().any(|op| op.path().starts_with("/daemon"));
    let daemon = txns.iter().filter(daemons).count();
    [history::status_writes(txns).count(), daemon, txns.len() - daemon]
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    // Five windows, ten minutes in all.
    let (windows, window) = (5, Duration::from_secs(if quick { 4 } else { 120 }));
    let all = AGENTS * EACH;
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.durable_zookeeper().await;
    let server = format!("127.0.0.1:{}", zookeeper.port.number);
    let store = format!("[zookeeper]\nservers = '{server}'\n");
    let collector = sandbox.collector_with("a", &store).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let words = [address, AGENTS.to_string(), EACH.to_string(), "1000".to_owned()];
    let _fleet = floors::start(&sandbox, "fleet", &words);
    // Every status is there, and nothing more is to be written.
    let statuses = || async { history::status_writes(&txnlog::read(&zookeeper.data)).count() };
    eventually("all are published", statuses, |n| *n >= all).await;
    let txns = txnlog::read(&zookeeper.data);
    let bytes = history::status_writes(&txns).find_map(|(_, _, op)| op.data().map(<[u8]>::len));
    let words = [server, all.to_string(), bytes.unwrap_or_default().to_string()];
    let daemon = floors::start(&sandbox, "daemon", &words);
    let ready = || async { daemon.log() };
    eventually("the daemon is ready", ready, |log| log.starts_with("ready")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut before = counted(&txnlog::read(&zookeeper.data));
    let [mut ours, mut theirs, mut any] = std::array::from_fn(|_| Samples::default());
    for _ in 0..windows {
        tokio::time::sleep(window).await;
        let now = counted(&txnlog::read(&zookeeper.data));
        let [status, daemon, other] = std::array::from_fn(|n| (now[n] - before[n]) as f64);
        ours.push(status);
        theirs.push(daemon);
        any.push(other);
        before = now;
    }
    let up = collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}");
    if up != Some(all as f64) {
        return Err(format!("{up:?} of {all} instances were UP at the end"));
    }
    let mut outcome = Outcome::default();
    outcome.sample("redkeeper: statuses written in a window", "1", &ours);
    outcome.sample("daemon: statuses written in a window", "1", &theirs);
    outcome.sample("redkeeper: transactions of any kind in a window", "1", &any);
    let each = |samples: &Samples| samples.0.iter().sum::<f64>() / all as f64;
    let minutes = (window * windows).as_secs_f64() / 60.0;
    outcome.value("writes_per_healthy_instance", Some(each(&ours)));
    outcome.value("writes_of_a_daemon_per_instance", Some(each(&theirs)));
    outcome.value("minutes", Some(minutes));
    outcome.notes.push(format!(
        "counted in ZooKeeper's own transaction log over {} windows of {} s at the same time for both",
        windows,
        window.as_secs()
    ));
    if minutes < MINUTES {
        let note = format!("the score card asks for {MINUTES} minutes, which are measured without --quick");
        outcome.notes.push(note);
    }
    Ok(outcome)
}
