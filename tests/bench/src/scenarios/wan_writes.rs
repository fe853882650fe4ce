//! P10: what reaches ZooKeeper for 10,000 healthy instances, beside a daemon that writes each status every 10 s, in the
//! same windows.

use std::time::Duration;

use redkeeper_tests::{
    Sandbox,
    daemons::Collector,
    eventually,
    history::{self, Txn},
    process::Process,
    servers::ZooKeeper,
    txnlog,
};

use crate::{floors, plot, report::Outcome, rig::runtime, stats::Samples};

const ALL: usize = 10_000;
/// Instances of one agent at most.
const EACH: usize = 500;
/// The score card counts over so long.
const MINUTES: f64 = 10.0;
/// How long writes are counted for each smaller number of instances: two turns of the daemon.
const GROWTH_WINDOW: Duration = Duration::from_secs(20);

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Transactions in ZooKeeper's log.
#[derive(Clone, Copy)]
struct Counted {
    /// Writes of statuses by redkeeper.
    ours: f64,
    daemons: f64,
    /// All transactions that are not the daemon's.
    any: f64,
}

/// Both kinds of writers for the same number of healthy instances.
struct Rig {
    zookeeper: ZooKeeper,
    collector: Collector,
    instances: usize,
    _writers: [Process; 2],
}

impl Rig {
    /// When every status is there, and nothing more is to be written.
    async fn new(sandbox: &Sandbox, instances: usize) -> Self {
        let zookeeper = sandbox.durable_zookeeper().await;
        let server = format!("127.0.0.1:{}", zookeeper.port.number);
        let store = format!("[zookeeper]\nservers = '{server}'\n");
        let collector = sandbox.collector_with("a", &store).await;
        let address = format!("127.0.0.1:{}", collector.grpc.number);
        let (agents, each) = (instances.div_ceil(EACH), instances.min(EACH));
        let words = [address, agents.to_string(), each.to_string(), "1000".to_owned()];
        let fleet = floors::start(sandbox, "fleet", &words);
        let written = || async { collector.metric("redkeeper_zookeeper_writes_total") };
        eventually("all are published", written, |n| *n >= Some(instances as f64)).await;
        let txns = txnlog::read(&zookeeper.data);
        let bytes = history::status_writes(&txns).find_map(|(_, _, op)| op.data().map(<[u8]>::len));
        let words = [
            server,
            instances.to_string(),
            bytes.unwrap_or_default().to_string(),
        ];
        let daemon = floors::start(sandbox, "daemon", &words);
        let ready = || async { daemon.log() };
        eventually("the daemon is ready", ready, |log| log.starts_with("ready")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        Self {
            zookeeper,
            collector,
            instances,
            _writers: [fleet, daemon],
        }
    }

    fn counted(&self) -> Counted {
        let txns = txnlog::read(&self.zookeeper.data);
        let daemons = |txn: &&Txn| txn.ops.iter().any(|op| op.path().starts_with("/daemon"));
        let daemons = txns.iter().filter(daemons).count();
        Counted {
            ours: history::status_writes(&txns).count() as f64,
            daemons: daemons as f64,
            any: (txns.len() - daemons) as f64,
        }
    }

    /// What was written in so many windows; all instances must be UP after them.
    async fn windows(&self, count: usize, window: Duration) -> Result<[Samples; 3], String> {
        let mut samples = <[Samples; 3]>::default();
        let mut before = self.counted();
        for _ in 0..count {
            tokio::time::sleep(window).await;
            let now = self.counted();
            let of = |get: fn(&Counted) -> f64| get(&now) - get(&before);
            samples[0].push(of(|counted| counted.ours));
            samples[1].push(of(|counted| counted.daemons));
            samples[2].push(of(|counted| counted.any));
            before = now;
        }
        let up = self
            .collector
            .metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}");
        if up != Some(self.instances as f64) {
            return Err(format!(
                "{up:?} of {} instances were UP at the end",
                self.instances
            ));
        }
        Ok(samples)
    }
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    // Five windows, ten minutes in all.
    let (windows, window) = (5, Duration::from_secs(if quick { 4 } else { 120 }));
    let sandbox = Sandbox::new();
    let rig = Rig::new(&sandbox, ALL).await;
    let [ours, theirs, any] = rig.windows(windows, window).await?;
    let mut outcome = Outcome::default();
    outcome.sample("redkeeper: statuses written in a window", "1", &ours);
    outcome.sample("daemon: statuses written in a window", "1", &theirs);
    outcome.sample("redkeeper: transactions of any kind in a window", "1", &any);
    let each = |samples: &Samples| samples.0.iter().sum::<f64>() / ALL as f64;
    let minutes = (window * windows as u32).as_secs_f64() / 60.0;
    outcome.value("writes_per_healthy_instance", Some(each(&ours)));
    outcome.value("writes_of_a_daemon_per_instance", Some(each(&theirs)));
    outcome.value("minutes", Some(minutes));
    outcome.notes.push(format!(
        "counted in ZooKeeper's own transaction log over {} windows of {} s at the same time for both",
        windows,
        window.as_secs()
    ));
    if minutes < MINUTES {
        let note = format!("the score card asks for {MINUTES} minutes, which are measured without --quick");
        outcome.notes.push(note);
    }
    if quick {
        outcome.growth_is_left_out();
        return Ok(outcome);
    }
    drop((rig, sandbox));
    let mut lines = ["redkeeper", "daemon"].map(|name| (name.to_owned(), Vec::new()));
    for count in [1, 10, 100, 1_000] {
        let sandbox = Sandbox::new();
        let rig = Rig::new(&sandbox, count).await;
        let [ours, theirs, _] = rig.windows(1, GROWTH_WINDOW).await?;
        let minute = 60.0 / GROWTH_WINDOW.as_secs_f64();
        for ((_, points), samples) in lines.iter_mut().zip([ours, theirs]) {
            points.push((count as f64, samples.0.iter().sum::<f64>() * minute));
        }
    }
    for ((_, points), samples) in lines.iter_mut().zip([&ours, &theirs]) {
        points.push((ALL as f64, samples.0.iter().sum::<f64>() / minutes));
    }
    let axes = ("healthy instances", "statuses written in a minute");
    let plot = plot::growth_from_zero(
        "wan-writes-growth.svg",
        "Writes that reach ZooKeeper",
        axes,
        &lines,
    );
    outcome.plots.extend(plot);
    Ok(outcome)
}
