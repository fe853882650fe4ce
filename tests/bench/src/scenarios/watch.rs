//! P8: 1,000 watchers; one transition until the last of them is told, beside a bare fan-out of one message.

use std::time::{Duration, Instant};

use redkeeper_proto::v1::{
    WatchInstancesRequest, status_service_client::StatusServiceClient, watch_instances_response::Event,
};
use redkeeper_tests::Sandbox;
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    fleet::{Speaker, drain},
    floors, plot,
    report::Outcome,
    rig::{endpoint, runtime},
    stats::Samples,
};

const WATCHERS: usize = 1_000;
const CONNECTIONS: usize = 20;
const GROWTH: [usize; 4] = [1, 10, 100, WATCHERS];

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// One of both, and who listens to it.
struct Side {
    address: String,
    /// Whether a watcher is told what there is at first.
    snapshot: bool,
    speaker: Speaker,
    times: Samples,
}

/// Opens so many watchers; each tells when a change comes. They end with the returned set.
#[allow(clippy::disallowed_methods)] // Owned by the set.
async fn watchers(side: &Side, count: usize) -> Result<(JoinSet<()>, mpsc::Receiver<()>), String> {
    let snapshot = side.snapshot;
    let (told, receiver) = mpsc::channel(WATCHERS * 2);
    let (ready, mut opened) = mpsc::channel(WATCHERS);
    let mut tasks = JoinSet::new();
    let connections = count.min(CONNECTIONS);
    for n in 0..connections {
        let channel = endpoint(&side.address)?
            .connect()
            .await
            .map_err(|e| e.to_string())?;
        for _ in (n..count).step_by(connections) {
            let (mut client, told, ready) = (
                StatusServiceClient::new(channel.clone()),
                told.clone(),
                ready.clone(),
            );
            tasks.spawn(async move {
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
    for _ in 0..count {
        let open = tokio::time::timeout(Duration::from_secs(30), opened.recv()).await;
        open.map_err(|_| "not all watchers opened within 30 s".to_owned())?;
    }
    Ok((tasks, receiver))
}

/// Changes, in turns, until the last of `count` watchers is told; the first ones warm up.
async fn turns(sides: &mut [Side], count: usize, rounds: usize, warm_up: usize) -> Result<(), String> {
    let mut open = Vec::new();
    for side in sides.iter_mut() {
        side.times = Samples::default();
        open.push(watchers(side, count).await?);
    }
    for round in 0..warm_up + rounds {
        for (side, (_, told)) in sides.iter_mut().zip(&mut open) {
            // Silence would make the collector say UNKNOWN.
            side.speaker.beat(1).await?;
            tokio::time::sleep(Duration::from_millis(fastrand::u64(5..25))).await;
            let start = Instant::now();
            side.speaker.change(1, 1, round % 2 == 1).await?;
            for _ in 0..count {
                let one = tokio::time::timeout(Duration::from_secs(10), told.recv()).await;
                one.map_err(|_| "not all watchers were told within 10 s".to_owned())?;
            }
            if round >= warm_up {
                side.times.push_ms(start.elapsed());
            }
        }
    }
    Ok(())
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, warm_up) = if quick { (30, 5) } else { (200, 20) };
    let sandbox = Sandbox::new();
    let collector = sandbox.collector_with("a", "standalone = true\n").await;
    let (_floor, _port, listen) = floors::services(&sandbox).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let mut sides = Vec::new();
    for (address, snapshot) in [(address, true), (listen, false)] {
        let mut speaker = Speaker::connect(&address, "agent-0".to_owned(), 1).await?;
        drain(&mut speaker);
        sides.push(Side {
            address,
            snapshot,
            speaker,
            times: Samples::default(),
        });
    }
    turns(&mut sides, WATCHERS, rounds, warm_up).await?;
    let times: Vec<_> = sides.iter().map(|side| side.times.clone()).collect();
    let mut outcome = Outcome::default();
    outcome.sample("redkeeper, the last of 1,000 is told", "ms", &times[0]);
    outcome.sample("fan-out, the last of 1,000 is told", "ms", &times[1]);
    outcome.ratio_of("to_fanout", &times[0], &times[1]);
    let sets = [("redkeeper", &times[0]), ("fan-out", &times[1])];
    let plot = plot::distributions("watch.svg", "One transition, 1,000 watchers", "ms", &sets);
    outcome.plots.extend(plot);
    if quick {
        outcome.growth_is_left_out();
        return Ok(outcome);
    }
    let mut lines = ["redkeeper", "fan-out"].map(|name| (name.to_owned(), Vec::new()));
    for count in GROWTH {
        turns(&mut sides, count, rounds / 4, warm_up).await?;
        for ((_, points), side) in lines.iter_mut().zip(&sides) {
            points.push((count as f64, side.times.median().unwrap_or_default()));
        }
    }
    let axes = ("watchers", "ms until the last is told");
    let plot = plot::growth("watch-growth.svg", "One transition", axes, &lines);
    outcome.plots.extend(plot);
    Ok(outcome)
}
