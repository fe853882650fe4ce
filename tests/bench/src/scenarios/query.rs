//! P7: GetInstance, 64 callers on 8 connections, while 10,000 instances report; beside a bare unary call that
//! answers the same.

use std::time::{Duration, Instant};

use redkeeper_proto::v1::{GetInstanceRequest, status_service_client::StatusServiceClient};
use redkeeper_tests::{Sandbox, eventually, ports};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use crate::{
    floors,
    machine::cpu_seconds,
    plot,
    report::Outcome,
    rig::{endpoint, listens, runtime},
    stats::Samples,
};

const CONNECTIONS: usize = 8;
const CALLERS: usize = 64;
const AGENTS: usize = 20;
const EACH: usize = 500;

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
                number = (number * 31 + 7) % (AGENTS * EACH);
                let id = format!("agent-{}:{}", number % AGENTS, number / AGENTS + 1);
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

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, time) = if quick { (5, 2) } else { (7, 5) };
    let time = Duration::from_secs(time);
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", "standalone = true\n").await;
    let floor_port = ports::port();
    let listen = format!("127.0.0.1:{}", floor_port.number);
    let floor = floors::start(&sandbox, "services", std::slice::from_ref(&listen));
    listens(floor_port.number).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let words = [
        address.clone(),
        AGENTS.to_string(),
        EACH.to_string(),
        "1000".to_owned(),
    ];
    let _fleet = floors::start(&sandbox, "fleet", &words);
    let up = || async { collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all report", up, |n| *n == Some((AGENTS * EACH) as f64)).await;
    let (ours, bare) = (connect(&address).await?, connect(&listen).await?);
    let mut rates = [Samples::default(), Samples::default()];
    let mut costs = [Samples::default(), Samples::default()];
    let mut latencies = [Samples::default(), Samples::default()];
    for round in 0..=rounds {
        for (n, clients) in [&ours, &bare].into_iter().enumerate() {
            let pid = [collector.process.pid(), floor.pid()][n];
            let (mut latency, before) = (Samples::default(), cpu_seconds(pid)?);
            let rate = load(clients, time, &mut latency).await?;
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
    outcome.ratio("to_echo", rates[0].ratio(&rates[1]));
    let sets = [("redkeeper", &latencies[0]), ("echo", &latencies[1])];
    outcome.plots.extend(plot::distributions(
        "query.svg",
        "GetInstance, 64 callers",
        "ms",
        &sets,
    ));
    Ok(outcome)
}
