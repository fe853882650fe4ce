//! P11: streams that come and go, and probe rounds against instances that are dead, hung and well: what tasks,
//! descriptors and memory are afterwards, over what they were after a tenth of the same work before.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redkeeper_proto::v1::{self, agent_service_client::AgentServiceClient, report_status_request::Message};
use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector, http_get},
    eventually,
    fake_agent::message,
    ports,
    process::Process,
    servers::{Flavour, Redis},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    fleet::{self, Speaker, drain},
    plot,
    report::Outcome,
    rig::{answers, endpoint, runtime},
    stats::Samples,
};
use redkeeper_collector::fleet::change_log;

/// Instances whose changes fill the history.
const HISTORIC: u32 = 500;
/// The flapping instance is restarted once in so many cycles, and while rounds are waited for once in so long.
const FLAP_EVERY: (u64, Duration) = (1_000, Duration::from_secs(1));
/// Connections that wait at the hung instance. Once they are so many, one more waits for its handshake; that must be so
/// before anything is compared, or its descriptor would look like a leak.
const HUNG_BACKLOG: &str = "4";
/// How long the probe rounds of one part may take.
const ROUNDS_TIMEOUT: Duration = Duration::from_secs(900);
/// Looks at a process at rest.
const LOOKS: usize = 31;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// What must come back.
#[derive(Clone, Copy, Debug)]
struct StoredStatus {
    tasks: f64,
    descriptors: f64,
    bytes: f64,
}

fn held(process: &Process, admin: u16) -> Result<StoredStatus, String> {
    // Before the question, whose connection is closed by the process a moment after the answer.
    let descriptors = process.descriptors() as f64;
    let page = http_get(admin, "/metrics")?;
    let tasks = page
        .lines()
        .filter(|line| line.starts_with("redkeeper_tasks_alive{"));
    let tasks = tasks.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    let allocated = page
        .lines()
        .find_map(|line| line.strip_prefix("redkeeper_memory_allocated_bytes "));
    let allocated = allocated.and_then(|value| value.parse().ok());
    Ok(StoredStatus {
        tasks: tasks.sum(),
        descriptors,
        bytes: allocated.ok_or("no redkeeper_memory_allocated_bytes")?,
    })
}

/// Connects, streams a snapshot of one instance, and drops.
async fn cycle(address: &str, n: u64) -> Result<(), String> {
    let agent = format!("agent-{}", n % 50);
    let hello = Message::Hello(v1::Hello {
        agent_id: agent.clone(),
        boot_id: format!("{n:032x}"),
        ..Default::default()
    });
    let snapshot = Message::Snapshot(v1::Snapshot {
        instances: vec![fleet::report(&agent, 1, true)],
        last: true,
    });
    let channel = endpoint(address)?.connect().await.map_err(|e| e.to_string())?;
    let (sender, receiver) = mpsc::channel(2);
    for (n, what) in [hello, snapshot].into_iter().enumerate() {
        let sent = sender.try_send(message(n as u64 + 1, what));
        sent.map_err(|e| e.to_string())?;
    }
    let stream = ReceiverStream::new(receiver);
    let call = AgentServiceClient::new(channel).report_status(stream).await;
    let mut answers = call.map_err(|e| e.to_string())?.into_inner();
    // The Welcome; with the sender the stream ends.
    answers.message().await.map_err(|e| e.to_string())?;
    Ok(())
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (cycles, rounds) = if quick {
        (5_000, 12_000.0)
    } else {
        (100_000, 100_000.0)
    };
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", "standalone = true\n").await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let (flapping, good) = (sandbox.redis().await, sandbox.redis().await);
    let hung = sandbox.server(Flavour::Redis70, &["--tcp-backlog", HUNG_BACKLOG]);
    answers(&hung).await;
    let nobody = ports::port();
    let mut text = String::from("[probe]\ninterval = '10ms'\nhang_after = '200ms'\n");
    for port in [
        flapping.port.number,
        hung.port.number,
        good.port.number,
        nobody.number,
    ] {
        text.push_str(&format!("[[instances]]\naddress = '127.0.0.1:{port}'\n"));
    }
    let agent = sandbox.agent_with("db01", &[format!("'{address}'")], &text).await;
    hung.process.signal(Signal::SIGSTOP);
    fill_history(&collector).await?;
    let mut work = Work {
        sandbox: &sandbox,
        address: &address,
        agent: &agent,
        flapping,
        cycles: 0,
        rounds: 0.0,
    };
    let mut outcome = Outcome::default();
    let mut lines = ["collector", "agent"].map(|name| (name.to_owned(), Vec::new()));
    // The same work, so that what it needs once, such as room in tables and caches, is there.
    let shares: &[f64] = if quick {
        &[0.1, 1.0]
    } else {
        &[0.001, 0.01, 0.1, 1.0]
    };
    let (mut looks, mut probed) = (Vec::new(), 0.0);
    for share in shares {
        probed = work.rounds;
        work.run((cycles as f64 * share) as u64, rounds * share).await?;
        let look = (
            rested(&collector.process, collector.admin.number).await?,
            rested(&agent.process, agent.admin.number).await?,
        );
        let memory = [look.0.bytes, look.1.bytes].map(|bytes| bytes / 1_048_576.0);
        for (line, memory) in lines.iter_mut().zip(memory) {
            line.1.push((work.cycles as f64, memory));
        }
        looks.push(look);
    }
    if quick {
        outcome.growth_is_left_out();
    } else {
        let axes = ("cycles, and as many probe rounds", "MiB allocated");
        let plot = plot::growth("soak-growth.svg", "What work leaves behind", axes, &lines);
        outcome.plots.extend(plot);
    }
    let [.., (before, agent_before), (after, agent_after)] = looks[..] else {
        return Err("nothing was compared".to_owned());
    };
    let probed = work.rounds - probed;
    let worst = |of: fn(&StoredStatus) -> f64| {
        let ratio = |after: &StoredStatus, before: &StoredStatus| of(after) / of(before);
        // The one that is farther from where it was, in either direction.
        let (collector, agent) = (ratio(&after, &before), ratio(&agent_after, &agent_before));
        let farther = (agent - 1.0).abs() > (collector - 1.0).abs();
        Some(if farther { agent } else { collector })
    };
    for (name, before, after) in [("collector", before, after), ("agent", agent_before, agent_after)] {
        outcome.notes.push(format!(
            "{name}: {} -> {} tasks, {} -> {} descriptors, {:.0} -> {:.0} bytes allocated",
            before.tasks, after.tasks, before.descriptors, after.descriptors, before.bytes, after.bytes
        ));
    }
    outcome.ratio("tasks", worst(|held| held.tasks));
    outcome.ratio("descriptors", worst(|held| held.descriptors));
    outcome.ratio("allocated", worst(|held| held.bytes));
    outcome.value(
        "bytes_per_cycle",
        Some((after.bytes - before.bytes).max(0.0) / cycles as f64),
    );
    outcome.value(
        "agent_bytes_per_round",
        Some((agent_after.bytes - agent_before.bytes).max(0.0) / probed),
    );
    outcome.value("cycles", Some(cycles as f64));
    outcome.value("rounds", Some(probed));
    outcome
        .notes
        .push("tasks, descriptors and allocated are the worse of collector and agent".to_owned());
    let note = "the collector's bounded history of changes is full before anything is compared";
    outcome.notes.push(note.to_owned());
    Ok(outcome)
}

