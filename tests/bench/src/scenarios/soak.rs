//! P11: streams that come and go, and probe rounds against instances that are dead, hung and well: what tasks,
//! descriptors and memory are afterwards, over what they were after the first tenth.

use std::time::Duration;

use nix::sys::signal::Signal;
use redkeeper_proto::v1::{self, agent_service_client::AgentServiceClient, report_status_request::Message};
use redkeeper_tests::{Sandbox, daemons::http_get, eventually, fake_agent::message, ports, process::Process};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    fleet,
    machine::anonymous,
    report::Outcome,
    rig::{endpoint, runtime},
};

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// What must come back.
#[derive(Clone, Copy, Debug)]
struct Held {
    tasks: f64,
    descriptors: f64,
    bytes: f64,
}

fn held(process: &Process, admin: u16) -> Result<Held, String> {
    let page = http_get(admin, "/metrics")?;
    let tasks = page
        .lines()
        .filter(|line| line.starts_with("redkeeper_tasks_alive{"));
    let tasks = tasks.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(Held {
        tasks: tasks.sum(),
        descriptors: process.descriptors() as f64,
        bytes: anonymous(process.pid()),
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
    let (mut flapping, hung, good) = (
        sandbox.redis().await,
        sandbox.redis().await,
        sandbox.redis().await,
    );
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
    let done = || agent.metric("redkeeper_probe_rounds_total").unwrap_or(0.0);
    let warm = rounds / 10.0;
    eventually("a tenth of the rounds", || async { done() }, |n| *n >= warm).await;
    let agent_before = held(&agent.process, agent.admin.number)?;
    for n in 0..cycles / 10 {
        cycle(&address, n).await?;
    }
    settle(&collector.process, collector.admin.number).await;
    let before = held(&collector.process, collector.admin.number)?;
    for n in cycles / 10..cycles + cycles / 10 {
        cycle(&address, n).await?;
        if n % 500 == 0 {
            sandbox.restart(&mut flapping).await;
        }
    }
    settle(&collector.process, collector.admin.number).await;
    let after = held(&collector.process, collector.admin.number)?;
    let deadline = std::time::Instant::now() + Duration::from_secs(600);
    while done() < warm + rounds && std::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        sandbox.restart(&mut flapping).await;
    }
    let probed = done() - warm;
    // The flapping one is back, and the agent at rest.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let agent_after = held(&agent.process, agent.admin.number)?;
    let mut outcome = Outcome::default();
    let worst = |of: fn(&Held) -> f64| {
        let ratio = |after: &Held, before: &Held| of(after) / of(before);
        Some(ratio(&after, &before).max(ratio(&agent_after, &agent_before)))
    };
    outcome.value("tasks", worst(|held| held.tasks));
    outcome.value("descriptors", worst(|held| held.descriptors));
    outcome.value("allocated", worst(|held| held.bytes));
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
    outcome.notes.push(
        "allocated is resident memory without files (RssAnon), the worse of collector and agent".to_owned(),
    );
    Ok(outcome)
}

/// Waits until the streams of all cycles have ended.
async fn settle(process: &Process, admin: u16) {
    let tasks = || async { held(process, admin).map_or(0.0, |held| held.tasks) };
    let mut last = tasks().await;
    for _ in 0..50 {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = tasks().await;
        if now == last {
            return;
        }
        last = now;
    }
}
