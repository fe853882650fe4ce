//! P6: 10,000 transitions at once until ZooKeeper has told a watcher of all of them, beside the same number of
//! plain sets by the same client library: 100 in a multi with 8 in flight, and one at a time.

// The connection of a bench does not break, so its persistent watch does not get lost.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use redkeeper_tests::{Sandbox, eventually, servers::ZooKeeper};
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, EventType, PersistentWatcher};

use crate::{
    fleet::{Speaker, drain},
    plot,
    report::Outcome,
    rig::runtime,
    stats::Samples,
};

const AGENTS: u32 = 20;
const EACH: u32 = 500;
const ALL: usize = (AGENTS * EACH) as usize;
/// One at a time is slow, so fewer are measured.
const SINGLES: usize = 1_000;
/// Changes of one group of instances before its writes would be limited as those of flapping ones.
const FLIPS: usize = 3;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Waits until so many changes of data were told, of paths with so many parts.
async fn told(watcher: &mut PersistentWatcher, parts: usize, mut count: usize) -> Result<(), String> {
    while count > 0 {
        let event = tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await;
        let event = event.map_err(|_| format!("{count} changes were not told within 30 s"))?;
        if event.event_type == EventType::NodeDataChanged && event.path.split('/').count() == parts + 1 {
            count -= 1;
        }
    }
    Ok(())
}

fn path(n: usize) -> String {
    format!("/raw/{:02x}/agent-{}:{}", n % 256, n % 20, n / 20 + 1)
}

/// As large as a status.
fn data(n: usize) -> Vec<u8> {
    format!("{:<330}", n).into_bytes()
}

async fn prepare(client: &Client) -> Result<(), String> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let folders = (0..256).map(|n| format!("/raw/{n:02x}"));
    for path in ["/raw".to_owned()]
        .into_iter()
        .chain(folders)
        .chain((0..ALL).map(path))
    {
        client
            .create(&path, &data(0), &options)
            .await
            .map_err(|e| format!("{path}: {e}"))?;
    }
    Ok(())
}

async fn multis(client: &Client, round: usize) -> Result<(), String> {
    let batches: Vec<Vec<usize>> = (0..ALL)
        .collect::<Vec<_>>()
        .chunks(100)
        .map(<[usize]>::to_vec)
        .collect();
    let sends = batches.into_iter().map(|batch| async move {
        let mut writer = client.new_multi_writer();
        for n in batch {
            writer
                .add_set_data(&path(n), &data(round), None)
                .map_err(|e| e.to_string())?;
        }
        writer.commit().await.map(drop).map_err(|e| e.to_string())
    });
    let ends: Vec<Result<(), String>> = stream::iter(sends).buffer_unordered(8).collect().await;
    ends.into_iter().collect()
}

async fn group(collector: &str, name: usize) -> Result<Vec<Speaker>, String> {
    let mut speakers = Vec::new();
    for n in 0..AGENTS {
        let mut speaker = Speaker::connect(collector, format!("agent-{name}-{n}"), EACH).await?;
        drain(&mut speaker);
        speakers.push(speaker);
    }
    Ok(speakers)
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let groups = if quick { 2 } else { 4 };
    let sandbox = Sandbox::new();
    let zookeeper: ZooKeeper = sandbox.durable_zookeeper().await;
    // Nobody beats while the bench is busy.
    let text = format!(
        "silent_after = '120s'\n[zookeeper]\nservers = '127.0.0.1:{}'\n",
        zookeeper.port.number
    );
    let collector = sandbox.collector_with("a", &text).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let (client, eyes) = (zookeeper.client().await, zookeeper.client().await);
    prepare(&client).await?;
    let mut fleets = Vec::new();
    for name in 0..groups {
        fleets.push(group(&address, name).await?);
    }
    let written = || async {
        collector
            .metric("redkeeper_zookeeper_writes_total")
            .unwrap_or(0.0)
    };
    let up = || async { collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all are known", up, |n| *n == Some((ALL * groups) as f64)).await;
    eventually("all are published", written, |n| *n >= (ALL * groups) as f64).await;
    let watch = |path: &'static str| eyes.watch(path, AddWatchMode::PersistentRecursive);
    let mut statuses = watch("/redkeeper/instances").await.map_err(|e| e.to_string())?;
    let mut raws = watch("/raw").await.map_err(|e| e.to_string())?;
    let batches = || async {
        collector
            .metric("redkeeper_zookeeper_batches_total{result=\"ok\"}")
            .unwrap_or(0.0)
    };
    let before = batches().await;
    let mut times = [Samples::default(), Samples::default(), Samples::default()];
    for round in 0..groups * FLIPS {
        let fleet = &mut fleets[round / FLIPS];
        // What the agents would have to say is there before the clock runs, as the raw writer's paths are.
        let changes = fleet
            .iter()
            .map(|speaker| speaker.changes(1, EACH, round % FLIPS == 1));
        let changes: Vec<_> = changes.collect();
        let start = Instant::now();
        for (speaker, messages) in fleet.iter_mut().zip(changes) {
            for message in messages {
                speaker.say(message).await?;
            }
        }
        told(&mut statuses, 4, ALL)
            .await
            .map_err(|e| format!("round {round}: {e}"))?;
        let ours = start.elapsed();
        let start = Instant::now();
        let (written, seen) = tokio::join!(multis(&client, round), told(&mut raws, 3, ALL));
        written.and(seen)?;
        let raw = start.elapsed();
        let start = Instant::now();
        for n in 0..SINGLES {
            let set = client.set_data(&path(n), &data(round), None).await;
            set.map_err(|e| e.to_string())?;
        }
        told(&mut raws, 3, SINGLES).await?;
        let single = start.elapsed() * (ALL / SINGLES) as u32;
        // The first round warms up.
        if round > 0 {
            for (samples, time) in times.iter_mut().zip([ours, raw, single]) {
                samples.push_ms(time);
            }
        }
    }
    let mut outcome = Outcome::default();
    let writes = (batches().await - before) / (groups * FLIPS) as f64;
    outcome.value("multis_for_10000_transitions", Some(writes));
    outcome.sample("redkeeper: 10,000 transitions told", "ms", &times[0]);
    outcome.sample("raw multi of 100, 8 in flight", "ms", &times[1]);
    outcome.sample("one set at a time (10 x 1,000)", "ms", &times[2]);
    outcome.ratio("to_raw_multi", times[1].ratio(&times[0]));
    outcome.ratio("times_single", times[2].ratio(&times[0]));
    let sets = [
        ("redkeeper", &times[0]),
        ("raw multi", &times[1]),
        ("single", &times[2]),
    ];
    outcome.plots.extend(plot::distributions(
        "publish.svg",
        "10,000 transitions",
        "ms",
        &sets,
    ));
    outcome
        .notes
        .push("all sides end when a recursive watch of a third session has told of every znode".to_owned());
    Ok(outcome)
}
