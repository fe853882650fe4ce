//! A simulated collector: the product's own gRPC server, aggregator, coordinator and publisher. Only the network and
//! ZooKeeper's client are replaced; `collector::components` joins the rest, as in the daemon.

use std::{convert::Infallible, sync::Arc, time::Duration};

use redkeeper_collector::{
    components::{Components, Settings, StopTokens},
    fleet::view::ViewHandle,
    grpc::server,
    leader::leadership::Leadership,
    metrics::Metrics,
};
use redkeeper_core::{fleet::BrakeSettings, ids::CollectorId, relay_plan::overdue_after, status::State};
use redkeeper_proto::dial::Dial;
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
/// Heartbeat interval of agents.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long statuses are held in a mass silence.
const BRAKE_HOLD: Duration = Duration::from_secs(5);
/// Interval of freshness marks.
const FRESHNESS: Duration = Duration::from_secs(1);
/// Maximum time that a process may take to stop.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);
/// How long the streams take to be drained.
const DRAIN_TIME: Duration = Duration::from_millis(20);
/// Maximum number of connections waiting to be accepted.
const BACKLOG: usize = 128;

/// A collector of the simulation. Its process is started and stopped.
pub struct Collector {
    /// Its name.
    pub id: CollectorId,
    /// Its network link to ZooKeeper.
    pub zookeeper: Arc<Flag>,
    /// Its network links to the other collectors, for the connections that it opens, by their index.
    pub peers: Vec<Arc<Flag>>,
    /// How often it was started.
    starts: u64,
    /// The running process, if any.
    pub process: Option<Process>,
}

/// A running collector.
pub struct Process {
    /// Accepts connections of agents.
    pub entrance: mpsc::Sender<Result<Socket, Infallible>>,
    /// Cancelled once the process has ended.
    pub dead: CancellationToken,
    /// Its view of the fleet.
    pub view: ViewHandle,
    /// Its leadership, as it reports it.
    pub leadership: watch::Receiver<Leadership>,
    /// The steps of the end, as `collector::shutdown` takes them: the request, the leader, the server.
    stop: [CancellationToken; 3],
    tasks: JoinSet<()>,
    server: JoinSet<()>,
    _links: JoinSet<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.dead.cancel();
        // If the server ended normally, it would close its connections at the same instant as they are reset.
        let server = std::mem::take(&mut self.server);
        super::run_in_background(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(server);
        });
    }
}

impl Collector {
    /// Creates a collector without a process.
    ///
    /// # Panics
    /// When the name is not valid.
    pub fn new(name: &str) -> Self {
        Self {
            id: CollectorId::new(name).expect("a name"),
            zookeeper: Arc::new(Flag::new(true)),
            peers: Vec::new(),
            starts: 0,
            process: None,
        }
    }

    /// Starts the process.
    ///
    /// # Panics
    /// When the server cannot be built.
    pub fn start(&mut self, ensemble: &Ensemble, clock: Clock, dial: Arc<dyn Dial>) {
        self.starts += 1;
        let [stop, leader_stop, server_stop] = [0; 3].map(|_| CancellationToken::new());
        let settings = Settings {
            id: self.id.clone(),
            advertise: format!("{}:7400", self.id),
            boot: self.starts.to_string(),
            dial,
            heartbeat_interval: HEARTBEAT,
            silent_after: SILENT_AFTER,
            freshness_interval: FRESHNESS,
            brake: BrakeSettings {
                min_agents: 3,
                share: 0.5,
                hold: BRAKE_HOLD,
                overdue_after: overdue_after(HEARTBEAT, SILENT_AFTER),
            },
            standalone: false,
            root: "/redkeeper".to_owned(),
            orphans_max_percent: 10,
            close_grace: SHUTDOWN_GRACE / 2,
        };
        let components = Components::new(
            settings,
            ensemble.client(Arc::clone(&self.zookeeper)),
            clock,
            &Supervisor::new(stop.clone()),
            &Metrics::default(),
            StopTokens {
                leader: leader_stop.clone(),
                aggregator: CancellationToken::new(),
            },
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(components.aggregator.run());
        tasks.spawn(components.coordinator.run());
        let mut links = JoinSet::new();
        links.spawn(components.peer_links.run());
        let (entrance, accepted) = mpsc::channel(BACKLOG);
        let served = server::serve(
            ReceiverStream::new(accepted),
            components.services,
            server_stop.clone(),
        );
        let mut server = JoinSet::new();
        server.spawn(async { served.await.expect("the server") });
        self.process = Some(Process {
            entrance,
            dead: CancellationToken::new(),
            server,
            view: components.view,
            leadership: components.leadership,
            stop: [stop, leader_stop, server_stop],
            tasks,
            _links: links,
        });
    }

    /// Ends the process as SIGKILL does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends it as SIGTERM does.
    pub fn terminate(&mut self) {
        if let Some(mut process) = self.process.take() {
            let [request, leader, server] = process.stop.clone();
            request.cancel();
            super::run_in_background(async move {
                // The aggregator runs until the coordinator has handed over and the server has ended.
                let ended = async {
                    leader.cancel();
                    process.tasks.join_next().await;
                    tokio::time::sleep(DRAIN_TIME).await;
                    server.cancel();
                    process.server.join_next().await;
                };
                // If it does not end in time, it is killed.
                tokio::time::timeout(SHUTDOWN_GRACE, ended).await.ok();
            });
        }
    }

    /// State of an instance in this collector's view.
    pub fn state(&self, id: &str) -> Option<State> {
        let view = self.process.as_ref()?.view.get();
        let id = redkeeper_core::ids::InstanceId::new(id).ok()?;
        Some(view.instances.get(&id)?.status.verdict.state())
    }

    /// Whether it claims to lead.
    pub fn says_it_leads(&self, clock: Clock) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.leadership.borrow().leader(clock.now()) == self.id.as_str())
    }
}
