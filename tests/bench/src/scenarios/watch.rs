//! P8: 1,000 watchers; one transition until the last of them is told, beside a bare fan-out of one message.

use std::time::{Duration, Instant};

use redkeeper_proto::v1::{
    WatchInstancesRequest, status_service_client::StatusServiceClient, watch_instances_response::Event,
};
use redkeeper_tests::{Sandbox, ports};
use tokio::sync::mpsc;

use crate::{
    fleet::{Speaker, drain},
    floors, plot,
    report::Outcome,
    rig::{endpoint, listens, runtime},
    stats::Samples,
};

const WATCHERS: usize = 1_000;
const CONNECTIONS: usize = 20;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Opens all watchers; each tells when a change comes.
#[allow(clippy::disallowed_methods)] // They end with their streams.
async fn watchers(address: &str, snapshot: bool) -> Result<mpsc::Receiver<()>, String> {
    let (told, receiver) = mpsc::channel(WATCHERS * 2);
    let (ready, mut opened) = mpsc::channel(WATCHERS);
    for _ in 0..CONNECTIONS {
        let channel = endpoint(address)?.connect().await.map_err(|e| e.to_string())?;
        for _ in 0..WATCHERS / CONNECTIONS {
            let (mut client, told, ready) = (
                StatusServiceClient::new(channel.clone()),
                told.clone(),
                ready.clone(),
            );
            tokio::spawn(async move {
                let call = client.watch_instances(WatchInstancesRequest::default()).await;
                let Ok(mut stream) = call.map(tonic::Response::into_inner) else {
                    return;
                };
                if !snapshot {
                    ready.send(()).await.ok();
                }
                while let Ok(Some(message)) = stream.message().await {
                    match message.event {
                        Some(Event::Change(_)) => told.send(()).await.ok(),
                        Some(Event::SnapshotEnd(_)) => ready.send(()).await.ok(),
                        _ => None,
                    };
                }
            });
        }
    }
    for _ in 0..WATCHERS {
        let open = tokio::time::timeout(Duration::from_secs(30), opened.recv()).await;
        open.map_err(|_| "not all watchers opened within 30 s".to_owned())?;
    }
    Ok(receiver)
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, warm_up) = if quick { (30, 5) } else { (200, 20) };
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", "standalone = true\n").await;
    let floor_port = ports::port();
    let listen = format!("127.0.0.1:{}", floor_port.number);
    let _floor = floors::start(&sandbox, "services", std::slice::from_ref(&listen));
    listens(floor_port.number).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let mut sides = Vec::new();
    for (address, snapshot) in [(&address, true), (&listen, false)] {
        let mut speaker = Speaker::connect(address, "agent-0".to_owned(), 1).await?;
        drain(&mut speaker);
        sides.push((speaker, watchers(address, snapshot).await?));
    }
    let mut times = [Samples::default(), Samples::default()];
    for round in 0..warm_up + rounds {
        for (n, (speaker, told)) in sides.iter_mut().enumerate() {
            // Silence would make the collector say UNKNOWN.
            speaker.beat(1).await?;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..25))).await;
            let start = Instant::now();
            speaker.change(1, 1, round % 2 == 1).await?;
            for _ in 0..WATCHERS {
                let one = tokio::time::timeout(Duration::from_secs(10), told.recv()).await;
                one.map_err(|_| "not all watchers were told within 10 s".to_owned())?;
            }
            if round >= warm_up {
                times[n].push_ms(start.elapsed());
            }
        }
    }
    let mut outcome = Outcome::default();
    outcome.sample("redkeeper, the last of 1,000 is told", "ms", &times[0]);
    outcome.sample("fan-out, the last of 1,000 is told", "ms", &times[1]);
    outcome.ratio("to_fanout", times[0].ratio(&times[1]));
    let sets = [("redkeeper", &times[0]), ("fan-out", &times[1])];
    outcome.plots.extend(plot::distributions(
        "watch.svg",
        "One transition, 1,000 watchers",
        "ms",
        &sets,
    ));
    Ok(outcome)
}