/// A collector keeps a bounded history of changes. It must be full before anything is compared, or its filling up would
/// look like a leak.
async fn fill_history(collector: &Collector) -> Result<(), String> {
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let mut speaker = Speaker::connect(&address, "history".to_owned(), HISTORIC).await?;
    drain(&mut speaker);
    for n in 0..=change_log::CHANGES_MAX / HISTORIC as usize {
        speaker.change(1, HISTORIC, n % 2 == 1).await?;
    }
    let down = || async { collector.metric("redkeeper_transitions_total{reason=\"CONNECTION_REFUSED\"}") };
    let half = (change_log::CHANGES_MAX / 2) as f64;
    eventually("half of the history are deaths", down, |n| *n >= Some(half)).await;
    drop(speaker);
    let silent =
        || async { collector.metric("redkeeper_instances{state=\"UNKNOWN\",reason=\"AGENT_SILENT\"}") };
    eventually("the speaker is silent", silent, |n| {
        *n == Some(f64::from(HISTORIC))
    })
    .await;
    Ok(())
}

/// What is done again and again.
struct Work<'a> {
    sandbox: &'a Sandbox,
    address: &'a str,
    agent: &'a Agent,
    flapping: Redis,
    cycles: u64,
    rounds: f64,
}

impl Work<'_> {
    fn probed(&self) -> f64 {
        let probed = self.agent.metric("redkeeper_probe_rounds_total");
        probed.unwrap_or(self.rounds)
    }

    /// So many cycles of streams, and at least so many probe rounds, while one instance comes and goes.
    async fn run(&mut self, cycles: u64, rounds: f64) -> Result<(), String> {
        let end = self.rounds + rounds;
        for n in 0..cycles {
            cycle(self.address, self.cycles).await?;
            self.cycles += 1;
            if n % FLAP_EVERY.0 == 0 {
                self.sandbox.restart(&mut self.flapping).await;
            }
        }
        let deadline = Instant::now() + ROUNDS_TIMEOUT;
        while self.probed() < end {
            if Instant::now() > deadline {
                return Err(format!("no {rounds} probe rounds within {ROUNDS_TIMEOUT:?}"));
            }
            tokio::time::sleep(FLAP_EVERY.1).await;
            self.sandbox.restart(&mut self.flapping).await;
        }
        self.rounds = self.probed();
        Ok(())
    }
}

/// What a process holds once the streams of all cycles have ended; of what moves, the median of several looks.
async fn rested(process: &Process, admin: u16) -> Result<StoredStatus, String> {
    let mut last = held(process, admin)?.tasks;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = held(process, admin)?.tasks;
        if std::mem::replace(&mut last, now) == now {
            break;
        }
    }
    let [mut tasks, mut descriptors, mut bytes] = std::array::from_fn(|_| Samples::default());
    for _ in 0..LOOKS {
        let held = held(process, admin)?;
        tasks.push(held.tasks);
        descriptors.push(held.descriptors);
        bytes.push(held.bytes);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let median = |samples: Samples| samples.median().ok_or("nothing was measured");
    Ok(StoredStatus {
        tasks: median(tasks)?,
        descriptors: median(descriptors)?,
        bytes: median(bytes)?,
    })
}
