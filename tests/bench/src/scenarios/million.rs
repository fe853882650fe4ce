//! P12: a million instances on 2,000 agents, with two collectors and sessions of 4 s. The leader is stopped, and killed:
//! until the next one writes what changed meanwhile, and until it is live. No work may hold up a thread, no session may be
//! lost.

use std::time::{Duration, Instant};

use crate::{agents::Agents, machine::cpu_seconds, report::Outcome, rig::runtime, stats::Samples};
use nix::sys::signal::Signal;
use redkeeper_core::ids::InstanceId;
use redkeeper_tests::{
    Sandbox,
    daemons::{Collector, http_get},
    servers::ZooKeeper,
};

/// Instances of one agent.
const EACH: u32 = 500;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);
/// Between the end of one fault and the measurement of the next.
const SETTLE: Duration = Duration::from_secs(12);

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    let (agents, rounds) = if quick { (200, 1) } else { (2_000, 2) };
    let mut outcome = Outcome::default();
    runtime()?.block_on(measure(agents, rounds, &mut outcome))?;
    Ok(outcome)
}

struct Rig<'a> {
    sandbox: &'a Sandbox,
    zookeeper: ZooKeeper,
    client: zookeeper_client::Client,
    collectors: Vec<Collector>,
    agents: Agents,
    instances: f64,
}

