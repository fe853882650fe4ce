//! Deterministic simulation in virtual time, with faults drawn from one seed. The same seed gives the same run.
//!
//! [`agent`]s, [`collector`]s and the gRPC between them are the product's own code; the [`network`], ZooKeeper
//! ([`ensemble`]) and the observations of probes are simulated. First, faults happen; then all faults are healed and
//! the system must converge; at last, only instances change. [`crate::check`] judges what was written.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redkeeper_collector::store::Session;
use redkeeper_core::status::{Reason, State};
use redkeeper_runtime::clock::Clock;
use tokio::time::Instant;

pub use flag::Flag;

use self::{agent::Agent, collector::Collector, ensemble::Ensemble, network::PeerRoutes};
use crate::{
    check::{self, Deaf, Lost, Silence, Truth},
    history::Txn,
    servers::status_path,
};

pub mod agent;
pub mod collector;
pub mod ensemble;
mod flag;
pub mod network;

/// All collectors.
pub type Fleet = agent::Shared;

/// Duration of the phase with faults.
const FAULTS: Duration = Duration::from_secs(30);
/// I8: time to converge. Session time-out, tick and 1 s until a collector leads; then the time that agents need to
/// reconnect and to be heard, and the publishing of the rest.
const CONVERGED: Duration = Duration::from_secs(8);
/// Rest after convergence, in which nothing may change.
const REST: Duration = Duration::from_secs(5);
/// Duration of the phase in which only instances change, and the time within which each change must be published.
const CHANGES: (Duration, Duration) = (Duration::from_secs(8), Duration::from_millis(100));
/// An agent that can reach a collector is heard again within this time: a SYN that is resent after 1 s, and the longest
/// back-off.
const ATTACHED: Duration = Duration::from_secs(2);
/// An agent that can reach another collector is heard by way of it within this time: a new session with ZooKeeper and the
/// list of members, the longest back-off of the link, the first roster, and the request once a heartbeat is overdue.
const RELAYED: Duration = Duration::from_secs(12);
/// When a path is lost, another one takes its place within this time: a heartbeat must be overdue first.
const SWITCHED: Duration = Duration::from_millis(2_500);
/// Maximum age of a status when it is written.
const WRITE_LAG: Duration = Duration::from_millis(500);
/// Maximum time between a true DOWN and its writing, by a collector that no longer hears the agent.
const LAG: Duration = Duration::from_secs(9);
/// Time between two checks of the simulated world.
const LOOK: Duration = Duration::from_millis(20);

/// Starts a task without an owner, for the world around the product.
#[allow(clippy::disallowed_methods)] // The simulated network, not a daemon.
pub fn run_in_background(task: impl Future<Output = ()> + Send + 'static) {
    drop(tokio::spawn(task));
}

/// Result of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Everything that was written.
    pub history: Vec<Txn>,
    /// Human-readable journal of the faults and changes.
    pub journal: Vec<String>,
    /// The first violation, if any.
    pub violation: Option<check::Violation>,
    /// Number of states that had to be published at once, and were.
    pub judged: usize,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The paths by which a collector can hear an agent: by itself, or by way of others, by their index.
#[derive(Default)]
struct Paths {
    open: BTreeSet<usize>,
    /// When a path was lost last, and when the first one of a series was, in which no other path had time to take over.
    lost: u64,
    losing_since: u64,
}

impl Paths {
    fn change(&mut self, open: BTreeSet<usize>, now: u64) {
        if self.open.difference(&open).next().is_some() || open.is_empty() {
            if now.saturating_sub(self.lost) > ms(SWITCHED) {
                self.losing_since = now;
            }
            self.lost = now;
        }
        self.open = open;
    }
}

struct World {
    paths: BTreeMap<(String, usize), Paths>,
    ensemble: Ensemble,
    clock: Clock,
    rng: fastrand::Rng,
    collectors: Fleet,
    agents: Vec<Agent>,
    truth: Truth,
    lost: Lost,
    deaf: Deaf,
    others: BTreeSet<i64>,
    journal: Vec<String>,
}

