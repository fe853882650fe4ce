//! P4: CPU and memory of the agent with 200 instances beside Sentinel that watches the same, and how they grow.

use std::time::Duration;

use redkeeper_tests::{
    Sandbox,
    daemons::Agent,
    eventually,
    servers::{Flavour, Redis},
};

use crate::{
    machine::{cpu_seconds, resident},
    plot,
    report::Outcome,
    rig::{Sentinel, runtime},
    stats::Samples,
};

/// Watched by both.
const INSTANCES: usize = 200;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, window) = if quick { (5, 4) } else { (5, 30) };
    let window = Duration::from_secs(window);
    let mut outcome = Outcome::default();
    let sandbox = Sandbox::new();
    let servers: Vec<_> = (0..INSTANCES)
        .map(|_| sandbox.server(Flavour::Redis70, &[]))
        .collect();
    for redis in &servers {
        eventually(
            "an answer",
            || async { redis.ask("PING").is_ok() },
            |answers| *answers,
        )
        .await;
    }
    let sentinel = Sentinel::start(&sandbox, &servers.iter().collect::<Vec<_>>())?;
    let agents = Agents::new(&sandbox).await;
    let agent = agents.agent("agent", &servers).await;
    // Connections, first INFO, allocations of the beginning.
    tokio::time::sleep(Duration::from_secs(if quick { 4 } else { 15 })).await;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let (mut our_memory, mut their_memory) = (Samples::default(), Samples::default());
    let pids = (agent.process.pid(), sentinel.process.pid());
    for _ in 0..rounds {
        // Both watch the same servers at the same time, so the window is the same too.
        let before = (cpu_seconds(pids.0), cpu_seconds(pids.1));
        tokio::time::sleep(window).await;
        ours.push((cpu_seconds(pids.0) - before.0) * 30_000.0 / window.as_secs_f64());
        theirs.push((cpu_seconds(pids.1) - before.1) * 30_000.0 / window.as_secs_f64());
        our_memory.push(resident(pids.0) / 1_048_576.0);
        their_memory.push(resident(pids.1) / 1_048_576.0);
    }
    outcome.sample("agent, CPU in 30 s", "ms", &ours);
    outcome.sample("Sentinel, CPU in 30 s", "ms", &theirs);
    outcome.sample("agent, resident", "MiB", &our_memory);
    outcome.sample("Sentinel, resident", "MiB", &their_memory);
    outcome.ratio("cpu_to_sentinel", ours.ratio(&theirs));
    outcome.ratio("rss_to_sentinel", our_memory.ratio(&their_memory));
    drop((agent, sentinel));
    if quick {
        outcome
            .notes
            .push("growth over the number of instances is measured without --quick".to_owned());
    } else {
        growth(&sandbox, &agents, &servers, &mut outcome).await?;
    }
    Ok(outcome)
}

/// Agents that report to a collector of their own.
struct Agents<'a> {
    sandbox: &'a Sandbox,
    collectors: [String; 1],
    _collector: redkeeper_tests::daemons::Collector,
}

impl<'a> Agents<'a> {
    async fn new(sandbox: &'a Sandbox) -> Self {
        let collector = sandbox.collector_with("a", "standalone = true\n").await;
        Self {
            sandbox,
            collectors: [format!("'127.0.0.1:{}'", collector.grpc.number)],
            _collector: collector,
        }
    }

    async fn agent(&self, id: &str, servers: &[Redis]) -> Agent {
        let mut text = String::from("[probe]\ninterval = '1s'\ninfo_interval = '10s'\nhang_after = '3s'\n");
        for redis in servers {
            text.push_str(&format!(
                "[[instances]]\naddress = '127.0.0.1:{}'\n",
                redis.port.number
            ));
        }
        self.sandbox.agent_with(id, &self.collectors, &text).await
    }
}

async fn growth(
    sandbox: &Sandbox,
    agents: &Agents<'_>,
    servers: &[Redis],
    outcome: &mut Outcome,
) -> Result<(), String> {
    let (mut cpu, mut memory) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for count in [1usize, 10, 50, 100, INSTANCES] {
        let some = &servers[..count];
        let agent = agents.agent(&format!("agent-{count}"), some).await;
        let sentinel = Sentinel::start(sandbox, &some.iter().collect::<Vec<_>>())?;
        tokio::time::sleep(Duration::from_secs(5)).await;
        let pids = [agent.process.pid(), sentinel.process.pid()];
        let before = pids.map(cpu_seconds);
        tokio::time::sleep(Duration::from_secs(10)).await;
        for (n, pid) in pids.into_iter().enumerate() {
            cpu[n].push((count as f64, (cpu_seconds(pid) - before[n]) * 100.0));
            memory[n].push((count as f64, resident(pid) / 1_048_576.0));
        }
    }
    let named = |lines: [Vec<(f64, f64)>; 2]| {
        let names = ["redkeeper-agent", "Sentinel"].map(str::to_owned);
        names.into_iter().zip(lines).collect::<Vec<_>>()
    };
    let x = "instances, 1 PING/s and INFO/10 s each";
    let cpu = plot::growth(
        "agent-cost-cpu.svg",
        "CPU of one agent",
        (x, "ms of CPU per second"),
        &named(cpu),
    );
    let memory = plot::growth(
        "agent-cost-memory.svg",
        "Memory of one agent",
        (x, "MiB resident"),
        &named(memory),
    );
    outcome.plots.extend(cpu.into_iter().chain(memory));
    Ok(())
}