/// Waits until something holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<Duration, String> {
    let start = Instant::now();
    while !holds().await {
        if start.elapsed() > LIMIT {
            return Err(format!("not within {LIMIT:?}: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(start.elapsed())
}

impl<'a> Rig<'a> {
    async fn new(sandbox: &'a Sandbox, agents: u32) -> Result<Self, String> {
        let zookeeper = sandbox.large_zookeeper().await;
        let address = format!("127.0.0.1:{}", zookeeper.port.number);
        let text = format!("[zookeeper]\nservers = '{address}'\nsession_timeout = '4s'\n");
        let mut collectors = Vec::new();
        for id in ["a", "b"] {
            collectors.push(sandbox.collector_with(id, &text).await);
        }
        let client = zookeeper_client::Client::connect(&address).await;
        let addresses = collectors.iter().map(|c| format!("127.0.0.1:{}", c.grpc.number));
        let rig = Self {
            sandbox,
            client: client.map_err(|e| format!("{address}: {e}"))?,
            zookeeper,
            agents: Agents::start(&addresses.collect::<Vec<_>>(), agents, EACH)?,
            collectors,
            instances: f64::from(agents * EACH),
        };
        for collector in &rig.collectors {
            rig.hears_all(collector).await?;
        }
        Ok(rig)
    }

    /// Until a collector has everything at first hand.
    async fn hears_all(&self, collector: &Collector) -> Result<(), String> {
        let up = || async { collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
        until("all are UP", async || {
            up().await.is_some_and(|up| up >= self.instances)
        })
        .await?;
        Ok(())
    }

    async fn publisher(&self) -> serde_json::Value {
        let json = self.zookeeper.json(&self.client, "/redkeeper/publisher").await;
        json.unwrap_or_default()
    }

    /// The place of the leader, once it has published everything.
    async fn leader(&self) -> Result<usize, String> {
        let mut place = None;
        until("a live leader", async || {
            let json = self.publisher().await;
            place = self
                .collectors
                .iter()
                .position(|c| json["holder"] == c.id.as_str());
            json["phase"] == "live"
        })
        .await?;
        let place = place.ok_or("nobody leads")?;
        let pending = || self.collectors[place].metric("redkeeper_zookeeper_pending_writes");
        until("all are published", async || pending() == Some(0.0)).await?;
        Ok(place)
    }

    /// Until so many changes at once are published.
    async fn change(&self, each: u32, up: bool) -> Result<Duration, String> {
        let leader = &self.collectors[self.leader().await?];
        let written = || {
            leader
                .metric("redkeeper_zookeeper_writes_total")
                .unwrap_or_default()
        };
        let all = written() + f64::from(each) * f64::from(self.agents.len());
        let start = Instant::now();
        self.agents.set(usize::MAX, if up { 0 } else { each }).await;
        until("all changes are published", async || written() >= all).await?;
        Ok(start.elapsed())
    }

    /// Ends the leader while one instance changes. Returns when that was written, and when the next one was live.
    async fn take_over(&self, old: usize, signal: Signal) -> Result<(Duration, Duration), String> {
        let id = InstanceId::new("agent-0:1").map_err(|e| e.to_string())?;
        let path = format!("/redkeeper/instances/{}/{id}", id.bucket());
        let watch = self.client.get_and_watch_data(&path).await;
        let (_, _, watcher) = watch.map_err(|e| format!("{path}: {e}"))?;
        let start = Instant::now();
        self.collectors[old].process.signal(signal);
        self.agents.set(1, 1).await;
        tokio::time::timeout(LIMIT, watcher.changed())
            .await
            .map_err(|_| format!("{id} was never written"))?;
        let first = start.elapsed();
        let former = &self.collectors[old].id;
        until("the next one is live", async || {
            let json = self.publisher().await;
            json["phase"] == "live" && json["holder"] != former.as_str()
        })
        .await?;
        let live = start.elapsed();
        self.agents.set(1, 0).await;
        Ok((first, live))
    }

    /// Longest poll of any task of a collector, in milliseconds, with its kind.
    fn longest_poll(collector: &Collector) -> Result<(f64, String), String> {
        let text = http_get(collector.admin.number, "/debug/runtime?format=json")?;
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
        let polls = json["longest_polls"].as_array().cloned().unwrap_or_default();
        let of = |poll: &serde_json::Value| {
            let ms = poll["seconds"].as_f64().unwrap_or_default() * 1e3;
            (ms, poll["kind"].as_str().unwrap_or_default().to_owned())
        };
        let longest = polls.iter().map(of).max_by(|a, b| a.0.total_cmp(&b.0));
        longest.ok_or_else(|| format!("no polls in {text}"))
    }
}

async fn measure(agents: u32, rounds: usize, outcome: &mut Outcome) -> Result<(), String> {
    let sandbox = Sandbox::new();
    let start = Instant::now();
    let mut rig = Rig::new(&sandbox, agents).await?;
    rig.leader().await?;
    let mut samples = std::collections::BTreeMap::<&str, Samples>::new();
    let mut put = |name, value: f64| samples.entry(name).or_default().push(value);
    put("until all is published, s", start.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLE).await;
    // Steady.
    let leader = rig.leader().await?;
    for (place, name) in [
        (leader, "CPU of the leader, %"),
        (1 - leader, "CPU of the follower, %"),
    ] {
        let pid = rig.collectors[place].process.pid();
        let (before, since) = (cpu_seconds(pid)?, Instant::now());
        tokio::time::sleep(Duration::from_secs(5)).await;
        put(
            name,
            (cpu_seconds(pid)? - before) / since.elapsed().as_secs_f64() * 100.0,
        );
    }
    let mut bytes = 0.0_f64;
    for (place, name) in [
        (leader, "bytes for an instance, leader"),
        (1 - leader, "bytes for an instance, follower"),
    ] {
        let resident = rig.collectors[place].process.resident() as f64 / rig.instances;
        put(name, resident);
        bytes = bytes.max(resident);
    }
    // A tenth and a hundredth of them at once; 100,000 and 10,000 of a million.
    let mut ratios = Samples::default();
    for _ in 0..rounds {
        let mut took = Vec::new();
        for (each, name) in [
            (EACH / 100, "a hundredth of them changes, ms"),
            (EACH / 10, "a tenth of them changes, ms"),
        ] {
            let down = rig.change(each, false).await?;
            put(name, down.as_secs_f64() * 1e3);
            took.push(down.as_secs_f64());
            tokio::time::sleep(SETTLE).await;
            rig.change(each, true).await?;
            tokio::time::sleep(SETTLE).await;
        }
        ratios.push(took[1] / took[0]);
    }
    let (mut first, mut live) = (Samples::default(), Samples::default());
    let mut longest = (0.0, String::new());
    let mut lost = 0.0;
    for n in 0..2 * rounds {
        let (signal, name) = [(Signal::SIGTERM, "SIGTERM"), (Signal::SIGKILL, "SIGKILL")][n % 2];
        let old = rig.leader().await?;
        let heir = &rig.collectors[1 - old];
        let behind = || heir.metric("redkeeper_zookeeper_buckets_behind");
        let waited = until("the other one knows what is published", async || {
            behind() == Some(0.0)
        })
        .await?;
        eprintln!("the other one knows what is published after {waited:?}");
        let (wrote, is_live) = rig.take_over(old, signal).await?;
        eprintln!("{name}: first change written after {wrote:?}, live after {is_live:?}");
        first.push_ms(wrote);
        live.push_ms(is_live);
        let heir = &rig.collectors[1 - old];
        let poll = Rig::longest_poll(heir)?;
        eprintln!(
            "longest poll {poll:?}, sessions {:?}",
            heir.metric("redkeeper_zookeeper_sessions_total")
        );
        if poll.0 > longest.0 {
            longest = poll;
        }
        lost += heir
            .metric("redkeeper_zookeeper_sessions_total")
            .unwrap_or_default()
            - 1.0;
        rig.sandbox.restart_collector(&mut rig.collectors[old]);
        let back = &rig.collectors[old];
        until("it is back", async || {
            http_get(back.admin.number, "/livez").is_ok()
        })
        .await?;
        rig.hears_all(back).await?;
        let linked = || async {
            rig.client
                .list_children("/redkeeper/election")
                .await
                .map_or(0, |all| all.len())
        };
        until("two candidates", async || linked().await == 2).await?;
        tokio::time::sleep(SETTLE).await;
    }
    for (name, of) in &samples {
        outcome.sample(name, "", of);
    }
    outcome.sample("until the first change is written", "ms", &first);
    outcome.sample("until the next one is live", "ms", &live);
    outcome.value("first_write_ms", first.max());
    outcome.value("live_ms", live.max());
    outcome.value("sessions_lost", Some(lost));
    outcome.value("longest_poll_ms", Some(longest.0));
    outcome.value("bytes_per_instance", Some(bytes));
    outcome.value_of("tenfold_changes", &ratios);
    Ok(())
}
