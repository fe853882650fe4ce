//! P4: CPU and memory of the agent with 200 instances beside Sentinel that watches the same, and how they grow.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector},
    eventually, ports,
    servers::{Flavour, Redis},
};

use crate::{
    machine::{cpu_seconds, resident},
    plot,
    report::Outcome,
    rig::{Sentinel, address, answers, crowd, runtime},
    stats::Samples,
};

/// Watched by both.
const INSTANCES: usize = 200;
/// Counts of instances that growth is measured at.
const GROWTH: [usize; 5] = [1, 10, 100, 1000, 2000];

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
        answers(redis).await;
    }
    let addresses: Vec<_> = servers.iter().map(address).collect();
    let sentinel = Sentinel::start(&sandbox, &addresses)?;
    let agents = Agents::new(&sandbox).await;
    let agent = agents.agent("agent", &addresses).await;
    // Connections, first INFO, allocations of the beginning.
    tokio::time::sleep(Duration::from_secs(if quick { 4 } else { 15 })).await;
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    let (mut our_memory, mut their_memory) = (Samples::default(), Samples::default());
    let pids = (agent.process.pid(), sentinel.process.pid());
    // Both must do the work whose cost is measured.
    let up = || async {
        agents
            .collector
            .metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}")
    };
    eventually("all are watched", up, |n| *n == Some(INSTANCES as f64)).await;
    let pings = || {
        agent
            .metric("redkeeper_probe_duration_seconds_count")
            .unwrap_or(0.0)
    };
    let (asked, start) = (pings(), Instant::now());
    for _ in 0..rounds {
        // Both watch the same servers at the same time, so the window is the same too.
        let before = (cpu_seconds(pids.0)?, cpu_seconds(pids.1)?);
        tokio::time::sleep(window).await;
        ours.push((cpu_seconds(pids.0)? - before.0) * 30_000.0 / window.as_secs_f64());
        theirs.push((cpu_seconds(pids.1)? - before.1) * 30_000.0 / window.as_secs_f64());
        our_memory.push(resident(pids.0)? / 1_048_576.0);
        their_memory.push(resident(pids.1)? / 1_048_576.0);
    }
    let rate = (pings() - asked) / start.elapsed().as_secs_f64() / INSTANCES as f64;
    if rate < 0.9 {
        return Err(format!(
            "the agent sent {rate:.2} PINGs a second to each instance, not 1"
        ));
    }
    outcome.value("pings_per_second", Some(rate));
    outcome.sample("agent, CPU in 30 s", "ms", &ours);
    outcome.sample("Sentinel, CPU in 30 s", "ms", &theirs);
    outcome.sample("agent, resident", "MiB", &our_memory);
    outcome.sample("Sentinel, resident", "MiB", &their_memory);
    outcome.ratio_of("cpu_to_sentinel", &ours, &theirs);
    outcome.ratio_of("rss_to_sentinel", &our_memory, &their_memory);
    drop(sentinel);
    if quick {
        let note = "the cost of hung and dead instances is measured without --quick";
        outcome.notes.push(note.to_owned());
        outcome.growth_is_left_out();
    } else {
        not_up(&servers, &agent, &agents, &mut outcome).await?;
        drop(agent);
        growth(&sandbox, &agents, &mut outcome).await?;
    }
    Ok(outcome)
}

