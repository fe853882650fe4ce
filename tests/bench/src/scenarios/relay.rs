//! 2,000 agents are cut off from the leader at once: how long until it holds their state again by way of another
//! collector, what relaying costs beside receiving directly, and how many instances are wrongly called UNKNOWN.

use std::time::{Duration, Instant};

use redkeeper_tests::{
    Sandbox,
    daemons::{Collector, http_get},
    eventually, history,
    process::Process,
    proxy::{Entry, Proxy},
    servers::ZooKeeper,
    txnlog,
};

use crate::{fleet, floors, machine::cpu_seconds, report::Outcome, rig::runtime, stats::Samples};

const AGENTS: usize = 2_000;
/// Instances of each agent.
const EACH: usize = 10;
/// Time between two heartbeats, in milliseconds.
const EVERY: usize = 500;
/// Between the connections of the agents, or the cut, and a measurement.
const SETTLE: Duration = Duration::from_secs(3);

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Leader `a`, which the agents reach through a proxy, and follower `b`.
struct Rig {
    zookeeper: ZooKeeper,
    a: Collector,
    b: Collector,
    to_a: Proxy,
    agents: Process,
}

impl Rig {
    async fn new(sandbox: &Sandbox) -> Self {
        let zookeeper = sandbox.durable_zookeeper().await;
        let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
        let a = sandbox.collector_with("a", &store).await;
        a.leads().await;
        let b = sandbox.collector_with("b", &store).await;
        let to_a = Proxy::start();
        to_a.lead_to(a.grpc.number);
        let addresses = format!("127.0.0.1:{},127.0.0.1:{}", to_a.port.number, b.grpc.number);
        let numbers = [AGENTS, EACH, EVERY].map(|n| n.to_string());
        let words: Vec<_> = [addresses].into_iter().chain(numbers).collect();
        let agents = floors::start(sandbox, "fleet", &words);
        let sent = || async { fleet::sent(&agents) };
        eventually("all agents report", sent, |sent| {
            *sent > Some(2.0 * AGENTS as f64)
        })
        .await;
        let all = (AGENTS * EACH) as f64;
        let written = || async { a.metric("redkeeper_zookeeper_writes_total") };
        eventually("all are published", written, |n| *n >= Some(all)).await;
        Self {
            zookeeper,
            a,
            b,
            to_a,
            agents,
        }
    }

    /// CPU that both took, and messages of agents that the leader took, by whichever path.
    fn look(&self) -> Result<(f64, f64), String> {
        let cpu = cpu_seconds(self.a.process.pid())? + cpu_seconds(self.b.process.pid())?;
        let name = "redkeeper_agent_reports_total{result=\"accepted\"}";
        let taken = self.a.metric(name).ok_or("the leader has no metrics")?;
        Ok((cpu, taken))
    }

    /// CPU of both for one message that the leader takes, in microseconds.
    async fn cost(&self, windows: usize, time: Duration) -> Result<Samples, String> {
        let mut costs = Samples::default();
        for _ in 0..windows {
            let before = self.look()?;
            tokio::time::sleep(time).await;
            let after = self.look()?;
            costs.push((after.0 - before.0) * 1e6 / (after.1 - before.1));
        }
        Ok(costs)
    }

    fn status_writes(&self) -> usize {
        history::status_writes(&txnlog::read(&self.zookeeper.data)).count()
    }
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (windows, time) = if quick {
        (5, Duration::from_secs(1))
    } else {
        (15, Duration::from_secs(3))
    };
    let sandbox = Sandbox::new();
    let rig = Rig::new(&sandbox).await;
    tokio::time::sleep(SETTLE).await;
    let direct = rig.cost(windows, time).await?;
    let before = rig.status_writes();
    // Connections break, and new ones lead nowhere.
    let start = Instant::now();
    rig.to_a
        .set(|faults| (faults.entry, faults.resets) = (Entry::Mute, faults.resets + 1));
    let mut unknown = 0.0_f64;
    let held = loop {
        unknown = unknown.max(unknowns(&rig.a));
        if rig.a.metric("redkeeper_agents_relayed") >= Some(AGENTS as f64) {
            break start.elapsed();
        }
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!(
                "not all are relayed: {:?}",
                rig.a.metric("redkeeper_agents_relayed")
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    tokio::time::sleep(SETTLE).await;
    let relayed = rig.cost(windows, time).await?;
    unknown = unknown.max(unknowns(&rig.a));
    let written = rig.status_writes() - before;
    if fleet::sent(&rig.agents).is_none() {
        return Err("the agents are gone".to_owned());
    }
    let mut outcome = Outcome::default();
    let mut time = Samples::default();
    time.push_ms(held);
    outcome.sample(
        "cut -> the leader hears all agents by way of the other",
        "ms",
        &time,
    );
    outcome.sample("both collectors, CPU of one message, direct", "us", &direct);
    outcome.sample("both collectors, CPU of one message, relayed", "us", &relayed);
    outcome.value_of("held_ms", &time);
    outcome.ratio_of("cpu_to_direct", &relayed, &direct);
    outcome.value("false_unknown", Some(unknown + written as f64));
    let note =
        "direct, both collectors take each message from its agent; relayed, one takes it and passes it on";
    outcome.notes.push(note.to_owned());
    Ok(outcome)
}

/// Instances that a collector calls UNKNOWN.
fn unknowns(collector: &Collector) -> f64 {
    let metrics = http_get(collector.admin.number, "/metrics").unwrap_or_default();
    let lines = metrics
        .lines()
        .filter(|line| line.contains("redkeeper_instances{state=\"UNKNOWN\""));
    let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}
