//! P6: 10,000 transitions at once until ZooKeeper has told a watcher of all of them, beside the same number of
//! plain sets by the same client library: 100 in a multi with 8 in flight, and one at a time. The plain writer has as
//! many znodes, of the same size, under paths of the same length and depth.

// The connection of a bench does not break, so its persistent watch does not get lost.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use redkeeper_tests::{
    Sandbox, eventually,
    servers::{ZooKeeper, status_path},
};
use zookeeper_client::{Acls, AddWatchMode, Client, CreateMode, EventType, PersistentWatcher};

use crate::{
    fleet::{Speaker, drain},
    machine::cpu_seconds,
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
const SIDES: [&str; 3] = ["redkeeper", "raw multi", "single"];

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// As long as `/redkeeper`.
const RAW_ROOT: &str = "/rawwriter";
/// Parts of the path of a status; what else changes is no status.
const PARTS: usize = 4;

/// Waits until changes of so many statuses were told.
async fn told(watcher: &mut PersistentWatcher, count: usize) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(count);
    while seen.len() < count {
        let event = tokio::time::timeout(Duration::from_secs(30), watcher.changed()).await;
        let event = event.map_err(|_| format!("{} of {count} changes were told within 30 s", seen.len()))?;
        if event.event_type == EventType::NodeDataChanged && event.path.split('/').count() == PARTS + 1 {
            seen.insert(event.path);
        }
    }
    Ok(())
}

/// One of the plain writer's znodes, as the statuses of a group are named.
fn path(group: usize, n: usize) -> String {
    let (agent, number) = (n / EACH as usize, n % EACH as usize + 1);
    format!(
        "{RAW_ROOT}/instances/{:02x}/agent-{group}-{agent}:{number}",
        n % 256
    )
}

/// The plain writer's client, and how large a status is.
#[derive(Clone, Copy)]
struct Raw<'a> {
    client: &'a Client,
    bytes: usize,
}

impl Raw<'_> {
    fn data(&self, n: usize) -> Vec<u8> {
        format!("{n:<bytes$}", bytes = self.bytes).into_bytes()
    }
}

async fn prepare(raw: Raw<'_>, groups: usize) -> Result<(), String> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let instances = format!("{RAW_ROOT}/instances");
    let buckets = (0..256).map(|n| format!("{instances}/{n:02x}"));
    let parents = [RAW_ROOT.to_owned(), instances.clone()]
        .into_iter()
        .chain(buckets);
    for path in parents {
        let created = raw.client.create(&path, &[], &options).await;
        created.map_err(|e| format!("{path}: {e}"))?;
    }
    for group in 0..groups {
        let batches: Vec<Vec<usize>> = numbers(ALL);
        for batch in batches {
            let mut writer = raw.client.new_multi_writer();
            for n in batch {
                let added = writer.add_create(&path(group, n), &raw.data(0), &options);
                added.map_err(|e| e.to_string())?;
            }
            writer.commit().await.map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}

/// The numbers below `count`, 100 at a time.
fn numbers(count: usize) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..count).collect();
    all.chunks(100).map(<[usize]>::to_vec).collect()
}