/// Runs one seed.
///
/// # Panics
/// When the runtime cannot be built.
pub fn run(seed: u64) -> Outcome {
    // Seeds the names and delays that the product draws.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async { World::new(seed).play().await })
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut collectors: Vec<_> = ["a", "b", "c"].map(Collector::new).into();
        for collector in &mut collectors {
            collector.peers = (0..3).map(|_| Arc::new(Flag::new(true))).collect();
        }
        let agents = (0..rng.usize(1..5)).map(|n| Agent::new(&format!("db{n}"), 1 + n * 2, collectors.len()));
        let agents: Vec<_> = agents.collect();
        Self {
            ensemble: Ensemble::new(Instant::now(), rng.fork()),
            clock: Clock::simulated(),
            rng,
            collectors: Arc::new(Mutex::new(collectors)),
            agents,
            truth: Truth::new(),
            paths: BTreeMap::new(),
            lost: Lost::new(),
            deaf: Deaf::new(),
            others: BTreeSet::new(),
            journal: Vec::new(),
        }
    }

    fn collectors(&self) -> MutexGuard<'_, Vec<Collector>> {
        self.collectors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a collector.
    fn start(&mut self, n: usize) {
        let (fleet, seed) = (Arc::clone(&self.collectors), self.rng.u64(..));
        let mut collectors = self.collectors();
        let routes = PeerRoutes {
            links: collectors[n].peers.clone(),
            fleet,
            rng: Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))),
        };
        collectors[n].start(&self.ensemble, self.clock, Arc::new(routes));
    }

    /// Records which collectors can hear which agents from now on. `started` has just begun to listen.
    fn note_hearing(&mut self, started: Option<usize>) {
        let now = self.ensemble.now();
        let attached = now + ms(ATTACHED);
        let fleet = Arc::clone(&self.collectors);
        let fleet = fleet.lock().unwrap_or_else(PoisonError::into_inner);
        for agent in &self.agents {
            let name = agent.id.to_string();
            let reached = |n: usize| agent.process.is_some() && agent.links[n].get();
            let lost = self.lost.entry(name.clone()).or_default();
            if (0..fleet.len()).all(reached) {
                lost.end(attached);
            } else {
                lost.begin(now);
            }
            let hears = |n: usize| reached(n) && fleet[n].process.is_some();
            for (n, collector) in fleet.iter().enumerate() {
                let deaf = self
                    .deaf
                    .entry((name.clone(), collector.id.to_string()))
                    .or_default();
                if started == Some(n) {
                    deaf.begin_anew(now);
                }
                // Another collector relays the agent where the link to that one is whole. They know each other by ZooKeeper.
                let is_known = |n: usize| fleet[n].process.is_some() && fleet[n].zookeeper.get();
                let relays = |other: usize| {
                    is_known(n) && hears(other) && is_known(other) && collector.peers[other].get()
                };
                let mut paths: BTreeSet<usize> = (0..fleet.len()).filter(|other| relays(*other)).collect();
                paths.extend(hears(n).then_some(n));
                let key = (name.clone(), n);
                let known = self.paths.entry(key).or_default();
                known.change(paths, now);
                if hears(n) {
                    deaf.end(attached);
                } else if !known.open.is_empty() {
                    deaf.end(now + ms(RELAYED));
                } else {
                    deaf.begin(known.losing_since);
                }
            }
        }
    }

    fn note(&mut self, what: String) {
        self.journal.push(format!("{:>6} {what}", self.ensemble.now()));
    }

    async fn play(mut self) -> Outcome {
        let (violation, judged) = match self.act().await {
            Ok(judged) => (None, judged),
            Err(violation) => (Some(violation), 0),
        };
        Outcome {
            history: self.ensemble.history(),
            journal: self.journal,
            violation,
            judged,
        }
    }

    async fn act(&mut self) -> Result<usize, check::Violation> {
        (0..3).for_each(|n| self.start(n));
        for n in 0..self.agents.len() {
            let mut rng = self.rng.fork();
            let fleet = Arc::clone(&self.collectors);
            self.agents[n].start(&fleet, self.clock, &mut rng);
            for i in 0..self.agents[n].truth().len() {
                self.tell(n, i);
            }
        }
        (0..3).for_each(|n| self.note_hearing(Some(n)));
        let end = Instant::now() + FAULTS;
        while Instant::now() < end {
            let pause = Duration::from_millis(self.rng.u64(20..1_500));
            self.pass(pause).await?;
            self.fault().await;
        }
        self.heal();
        let healed = self.ensemble.now();
        self.pass(CONVERGED + REST).await?;
        let rested = self.ensemble.now();
        let end = Instant::now() + CHANGES.0;
        while Instant::now() < end {
            let pause = Duration::from_millis(self.rng.u64(20..600));
            self.pass(pause).await?;
            let agent = self.rng.usize(..self.agents.len());
            self.change(agent);
        }
        self.pass(CHANGES.1).await?;
        self.judge(healed, rested)
    }

    /// Lets time pass, and checks that at no instant two collectors claim to lead.
    async fn pass(&mut self, time: Duration) -> Result<(), check::Violation> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            tokio::time::sleep(LOOK).await;
            let leaders: Vec<_> = self
                .collectors()
                .iter()
                .filter(|c| c.says_it_leads(self.clock))
                .map(|c| c.id.to_string())
                .collect();
            if leaders.len() > 1 {
                return Err(format!(
                    "{leaders:?} say that they lead, at {}",
                    self.ensemble.now()
                ));
            }
        }
        Ok(())
    }

    /// Records the true state of an instance from now on.
    fn tell(&mut self, agent: usize, n: usize) {
        let state = self.agents[agent].truth()[n].state().as_str().to_owned();
        let (id, now) = (self.agents[agent].instance(n), self.ensemble.now());
        self.truth.entry(id).or_default().push((now, state));
    }

    async fn fault(&mut self) {
        let (agent, collector) = (self.rng.usize(..self.agents.len()), self.rng.usize(..3));
        match self.rng.u8(..15) {
            0..=3 => self.change(agent),
            4 => {
                let runs = self.agents[agent].process.take().is_some();
                self.note(format!(
                    "agent {} {}",
                    self.agents[agent].id,
                    if runs { "dies" } else { "starts" }
                ));
                if !runs {
                    let (mut rng, fleet) = (self.rng.fork(), Arc::clone(&self.collectors));
                    self.agents[agent].start(&fleet, self.clock, &mut rng);
                }
            }
            5 | 6 => {
                let link = Arc::clone(&self.agents[agent].links[collector]);
                link.set(!link.get());
                let word = if link.get() { "whole" } else { "cut" };
                self.note(format!(
                    "{} to collector {collector}: {word}",
                    self.agents[agent].id
                ));
            }
            7 => {
                self.note(format!("collector {collector} killed or started"));
                let starts = self.collectors()[collector].process.is_none();
                if starts {
                    self.start(collector);
                    self.note_hearing(Some(collector));
                } else {
                    self.collectors()[collector].kill();
                }
            }
            8 => {
                self.note(format!("collector {collector} told to stop"));
                self.collectors()[collector].terminate();
            }
            9 | 10 => {
                let link = Arc::clone(&self.collectors()[collector].zookeeper);
                link.set(!link.get());
                let word = if link.get() { "whole" } else { "cut" };
                self.note(format!("collector {collector} to ZooKeeper: {word}"));
            }
            11 => {
                let percent = [0, 1, 10][self.rng.usize(..3)];
                self.note(format!("{percent} % of the requests are lost"));
                self.ensemble.lose(percent);
            }
            12 => self.meddle(agent).await,
            _ => {
                let other = (collector + self.rng.usize(1..3)) % 3;
                let link = Arc::clone(&self.collectors()[collector].peers[other]);
                link.set(!link.get());
                let word = if link.get() { "whole" } else { "cut" };
                self.note(format!("collector {collector} to collector {other}: {word}"));
            }
        }
        self.note_hearing(None);
    }

    /// Changes the state of an instance.
    fn change(&mut self, agent: usize) {
        let n = self.rng.usize(..self.agents[agent].truth().len());
        let reasons = [
            Reason::Ok,
            Reason::ConnectionRefused,
            Reason::Loading,
            Reason::ReplyTimeout,
        ];
        let reason = reasons[self.rng.usize(..reasons.len())];
        self.note(format!("{} is {reason}", self.agents[agent].instance(n)));
        self.agents[agent].set(n, reason);
        self.tell(agent, n);
    }

    /// Deletes or edits a status externally.
    async fn meddle(&mut self, agent: usize) {
        let n = self.rng.usize(..self.agents[agent].truth().len());
        let path = status_path(&self.agents[agent].instance(n));
        let hand = self.ensemble.other_hand().await;
        self.others.insert(hand.id());
        let deletes = self.rng.bool();
        self.note(format!(
            "{path} is {} by hand",
            if deletes { "deleted" } else { "edited" }
        ));
        self.ensemble.meddle(&hand, &path, deletes).await;
    }

    fn heal(&mut self) {
        self.note("healed".to_owned());
        self.ensemble.lose(0);
        let (clock, fleet) = (self.clock, Arc::clone(&self.collectors));
        for n in 0..3 {
            self.collectors()[n].zookeeper.set(true);
            self.collectors()[n].peers.iter().for_each(|link| link.set(true));
            if self.collectors()[n].process.is_none() {
                self.start(n);
                self.note_hearing(Some(n));
            }
        }
        for agent in &mut self.agents {
            agent.links.iter().for_each(|link| link.set(true));
            if agent.process.is_none() {
                agent.start(&fleet, clock, &mut self.rng);
            }
        }
        self.note_hearing(None);
    }

    fn judge(&self, healed: u64, rested: u64) -> Result<usize, check::Violation> {
        let history = self.ensemble.history();
        check::sole_writer(&history, &self.others)?;
        check::no_stale_overwrite(&history, &self.others)?;
        check::no_false_down(&history, &self.truth, &self.others, ms(LAG))?;
        let silence = Silence {
            after: ms(collector::SILENT_AFTER),
            heartbeat: ms(collector::HEARTBEAT),
            lag: ms(WRITE_LAG),
        };
        check::no_hasty_silence(&history, &self.lost, silence)?;
        check::live_again(&history, &self.truth, healed, ms(CONVERGED))?;
        check::silence_is_real(&history, &self.deaf, &self.others, silence)?;
        check::neutral(&history, &(healed + ms(CONVERGED)..rested))?;
        let changes = rested..self.ensemble.now();
        let judged = check::published_in_time(&history, &self.truth, &changes, ms(CHANGES.1))?;
        for agent in &self.agents {
            for (n, reason) in agent.truth().iter().enumerate() {
                let id = agent.instance(n);
                let told: BTreeMap<_, Option<State>> = self
                    .collectors()
                    .iter()
                    .map(|c| (c.id.to_string(), c.state(&id)))
                    .collect();
                if told.values().any(|state| *state != Some(reason.state())) {
                    return Err(format!("{id} is {reason}, told is {told:?}"));
                }
            }
        }
        Ok(judged)
    }
}

/// Runs seeds one after the other, up to the first violation.
///
/// # Panics
/// At the first violation; shows the seed and the journal.
pub fn run_all(seeds: Range<u64>) {
    let (mut judged, count) = (0, seeds.clone().count());
    for seed in seeds {
        let outcome = run(seed);
        judged += outcome.judged;
        if let Some(violation) = outcome.violation {
            if let Ok(file) = std::env::var("REDKEEPER_SIM_LOG") {
                let lines: Vec<_> = outcome.history.iter().map(|txn| format!("{txn:?}\n")).collect();
                std::fs::write(file, lines.concat()).expect("a writable file");
            }
            panic!(
                "SEED={seed}: {violation}\n{}\nagain: REDKEEPER_SIM_SEED={seed} REDKEEPER_SIM_LOG=/tmp/history cargo test -p redkeeper-tests --test simulation",
                outcome.journal.join("\n")
            );
        }
    }
    // Else I3 was judged on nothing.
    assert!(
        count < 10 || judged > count,
        "{judged} states in {count} runs were judged by the bound"
    );
}
