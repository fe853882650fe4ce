//! P9: the leader is killed, or stopped cleanly, until the next one has written; beside ZooKeeper's session time-out.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    daemons::{Collector, http_get},
    eventually,
    servers::ZooKeeper,
};

use crate::{plot, report::Outcome, rig::runtime, stats::Samples};

mod growth;

/// Asked for; what the server grants is what counts.
const SESSION: Duration = Duration::from_secs(3);

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Three collectors, one ZooKeeper, and a session of the bench's own.
struct Rig<'a> {
    sandbox: &'a Sandbox,
    zookeeper: ZooKeeper,
    client: zookeeper_client::Client,
    collectors: Vec<Collector>,
}

impl<'a> Rig<'a> {
    async fn new(sandbox: &'a Sandbox) -> Result<Self, String> {
        let zookeeper = sandbox.durable_zookeeper().await;
        let address = format!("127.0.0.1:{}", zookeeper.port.number);
        let text = format!(
            "silent_after = '600s'\n[zookeeper]\nservers = '{address}'\nsession_timeout = '{}s'\n",
            SESSION.as_secs()
        );
        let mut collectors = Vec::new();
        for id in ["a", "b", "c"] {
            collectors.push(sandbox.collector_with(id, &text).await);
        }
        let client = zookeeper_client::Client::connector().with_session_timeout(SESSION);
        let client = client.connect(&address).await;
        Ok(Self {
            sandbox,
            client: client.map_err(|e| format!("{address}: {e}"))?,
            zookeeper,
            collectors,
        })
    }

    /// The place of the leader, once it is live.
    async fn leader(&self) -> Result<usize, String> {
        let (zookeeper, client) = (&self.zookeeper, &self.client);
        let live = || async {
            let publisher = zookeeper.json(client, "/redkeeper/publisher").await?;
            let epoch = zookeeper.json(client, "/redkeeper/epoch").await?;
            (publisher["phase"] == "live").then(|| epoch["holder"].as_str().unwrap_or_default().to_owned())
        };
        let holder = eventually("a live leader", live, Option::is_some)
            .await
            .unwrap_or_default();
        let place = self.collectors.iter().position(|c| c.id == holder);
        place.ok_or_else(|| format!("the leader is {holder:?}"))
    }

    /// Starts one that ended; until all are candidates.
    async fn restart(&mut self, place: usize) {
        self.sandbox.restart_collector(&mut self.collectors[place]);
        let port = self.collectors[place].admin.number;
        let alive = || async { http_get(port, "/livez").is_ok() };
        eventually("it is back", alive, |alive| *alive).await;
        let members = || async {
            let members = self.client.list_children("/redkeeper/collectors").await;
            members.map_or(0, |c| c.len())
        };
        eventually("three members", members, |n| *n == 3).await;
    }
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let rounds = if quick { 5 } else { 10 };
    let sandbox = Sandbox::new();
    let mut rig = Rig::new(&sandbox).await?;
    // The same that it grants to a collector that asks for the same.
    let granted = rig.client.session_timeout();
    let (mut kill, mut clean, mut session) = (Samples::default(), Samples::default(), Samples::default());
    for n in 0..2 * (rounds + 1) {
        let signal = if n % 2 == 0 {
            Signal::SIGKILL
        } else {
            Signal::SIGTERM
        };
        let old = rig.leader().await?;
        let watch = rig.client.get_and_watch_data("/redkeeper/epoch").await;
        let (_, _, watcher) = watch.map_err(|e| e.to_string())?;
        let start = Instant::now();
        rig.collectors[old].process.signal(signal);
        // The claim of the next one is its first write.
        tokio::time::timeout(granted * 4, watcher.changed())
            .await
            .map_err(|_| format!("nobody took over after {signal}"))?;
        let took = start.elapsed();
        if n >= 2 {
            if signal == Signal::SIGKILL {
                kill.push_ms(took);
                session.push_ms(granted);
            } else {
                clean.push_ms(took);
            }
        }
        rig.restart(old).await;
    }
    let mut outcome = Outcome::default();
    outcome.sample("kill -9 -> first write of the next", "ms", &kill);
    outcome.sample("SIGTERM -> first write of the next", "ms", &clean);
    outcome.sample("session time-out that ZooKeeper grants", "ms", &session);
    outcome.value_of("kill_ms", &kill);
    outcome.value_of("clean_ms", &clean);
    outcome.ratio_of("times_faster_than_session", &session, &kill);
    let sets = [("killed", &kill), ("stopped", &clean)];
    outcome.plots.extend(plot::distributions(
        "failover.svg",
        "Until the next leader writes",
        "ms",
        &sets,
    ));
    if quick {
        outcome.growth_is_left_out();
    } else {
        growth::growth(&mut rig, &mut outcome).await?;
    }
    Ok(outcome)
}
