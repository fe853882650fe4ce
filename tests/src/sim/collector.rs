//! A collector in the simulation: the product's own aggregator, coordinator and publisher. Only the gRPC server
//! and ZooKeeper's client are replaced.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use redkeeper_collector::{
    aggregator::{Aggregator, COMMANDS_MAX, Command},
    coordinator::Coordinator,
    directory::Directory,
    layout::Layout,
    metrics::Metrics,
    publisher::AUDIT_INTERVAL,
    view::{self, Shared},
};
use redkeeper_core::{fleet::Fleet, ids::CollectorId, status::State};
use redkeeper_runtime::clock::Clock;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{Flag, ensemble::Ensemble};

/// Silence after which an agent's instances are UNKNOWN.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);

/// One collector's place in the world; the process in it comes and goes.
pub struct Collector {
    /// Its name.
    pub id: CollectorId,
    /// Its way to ZooKeeper.
    pub zookeeper: Arc<Flag>,
    /// The process.
    pub process: Option<Process>,
    /// Numbers streams, never twice.
    pub next_stream: AtomicU64,
}

/// A running collector.
pub struct Process {
    /// To the aggregator.
    pub commands: mpsc::Sender<Command>,
    /// What it knows.
    pub view: Shared,
    /// What it says of itself.
    pub directory: watch::Receiver<Directory>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Collector {
    /// A place without a process.
    ///
    /// # Panics
    /// When the name is none.
    pub fn new(name: &str) -> Self {
        Self {
            id: CollectorId::new(name).expect("a name"),
            zookeeper: Arc::new(Flag::new(true)),
            process: None,
            next_stream: AtomicU64::new(1),
        }
    }

    /// Starts the process.
    pub fn start(&mut self, ensemble: &Ensemble, clock: Clock) {
        let (replacer, view) = view::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (directory, reader) = watch::channel(Directory::default());
        let stop = CancellationToken::new();
        let metrics = Metrics::default();
        let fleet = Fleet::new(clock.now(), SILENT_AFTER);
        let aggregator = Aggregator::new(
            fleet,
            replacer,
            receiver,
            Arc::default(),
            clock,
            metrics.clone(),
            CancellationToken::new(),
        );
        let coordinator = Coordinator {
            store: ensemble.client(Arc::clone(&self.zookeeper)),
            layout: Layout::new("/redkeeper"),
            id: self.id.clone(),
            address: format!("{}:7400", self.id),
            view: view.clone(),
            commands: commands.clone(),
            directory,
            clock,
            orphans_max_percent: 10,
            audit_interval: AUDIT_INTERVAL,
            metrics,
            stop: stop.clone(),
        };
        let mut tasks = JoinSet::new();
        tasks.spawn(aggregator.run());
        tasks.spawn(coordinator.run());
        self.process = Some(Process {
            commands,
            view,
            directory: reader,
            stop,
            tasks,
        });
    }

    /// Ends the process as SIGKILL does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it as SIGTERM does.
    pub fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.stop.cancel();
            super::run_in_background(async move {
                // The aggregator runs until the coordinator has handed over; then the process exits.
                process.tasks.join_next().await;
            });
        }
    }

    /// `STATE` of an instance as this collector tells it.
    pub fn state(&self, id: &str) -> Option<State> {
        let view = self.process.as_ref()?.view.get();
        let id = redkeeper_core::ids::InstanceId::new(id).ok()?;
        Some(view.instances.get(&id)?.status.verdict.state())
    }

    /// Whether it says that it leads.
    pub fn says_it_leads(&self, clock: Clock) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.directory.borrow().leader(clock.now()) == self.id.as_str())
    }
}
