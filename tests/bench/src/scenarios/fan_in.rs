//! P5: what a message of an agent costs a collector, beside a bare sink that counts; how many observations a core
//! takes; and what 100,000 instances on 2,000 agents take in memory.

use std::time::Duration;

use redkeeper_tests::{Sandbox, daemons::Collector, eventually, ports, process::Process};

use crate::{
    fleet, floors,
    machine::{cpu_seconds, resident},
    report::Outcome,
    rig::{listens, runtime},
    stats::Samples,
};

const AGENTS: usize = 2_000;
/// Between the connections of the agents and the measurement.
const SETTLE: Duration = Duration::from_millis(300);
/// Memory is at rest when the books of writes of late are closed (10 s) and the allocator gives back what is free.
const STEADY: (usize, usize) = (15, 30);
/// Instances of each agent while memory is measured: 100,000 in all.
const EACH: usize = 50;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// A collector and a sink, fresh, and what they take before anybody connects.
struct Rig {
    collector: Collector,
    sink: Process,
    addresses: [String; 2],
    empty: [f64; 2],
    _port: ports::Port,
}

impl Rig {
    /// `store`: standalone, or which ZooKeeper.
    async fn new(sandbox: &Sandbox, id: &str, store: &str) -> Result<Self, String> {
        let collector = sandbox.collector_with(id, store).await;
        let port = ports::port();
        let listen = format!("127.0.0.1:{}", port.number);
        let sink = floors::start(sandbox, "services", std::slice::from_ref(&listen));
        listens(port.number).await;
        Ok(Self {
            addresses: [format!("127.0.0.1:{}", collector.grpc.number), listen],
            empty: [resident(collector.process.pid())?, resident(sink.pid())?],
            collector,
            sink,
            _port: port,
        })
    }

    fn pids(&self) -> [u32; 2] {
        [self.collector.process.pid(), self.sink.pid()]
    }

    /// Agents that report to one of the two, once all of them are connected.
    async fn fleet(
        &self,
        sandbox: &Sandbox,
        side: usize,
        agents: usize,
        each: usize,
        every: usize,
    ) -> Process {
        let words = [agents, each, every].map(|n| n.to_string());
        let words: Vec<_> = [self.addresses[side].clone()].into_iter().chain(words).collect();
        // Its log is read, so it must be its own.
        std::fs::remove_file(sandbox.path("floor-fleet.log")).ok();
        let process = floors::start(sandbox, "fleet", &words);
        eventually(
            "all agents report",
            || async { fleet::sent(&process) },
            |sent| sent.is_some_and(|sent| sent > agents as f64),
        )
        .await;
        process
    }
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, time, saturated) = if quick { (5, 500, 200) } else { (6, 6_000, 2_000) };
    let [time, saturated] = [time, saturated].map(Duration::from_millis);
    let sandbox = Sandbox::new();
    let mut outcome = Outcome::default();
    memory(&sandbox, &mut outcome).await?;
    let rig = Rig::new(&sandbox, "b", "standalone = true\n").await?;
    let mut costs = [Samples::default(), Samples::default()];
    for round in 0..=rounds {
        for (side, costs) in costs.iter_mut().enumerate() {
            let fleet = rig.fleet(&sandbox, side, AGENTS, 1, 100).await;
            // What connecting leaves to be done is done.
            tokio::time::sleep(SETTLE).await;
            let (cpu, sent) = window(&rig, side, &fleet, time).await?;
            // The first round warms up.
            if round > 0 {
                costs.push(cpu * 1e6 / sent);
            }
        }
    }
    let mut rates = [Samples::default(), Samples::default()];
    for round in 0..=rounds {
        for (side, rates) in rates.iter_mut().enumerate() {
            let fleet = rig.fleet(&sandbox, side, 4, 500, 0).await;
            let (cpu, sent) = window(&rig, side, &fleet, saturated).await?;
            if round > 0 {
                rates.push(sent * 500.0 / cpu);
            }
        }
    }
    outcome.sample("collector, CPU of one sparse message", "us", &costs[0]);
    outcome.sample("sink, CPU of one sparse message", "us", &costs[1]);
    outcome.sample("collector, observations per second of CPU", "1/s", &rates[0]);
    outcome.sample("sink, observations per second of CPU", "1/s", &rates[1]);
    let note = "an observation is one instance in a heartbeat of 500; the collector merges nothing and drops nothing";
    outcome.notes.push(note.to_owned());
    outcome.ratio("to_sink", costs[1].ratio(&costs[0]));
    outcome.value("observations_per_second_core", rates[0].median());
    Ok(outcome)
}

/// CPU seconds of one side, and messages sent to it.
async fn window(rig: &Rig, side: usize, fleet: &Process, time: Duration) -> Result<(f64, f64), String> {
    let pid = rig.pids()[side];
    let look = || {
        let sent = fleet::sent(fleet).ok_or_else(|| format!("the agents are gone: {}", fleet.log()))?;
        Ok::<_, String>((cpu_seconds(pid)?, sent))
    };
    let before = look()?;
    tokio::time::sleep(time).await;
    let after = look()?;
    Ok((after.0 - before.0, after.1 - before.1))
}

/// Waits until a process neither takes nor gives back memory, and says how much it has.
async fn steady(pid: u32) -> Result<f64, String> {
    let mut last = f64::MAX;
    for second in 0..STEADY.1 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = resident(pid)?;
        if second >= STEADY.0 && (now - last).abs() < now / 500.0 {
            return Ok(now);
        }
        last = now;
    }
    Ok(last)
}

async fn memory(sandbox: &Sandbox, outcome: &mut Outcome) -> Result<(), String> {
    // A leader, because it knows what is published too.
    let zookeeper = sandbox.zookeeper().await;
    let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
    let rig = Rig::new(sandbox, "a", &store).await?;
    let idle = rig.fleet(sandbox, 1, AGENTS, 0, 1_000).await;
    let stream = (resident(rig.sink.pid())? - rig.empty[1]) / AGENTS as f64;
    drop(idle);
    let _fleet = rig.fleet(sandbox, 0, AGENTS, EACH, 1_000).await;
    let all = (AGENTS * EACH) as f64;
    let up = || async {
        rig.collector
            .metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}")
    };
    eventually("all are UP", up, |n| *n == Some(all)).await;
    let written = || async { rig.collector.metric("redkeeper_zookeeper_writes_total") };
    eventually("all are published", written, |n| *n >= Some(all)).await;
    let taken = steady(rig.collector.process.pid()).await? - rig.empty[0];
    outcome.value("bytes_per_idle_stream_of_sink", Some(stream));
    outcome.value(
        "bytes_per_instance",
        Some((taken - 1.3 * stream * AGENTS as f64) / all),
    );
    Ok(())
}
