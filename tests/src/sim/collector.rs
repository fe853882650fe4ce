//! A collector in the simulation: the product's own gRPC server, aggregator, coordinator and publisher. Only the
//! network and ZooKeeper's client are replaced.

use std::{
    convert::Infallible,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use redkeeper_collector::{
    fleet::{
        aggregator::Aggregator,
        command::COMMANDS_MAX,
        heartbeats::Beats,
        view::{self, Shared},
    },
    grpc::{
        agent::Ingest,
        server::{self, Services},
        status::Queries,
    },
    leader::{Coordinator, leadership::Directory},
    metrics::Metrics,
    peers::Peers,
    publish::AUDIT_INTERVAL,
    store::layout::Layout,
};
use redkeeper_core::{fleet::Fleet, ids::CollectorId, status::State};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use super::{Flag, ensemble::Ensemble, network::Socket};

/// Silence after which an agent's instances are UNKNOWN.
pub const SILENT_AFTER: Duration = Duration::from_secs(3);
/// How often an agent proves that it lives.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long a process may take to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: usize = 128;

/// One collector's place in the world; the process in it comes and goes.
pub struct Collector {
    /// Its name.
    pub id: CollectorId,
    /// Its way to ZooKeeper.
    pub zookeeper: Arc<Flag>,
    /// The process.
    pub process: Option<Process>,
}

/// A running collector.
pub struct Process {
    /// Takes connections of agents.
    pub entrance: mpsc::Sender<Result<Socket, Infallible>>,
    /// Cancelled when it has ended.
    pub dead: CancellationToken,
    /// What it knows.
    pub view: Shared,
    /// What it says of itself.
    pub directory: watch::Receiver<Directory>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
    server: JoinSet<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.dead.cancel();
        // The server's own end would tell its connections to close, at the same instant as they are reset.
        let server = std::mem::take(&mut self.server);
        super::run_in_background(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(server);
        });
    }
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
        }
    }

    /// Starts the process.
    ///
    /// # Panics
    /// When the server cannot be built.
    pub fn start(&mut self, ensemble: &Ensemble, clock: Clock) {
        let (replacer, view) = view::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (directory, reader) = watch::channel(Directory::default());
        let stop = CancellationToken::new();
        let metrics = Metrics::default();
        let (beats, fleet) = (Arc::new(Beats::default()), Fleet::new(clock.now(), SILENT_AFTER));
        let aggregator = Aggregator::new(
            fleet,
            replacer,
            receiver,
            Arc::clone(&beats),
            clock,
            metrics.clone(),
            CancellationToken::new(),
        );
        let supervisor = Supervisor::new(stop.clone());
        let services = Services {
            ingest: Ingest {
                id: self.id.to_string(),
                heartbeat_interval: HEARTBEAT,
                silent_after: SILENT_AFTER,
                commands: commands.clone(),
                beats,
                clock,
                supervisor: supervisor.clone(),
                metrics: metrics.clone(),
                next_stream: Arc::new(AtomicU64::new(1)),
                refusals: Arc::default(),
            },
            queries: Queries {
                id: self.id.to_string(),
                boot: "1".to_owned(),
                view: view.clone(),
                directory: reader.clone(),
                peers: watch::channel(Peers::default()).1,
                standalone: false,
                clock,
                supervisor,
                metrics: metrics.clone(),
            },
            directory: reader.clone(),
            clock,
            draining: stop.clone(),
            close_grace: SHUTDOWN_GRACE / 2,
        };
        let coordinator = Coordinator {
            store: ensemble.client(Arc::clone(&self.zookeeper)),
            layout: Layout::new("/redkeeper"),
            id: self.id.clone(),
            address: format!("{}:7400", self.id),
            view: view.clone(),
            commands,
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
        let (entrance, accepted) = mpsc::channel(BACKLOG);
        let served = server::serve(ReceiverStream::new(accepted), services, stop.clone());
        let mut server = JoinSet::new();
        server.spawn(async { served.await.expect("the server") });
        self.process = Some(Process {
            entrance,
            dead: CancellationToken::new(),
            server,
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
                // The aggregator runs until the server has ended and the coordinator has handed over.
                let ended = async {
                    process.server.join_next().await;
                    process.tasks.join_next().await;
                };
                // Else it is killed.
                tokio::time::timeout(SHUTDOWN_GRACE, ended).await.ok();
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