async fn multis(raw: Raw<'_>, group: usize, count: usize, round: usize) -> Result<(), String> {
    let sends = numbers(count).into_iter().map(|batch| async move {
        let mut writer = raw.client.new_multi_writer();
        for n in batch {
            writer
                .add_set_data(&path(group, n), &raw.data(round), None)
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

/// All sides, and who tells what was written.
struct Turns<'a> {
    raw: Raw<'a>,
    statuses: PersistentWatcher,
    raws: PersistentWatcher,
    round: usize,
    /// The collector and ZooKeeper.
    pids: [u32; 2],
}

/// What one turn took.
struct Took {
    /// Of each side until all was told.
    times: [Duration; 3],
    /// CPU in ms: of the collector for its turn, of ZooKeeper for that, of ZooKeeper for the raw multis.
    cpu: [f64; 3],
}

impl Turns<'_> {
    /// Writes `count` statuses, of the fleet's instances from number `from` on, each in its way: until all are told.
    /// One at a time is slow, so at most [`SINGLES`] are measured and the rest is counted as the same.
    async fn take(
        &mut self,
        (group, fleet): (usize, &mut [Speaker]),
        (from, count): (usize, usize),
        up: bool,
    ) -> Result<Took, String> {
        let pids = self.pids;
        let cpu = || Ok::<_, String>([cpu_seconds(pids[0])?, cpu_seconds(pids[1])?]);
        self.round += 1;
        // What the agents would have to say is there before the clock runs, as the raw writer's paths are.
        let mut messages = Vec::new();
        for (n, first) in (0..ALL).step_by(EACH as usize).enumerate() {
            let (low, high) = (from.max(first), (from + count).min(first + EACH as usize));
            if low < high {
                let number = |place: usize| (place - first) as u32;
                messages.push((n, fleet[n].changes(number(low) + 1, number(high), up)));
            }
        }
        let before = cpu()?;
        let start = Instant::now();
        for (n, messages) in messages {
            for message in messages {
                fleet[n].say(message).await?;
            }
        }
        told(&mut self.statuses, count)
            .await
            .map_err(|e| format!("turn {}: {e}", self.round))?;
        let ours = start.elapsed();
        let between = cpu()?;
        let start = Instant::now();
        let (written, seen) = tokio::join!(
            multis(self.raw, group, count, self.round),
            told(&mut self.raws, count)
        );
        written.and(seen)?;
        let raw = start.elapsed();
        let after = cpu()?;
        let (start, singles) = (Instant::now(), count.min(SINGLES));
        for n in 0..singles {
            let set = self
                .raw
                .client
                .set_data(&path(group, n), &self.raw.data(self.round), None)
                .await;
            set.map_err(|e| e.to_string())?;
        }
        told(&mut self.raws, singles).await?;
        let single = start.elapsed().mul_f64(count as f64 / singles as f64);
        Ok(Took {
            times: [ours, raw, single],
            cpu: [
                between[0] - before[0],
                between[1] - before[1],
                after[1] - between[1],
            ]
            .map(|s| s * 1e3),
        })
    }
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let groups = if quick { 5 } else { 10 };
    // One more for the growth.
    let fleets_count = groups + usize::from(!quick);
    let sandbox = Sandbox::new();
    let zookeeper: ZooKeeper = sandbox.durable_zookeeper().await;
    // Nobody beats while the bench is busy.
    let text = format!(
        "silent_after = '600s'\n[zookeeper]\nservers = '127.0.0.1:{}'\n",
        zookeeper.port.number
    );
    let collector = sandbox.collector_with("a", &text).await;
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let (client, eyes) = (zookeeper.client().await, zookeeper.client().await);
    let mut fleets = Vec::new();
    for name in 0..fleets_count {
        fleets.push(group(&address, name).await?);
    }
    let written = || async {
        collector
            .metric("redkeeper_zookeeper_writes_total")
            .unwrap_or(0.0)
    };
    let all = (ALL * fleets_count) as f64;
    let up = || async { collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all are known", up, |n| *n == Some(all)).await;
    eventually("all are published", written, |n| *n >= all).await;
    let status = client.get_data(&status_path("agent-0-0:1")).await;
    let (status, _) = status.map_err(|e| format!("a status: {e}"))?;
    let raw = Raw {
        client: &client,
        bytes: status.len(),
    };
    prepare(raw, fleets_count).await?;
    let watch = |path| eyes.watch(path, AddWatchMode::PersistentRecursive);
    let mut turns = Turns {
        raw,
        statuses: watch("/redkeeper/instances").await.map_err(|e| e.to_string())?,
        raws: watch(RAW_ROOT).await.map_err(|e| e.to_string())?,
        round: 0,
        pids: [collector.process.pid(), zookeeper.process.pid()],
    };
    let batches = || async {
        collector
            .metric("redkeeper_zookeeper_batches_total{result=\"ok\"}")
            .unwrap_or(0.0)
    };
    let before = batches().await;
    let mut times = <[Samples; 3]>::default();
    let mut cpu = <[Samples; 3]>::default();
    for round in 0..groups * FLIPS {
        let group = round / FLIPS;
        let took = turns
            .take((group, &mut fleets[group]), (0, ALL), round % FLIPS == 1)
            .await?;
        // The first group warms up: until then ZooKeeper's code is not compiled.
        if group > 0 {
            push(&mut times, took.times);
            cpu.iter_mut()
                .zip(took.cpu)
                .for_each(|(samples, ms)| samples.push(ms));
        }
    }
    let mut outcome = Outcome::default();
    let writes = (batches().await - before) / (groups * FLIPS) as f64;
    outcome.value("multis_for_10000_transitions", Some(writes));
    outcome.value("bytes_of_a_status", Some(status.len() as f64));
    outcome.sample("redkeeper: 10,000 transitions told", "ms", &times[0]);
    outcome.sample("raw multi of 100, 8 in flight", "ms", &times[1]);
    outcome.sample("one set at a time (10 x 1,000)", "ms", &times[2]);
    outcome.sample("CPU of the collector for them", "ms", &cpu[0]);
    outcome.sample("CPU of ZooKeeper for them", "ms", &cpu[1]);
    outcome.sample("CPU of ZooKeeper for raw multis", "ms", &cpu[2]);
    outcome.ratio_of("to_raw_multi", &times[1], &times[0]);
    outcome.ratio_of("times_single", &times[2], &times[0]);
    let sets = [
        (SIDES[0], &times[0]),
        (SIDES[1], &times[1]),
        (SIDES[2], &times[2]),
    ];
    let plot = plot::distributions("publish.svg", "10,000 transitions", "ms", &sets);
    outcome.plots.extend(plot);
    let note = "all sides write as many bytes to as many znodes, and end when a recursive watch of a third session has told of \
                every znode";
    outcome.notes.push(note.to_owned());
    match fleets.get_mut(groups) {
        Some(fleet) => {
            let largest = times.map(|samples| samples.median().unwrap_or_default());
            let fleet = (groups, fleet.as_mut_slice());
            outcome.plots.extend(growth(&mut turns, fleet, largest).await?);
        }
        None => outcome.growth_is_left_out(),
    }
    Ok(outcome)
}

fn push(samples: &mut [Samples; 3], times: [Duration; 3]) {
    samples
        .iter_mut()
        .zip(times)
        .for_each(|(samples, time)| samples.push_ms(time));
}

/// The same with fewer transitions. Each turn has instances of its own, so that none of them is a flapping one.
async fn growth(
    turns: &mut Turns<'_>,
    (group, fleet): (usize, &mut [Speaker]),
    largest: [f64; 3],
) -> Result<Option<String>, String> {
    let mut lines = SIDES.map(|name| (name.to_owned(), Vec::new()));
    let mut from = 0;
    for count in [1, 10, 100, 1_000] {
        let mut times = <[Samples; 3]>::default();
        for _ in 0..5 {
            let took = turns.take((group, &mut *fleet), (from, count), false).await?;
            from += count;
            push(&mut times, took.times);
        }
        for ((_, points), samples) in lines.iter_mut().zip(&times) {
            points.push((count as f64, samples.median().unwrap_or_default()));
        }
    }
    for ((_, points), largest) in lines.iter_mut().zip(largest) {
        points.push((ALL as f64, largest));
    }
    let axes = ("transitions at once", "ms until all are told");
    Ok(plot::growth(
        "publish-growth.svg",
        "Transitions until all are told",
        axes,
        &lines,
    ))
}
