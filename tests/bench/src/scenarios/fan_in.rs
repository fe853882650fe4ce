//! P5: what a message of an agent costs a collector, beside a bare sink that counts; how many observations a core
//! takes; and what 100,000 instances on 2,000 agents take in memory.

use std::time::Duration;

use redkeeper_tests::{Sandbox, daemons::Collector, eventually, ports, process::Process};

use crate::{
    fleet, floors,
    machine::{cpu_seconds, resident},
    plot,
    report::Outcome,
    rig::runtime,
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
        let (sink, port, listen) = floors::services(sandbox).await;
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
        let log = format!("fleet-{side}.log");
        std::fs::remove_file(sandbox.path(&log)).ok();
        let process = floors::start_with_log(sandbox, "fleet", &words, &log);
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
    let (rounds, windows, time, saturated) = if quick {
        (5, 8, 1_000, 200)
    } else {
        (6, 15, 4_000, 2_000)
    };
    let [time, saturated] = [time, saturated].map(Duration::from_millis);
    let sandbox = Sandbox::new();
    let mut outcome = Outcome::default();
    memory(&sandbox, &mut outcome).await?;
    let rig = Rig::new(&sandbox, "b", "standalone = true\n").await?;
    let mut costs = [Samples::default(), Samples::default()];
    // Both at the same time, in the same windows, so that what else the machine does meets both.
    let fleets = [
        rig.fleet(&sandbox, 0, AGENTS, 1, 100).await,
        rig.fleet(&sandbox, 1, AGENTS, 1, 100).await,
    ];
    for round in 0..=windows {
        let before = [look(&rig, 0, &fleets[0])?, look(&rig, 1, &fleets[1])?];
        tokio::time::sleep(time).await;
        for (side, costs) in costs.iter_mut().enumerate() {
            let (cpu, sent) = look(&rig, side, &fleets[side])?;
            // The first one warms up.
            if round > 0 {
                costs.push((cpu - before[side].0) * 1e6 / (sent - before[side].1));
            }
        }
    }
    drop(fleets);
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
    outcome.ratio_of("to_sink", &costs[1], &costs[0]);
    outcome.value_of("observations_per_second_core", &rates[0]);
    if quick {
        outcome.growth_is_left_out();
    } else {
        cpu_growth(&sandbox, &rig, &mut outcome).await?;
        memory_growth(&sandbox, &mut outcome).await?;
    }
    Ok(outcome)
}

/// CPU of both by the number of agents, each with a message per 100 ms.
async fn cpu_growth(sandbox: &Sandbox, rig: &Rig, outcome: &mut Outcome) -> Result<(), String> {
    let mut lines = ["redkeeper", "sink"].map(|name| (name.to_owned(), Vec::new()));
    for agents in [1, 10, 100, 1_000, AGENTS] {
        for (side, (_, points)) in lines.iter_mut().enumerate() {
            let fleet = rig.fleet(sandbox, side, agents, 1, 100).await;
            tokio::time::sleep(SETTLE).await;
            let mut cpu = Samples::default();
            for _ in 0..3 {
                let time = Duration::from_secs(2);
                cpu.push(window(rig, side, &fleet, time).await?.0 * 1_000.0 / time.as_secs_f64());
            }
            points.push((agents as f64, cpu.median().unwrap_or_default()));
        }
    }
    let axes = ("agents, ten messages a second each", "ms of CPU per second");
    let plot = plot::growth("fan-in-cpu.svg", "CPU of a collector", axes, &lines);
    outcome.plots.extend(plot);
    Ok(())
}

/// Memory of a collector by the number of instances, 50 of each agent.
async fn memory_growth(sandbox: &Sandbox, outcome: &mut Outcome) -> Result<(), String> {
    let mut points = Vec::new();
    for agents in [1, 10, 100, 1_000, AGENTS] {
        let rig = Rig::new(sandbox, &format!("m{agents}"), "standalone = true\n").await?;
        let _fleet = rig.fleet(sandbox, 0, agents, EACH, 1_000).await;
        let taken = steady(rig.collector.process.pid()).await?;
        points.push(((agents * EACH) as f64, taken / 1_048_576.0));
    }
    let axes = ("instances, 50 of each agent", "MiB resident");
    let lines = [("redkeeper, standalone".to_owned(), points)];
    let plot = plot::growth("fan-in-memory.svg", "Memory of a collector", axes, &lines);
    outcome.plots.extend(plot);
    Ok(())
}

/// CPU seconds of one side, and messages sent to it.
async fn window(rig: &Rig, side: usize, fleet: &Process, time: Duration) -> Result<(f64, f64), String> {
    let before = look(rig, side, fleet)?;
    tokio::time::sleep(time).await;
    let after = look(rig, side, fleet)?;
    Ok((after.0 - before.0, after.1 - before.1))
}

/// CPU seconds of one side so far, and messages sent to it.
fn look(rig: &Rig, side: usize, fleet: &Process) -> Result<(f64, f64), String> {
    let sent = fleet::sent(fleet).ok_or_else(|| format!("the agents are gone: {}", fleet.log()))?;
    Ok((cpu_seconds(rig.pids()[side])?, sent))
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
    let empty = zookeeper.live_bytes().await;
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
    outcome.value("collector_mib", Some((taken + rig.empty[0]) / 1_048_576.0));
    let server = zookeeper.word("mntr").unwrap_or_default();
    let server = server
        .lines()
        .find_map(|line| line.strip_prefix("zk_approximate_data_size\t"));
    let bytes = server.and_then(|bytes| bytes.parse::<f64>().ok());
    outcome.value("zookeeper_data_mib", bytes.map(|bytes| bytes / 1_048_576.0));
    let live = zookeeper.live_bytes().await;
    outcome.value("zookeeper_live_mib", Some(live / 1_048_576.0));
    outcome.value("zookeeper_live_bytes_per_instance", Some((live - empty) / all));
    outcome.value(
        "bytes_per_instance",
        Some((taken - 1.3 * stream * AGENTS as f64) / all),
    );
    Ok(())
}
