//! P7: GetInstance, 64 callers on 8 connections, while 10,000 instances report; beside a bare unary call that
//! answers the same.

use std::time::{Duration, Instant};

use redkeeper_proto::v1::{GetInstanceRequest, status_service_client::StatusServiceClient};
use redkeeper_tests::{Sandbox, daemons::Collector, eventually, process::Process};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    floors,
    machine::cpu_seconds,
    plot,
    report::Outcome,
    rig::{endpoint, runtime},
    stats::Samples,
};

const CONNECTIONS: usize = 8;
const CALLERS: usize = 64;
const AGENTS: usize = 20;
const EACH: usize = 500;
/// Agents, and instances of each.
const GROWTH: [(usize, usize); 6] = [(1, 1), (1, 10), (1, 100), (2, 500), (AGENTS, EACH), (200, 500)];

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

async fn connect(address: &str) -> Result<Vec<StatusServiceClient<Channel>>, String> {
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = endpoint(address)?
            .connect()
            .await
            .map_err(|e| format!("{address}: {e}"))?;
        clients.push(StatusServiceClient::new(channel));
    }
    Ok(clients)
}

/// Calls for a while; requests a second, and how long each took.
async fn load(
    clients: &[StatusServiceClient<Channel>],
    (agents, each): (usize, usize),
    time: Duration,
    latency: &mut Samples,
) -> Result<f64, String> {
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for n in 0..CALLERS {
        let mut client = clients[n % CONNECTIONS].clone();
        #[allow(clippy::disallowed_methods)] // Joined below.
        tasks.spawn(async move {
            let mut times = Vec::new();
            let mut number = n;
            while start.elapsed() < time {
                number = (number * 31 + 7) % (agents * each);
                let id = format!("agent-{}:{}", number % agents, number / agents + 1);
                let call = Instant::now();
                client
                    .get_instance(GetInstanceRequest { id })
                    .await
                    .map_err(|e| e.to_string())?;
                times.push(call.elapsed());
            }
            Ok::<_, String>(times)
        });
    }
    let mut count = 0usize;
    while let Some(times) = tasks.join_next().await {
        let times = times.map_err(|e| e.to_string())??;
        count += times.len();
        times.into_iter().for_each(|time| latency.push_ms(time));
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// A fleet that reports, once the collector knows all of it.
async fn reporting(sandbox: &Sandbox, collector: &Collector, (agents, each): (usize, usize)) -> Process {
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let words = [address, agents.to_string(), each.to_string(), "1000".to_owned()];
    let fleet = floors::start(sandbox, "fleet", &words);
    let up = || async { collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all report", up, |n| *n == Some((agents * each) as f64)).await;
    fleet
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, time) = if quick { (5, 2) } else { (7, 5) };
    let time = Duration::from_secs(time);
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", "standalone = true\n").await;
    let (floor, _port, listen) = floors::services(&sandbox).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let _fleet = reporting(&sandbox, &collector, (AGENTS, EACH)).await;
    let (ours, bare) = (connect(&address).await?, connect(&listen).await?);
    let mut rates = [Samples::default(), Samples::default()];
    let mut costs = [Samples::default(), Samples::default()];
    let mut latencies = [Samples::default(), Samples::default()];
    for round in 0..=rounds {
        for (n, clients) in [&ours, &bare].into_iter().enumerate() {
            let pid = [collector.process.pid(), floor.pid()][n];
            let (mut latency, before) = (Samples::default(), cpu_seconds(pid)?);
            let rate = load(clients, (AGENTS, EACH), time, &mut latency).await?;
            // The first round warms up.
            if round > 0 {
                rates[n].push(rate);
                costs[n].push((cpu_seconds(pid)? - before) * 1e6 / (rate * time.as_secs_f64()));
                latencies[n].0.append(&mut latency.0);
            }
        }
    }
    let mut outcome = Outcome::default();
    for (n, who) in ["redkeeper", "echo"].into_iter().enumerate() {
        outcome.sample(&format!("{who}, requests"), "1/s", &rates[n]);
        outcome.sample(&format!("{who}, CPU of the server for each"), "us", &costs[n]);
        outcome.sample(&format!("{who}, latency"), "ms", &latencies[n]);
    }
    outcome.ratio_of("to_echo", &rates[0], &rates[1]);
    let over = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    outcome.ratio("p99_to_echo", over(latencies[0].p99(), latencies[1].p99()));
    let sets = [("redkeeper", &latencies[0]), ("echo", &latencies[1])];
    let plot = plot::distributions("query.svg", "GetInstance, 64 callers", "ms", &sets);
    outcome.plots.extend(plot);
    if quick {
        outcome.growth_is_left_out();
    } else {
        growth(&sandbox, time, &mut outcome).await?;
    }
    Ok(outcome)
}

/// CPU of a request by the number of instances that are known.
async fn growth(sandbox: &Sandbox, time: Duration, outcome: &mut Outcome) -> Result<(), String> {
    let mut points = Vec::new();
    for (agents, each) in GROWTH {
        let id = format!("g{}", agents * each);
        let collector = sandbox.collector_with(&id, "standalone = true\n").await;
        let _fleet = reporting(sandbox, &collector, (agents, each)).await;
        let clients = connect(&format!("127.0.0.1:{}", collector.grpc.number)).await?;
        let (mut costs, pid) = (Samples::default(), collector.process.pid());
        for _ in 0..3 {
            let before = cpu_seconds(pid)?;
            let rate = load(&clients, (agents, each), time, &mut Samples::default()).await?;
            costs.push((cpu_seconds(pid)? - before) * 1e6 / (rate * time.as_secs_f64()));
        }
        points.push(((agents * each) as f64, costs.median().unwrap_or_default()));
    }
    let axes = ("instances that report once a second", "us of CPU");
    let lines = [("redkeeper".to_owned(), points)];
    let plot = plot::growth("query-growth.svg", "One GetInstance", axes, &lines);
    outcome.plots.extend(plot);
    Ok(())
}