/// What an agent costs when all of its instances hang, and another one when all are dead, beside what it costs when all
/// live.
async fn not_up(
    servers: &[Redis],
    agent: &Agent,
    agents: &Agents<'_>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let nobody: Vec<_> = (0..INSTANCES).map(|_| ports::port()).collect();
    let addresses: Vec<_> = nobody
        .iter()
        .map(|port| format!("127.0.0.1:{}", port.number))
        .collect();
    let second = agents.agent("of-dead-ones", &addresses).await;
    let all = async |state: &str| {
        let metric = format!("redkeeper_instances{{{state}}}");
        let count = || async { agents.collector.metric(&metric) };
        eventually(state, count, |n| *n == Some(INSTANCES as f64)).await;
        // Until what follows a change, such as quick retries, is over.
        tokio::time::sleep(Duration::from_secs(3)).await;
    };
    all("state=\"DOWN\",reason=\"CONNECTION_REFUSED\"").await;
    let window = Duration::from_secs(15);
    let [mut live, mut hung, mut dead] = std::array::from_fn(|_| Samples::default());
    let pids = [agent.process.pid(), second.process.pid()];
    let measured = async |samples: &mut Samples, dead: &mut Samples| {
        let before = [cpu_seconds(pids[0])?, cpu_seconds(pids[1])?];
        tokio::time::sleep(window).await;
        let of = |place: usize| {
            let spent = cpu_seconds(pids[place])? - before[place];
            Ok::<_, String>(spent * 30_000.0 / window.as_secs_f64())
        };
        samples.push(of(0)?);
        dead.push(of(1)?);
        Ok::<_, String>(())
    };
    for _ in 0..5 {
        all("state=\"UP\",reason=\"OK\"").await;
        measured(&mut live, &mut dead).await?;
        servers
            .iter()
            .for_each(|redis| redis.process.signal(Signal::SIGSTOP));
        all("state=\"DOWN\",reason=\"REPLY_TIMEOUT\"").await;
        measured(&mut hung, &mut Samples::default()).await?;
        servers
            .iter()
            .for_each(|redis| redis.process.signal(Signal::SIGCONT));
    }
    outcome.sample("agent, all live, CPU in 30 s", "ms", &live);
    outcome.sample("agent, all hung, CPU in 30 s", "ms", &hung);
    outcome.sample("another agent, all dead, CPU in 30 s", "ms", &dead);
    outcome.ratio_of("cpu_hung_to_live", &hung, &live);
    outcome.ratio_of("cpu_dead_to_live", &dead, &live);
    let note = "the dead ones are those of another agent, in the same windows as the live ones";
    outcome.notes.push(note.to_owned());
    Ok(())
}

/// Agents that report to a collector of their own.
struct Agents<'a> {
    sandbox: &'a Sandbox,
    collectors: [String; 1],
    collector: Collector,
}

impl<'a> Agents<'a> {
    async fn new(sandbox: &'a Sandbox) -> Self {
        let collector = sandbox.collector_with("a", "standalone = true\n").await;
        Self {
            sandbox,
            collectors: [format!("'127.0.0.1:{}'", collector.grpc.number)],
            collector,
        }
    }

    async fn agent(&self, id: &str, addresses: &[String]) -> Agent {
        let mut text = String::from("[probe]\ninterval = '1s'\ninfo_interval = '10s'\nhang_after = '3s'\n");
        for (n, address) in addresses.iter().enumerate() {
            text.push_str(&format!(
                "[[instances]]\naddress = '{address}'\nname = '{id}-{n}'\n"
            ));
        }
        self.sandbox.agent_with(id, &self.collectors, &text).await
    }
}

async fn growth(sandbox: &Sandbox, agents: &Agents<'_>, outcome: &mut Outcome) -> Result<(), String> {
    let (_redis, all) = crowd(sandbox, *GROWTH.last().unwrap_or(&0)).await;
    let (mut cpu, mut memory) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for count in GROWTH {
        let some = &all[..count];
        let agent = agents.agent(&format!("agent-{count}"), some).await;
        let sentinel = Sentinel::start(sandbox, some)?;
        tokio::time::sleep(Duration::from_secs(8)).await;
        let pids = [agent.process.pid(), sentinel.process.pid()];
        let before = [cpu_seconds(pids[0])?, cpu_seconds(pids[1])?];
        tokio::time::sleep(Duration::from_secs(20)).await;
        for (n, pid) in pids.into_iter().enumerate() {
            cpu[n].push((count as f64, (cpu_seconds(pid)? - before[n]) * 50.0));
            memory[n].push((count as f64, resident(pid)? / 1_048_576.0));
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
