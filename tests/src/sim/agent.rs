//! A simulated agent: the product's own table, outbox and uplinks. Only the probes are replaced; verdicts are set to
//! the true states.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use redkeeper_agent::{
    instances::InstanceTable,
    metrics::Metrics,
    report::{StreamStatus, Uplink, boot_id::Boot},
};
use redkeeper_core::{
    ids::{AgentId, InstanceId},
    status::{Identity, Reason, Stage, Verdict},
    time::WallMs,
};
use redkeeper_proto::dial::Dial;
use redkeeper_runtime::clock::Clock;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Flag, Fleet, network::Route};

/// How often each instance is probed.
const INTERVAL: Duration = Duration::from_millis(500);

/// An agent of the simulation. Its process is started and stopped.
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    truth: Arc<Mutex<Vec<Reason>>>,
    /// Its network links to the collectors.
    pub links: Vec<Arc<Flag>>,
    /// The running process, if any.
    pub process: Option<Process>,
}

/// A running agent.
pub struct Process {
    table: Arc<InstanceTable>,
    _tasks: JoinSet<()>,
}

impl Agent {
    /// Creates an agent without a process.
    ///
    /// # Panics
    /// When the name is not valid.
    pub fn new(name: &str, instances: usize, collectors: usize) -> Self {
        Self {
            id: AgentId::new(name).expect("a name"),
            truth: Arc::new(Mutex::new(vec![Reason::Ok; instances])),
            links: (0..collectors).map(|_| Arc::new(Flag::new(true))).collect(),
            process: None,
        }
    }

    /// The present true reason of each of its instances.
    pub fn truth(&self) -> Vec<Reason> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Id of its `n`th instance.
    pub fn instance(&self, n: usize) -> String {
        format!("{}:{n}", self.id)
    }

    /// Starts the process: a new boot that has probed nothing yet.
    ///
    /// # Panics
    /// When a name is not valid.
    pub fn start(&mut self, fleet: &Fleet, clock: Clock, rng: &mut fastrand::Rng) {
        let boot = Arc::new(Boot::new().expect("a boot id"));
        let identity = |n| Identity {
            id: InstanceId::new(&self.instance(n)).expect("a name"),
            cluster: None,
            address: "127.0.0.1:1".into(),
            labels: Arc::default(),
        };
        let blank = Verdict::blank(Reason::NotProbed, Stage::Resolve, "", WallMs(0));
        let table = Arc::new(InstanceTable::new(clock));
        for n in 0..self.truth().len() {
            table.add(identity(n), blank.clone(), INTERVAL * 4);
        }
        let mut tasks = JoinSet::new();
        for (number, link) in self.links.iter().enumerate() {
            let route = Route {
                link: Arc::clone(link),
                fleet: Arc::clone(fleet),
                number,
                rng: Arc::new(Mutex::new(rng.fork())),
            };
            let uplink = Uplink {
                collector: format!("collector-{number}:7400"),
                dial: Arc::new(route) as Arc<dyn Dial>,
                agent: self.id.clone(),
                boot: Arc::clone(&boot),
                host: String::new(),
                table: Arc::clone(&table),
                clock,
                metrics: Metrics::default(),
                status: StreamStatus::default(),
                stop: CancellationToken::new(),
            };
            tasks.spawn(uplink.run());
        }
        let (probed, truth, first) = (Arc::clone(&table), Arc::clone(&self.truth), rng.u64(1..200));
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_millis(first)).await;
            let seen = truth.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for (handle, reason) in probed.entries().into_keys().zip(seen) {
                probed.set(handle, Verdict::blank(reason, Stage::Reply, "", WallMs(0)));
            }
            loop {
                let now = clock.now();
                probed
                    .entries()
                    .values()
                    .for_each(|entry| entry.progress.completed(now));
                tokio::time::sleep(INTERVAL).await;
            }
        });
        self.process = Some(Process { table, _tasks: tasks });
    }

    /// Changes the true reason of an instance; a running agent sees it at once.
    pub fn set(&mut self, n: usize, reason: Reason) {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)[n] = reason;
        if let Some(process) = &self.process
            && let Some((handle, _)) = process.table.entries().into_iter().nth(n)
        {
            process
                .table
                .set(handle, Verdict::blank(reason, Stage::Reply, "", WallMs(0)));
        }
    }
}

/// All collectors, shared between the world and the agents.
pub type Shared = Arc<Mutex<Vec<super::collector::Collector>>>;
