//! The components of a collector and the channels between them, without ports, threads or files. `app` runs them on the
//! machine's network and clock, the simulation on its own.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use redkeeper_core::{
    fleet::{BrakeSettings, Fleet},
    ids::CollectorId,
};
use redkeeper_proto::dial::Dial;
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    fleet::{
        aggregator::Aggregator,
        command::COMMANDS_MAX,
        heartbeats::HeartbeatQueue,
        open_streams::OpenStreams,
        view::{self, ViewHandle},
    },
    grpc::{admin::Admin, agent::Ingest, peer_link::Links, server::Services, status::Queries},
    leader::{Coordinator, hand_over, leadership::Leadership, proofs},
    metrics::Metrics,
    peers::{Peers, asking::Intervals, links::PeerLinks, relay::Intake},
    publish::{AUDIT_INTERVAL, AUDIT_INTERVAL_STANDALONE, follow, replicate},
    store::{Store, diagnostics::Diagnostics, layout::Layout, observed::Observed},
};

/// Settings of the components.
pub struct Settings {
    /// Id of this collector.
    pub id: CollectorId,
    /// `host:port` under which other collectors and tools reach it.
    pub advertise: String,
    /// Distinguishes this process from earlier ones with the same id.
    pub boot: String,
    /// Heartbeat interval that agents are asked for.
    pub heartbeat_interval: Duration,
    /// Silence after which an agent's instances are UNKNOWN.
    pub silent_after: Duration,
    /// Time between two freshness marks.
    pub freshness_interval: Duration,
    /// When statuses are held in a mass silence.
    pub brake: BrakeSettings,
    /// Whether there is no ZooKeeper, and so no other collector.
    pub standalone: bool,
    /// Opens connections to the other collectors.
    pub dial: Arc<dyn Dial>,
    /// Path under which everything is stored.
    pub root: String,
    /// Most orphaned statuses that are deleted, in percent of all.
    pub orphans_max_percent: u8,
    /// How long clients may take to close their connections during shutdown.
    pub close_grace: Duration,
}

/// Requests to stop the components whose turn comes later than that of the whole process (`shutdown`).
pub struct StopTokens {
    /// Stops the session with ZooKeeper, and with it leadership.
    pub leader: CancellationToken,
    /// Stops the aggregator.
    pub aggregator: CancellationToken,
}

/// The components, ready to run, and what they publish.
pub struct Components<S: Store> {
    /// Owner of the fleet's state.
    pub aggregator: Aggregator,
    /// The session with ZooKeeper and the election.
    pub coordinator: Coordinator<Observed<S>>,
    /// Keeps links to the other collectors.
    pub peer_links: PeerLinks,
    /// The services of the gRPC server.
    pub services: Services,
    /// The fleet, as the aggregator publishes it.
    pub view: ViewHandle,
    /// Leadership, as the coordinator publishes it.
    pub leadership: watch::Receiver<Leadership>,
    /// The other collectors, as the links tell.
    pub peers: watch::Receiver<Peers>,
    /// The open streams of agents.
    pub open_streams: Arc<OpenStreams>,
    /// What happens between the coordinator and ZooKeeper.
    pub diagnostics: Arc<Diagnostics>,
    /// Paths in ZooKeeper.
    pub layout: Layout,
}

impl<S: Store> Components<S> {
    /// Builds the components and joins them. Nothing runs yet.
    pub fn new(
        settings: Settings,
        store: S,
        clock: Clock,
        supervisor: &Supervisor,
        metrics: &Metrics,
        stop: StopTokens,
    ) -> Self {
        let (view_publisher, view) = view::channel();
        let (leadership_publisher, leadership) = watch::channel(Leadership::default());
        let (peers_publisher, peers) = watch::channel(Peers::default());
        let (ended_publisher, ended) = watch::channel(proofs::Ended::default());
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let heartbeats = Arc::new(HeartbeatQueue::default());
        let (id, layout) = (settings.id.to_string(), Layout::new(&settings.root));
        let diagnostics = Arc::new(Diagnostics::new(clock));
        let open_streams = Arc::<OpenStreams>::default();
        let next_stream = Arc::new(AtomicU64::new(1));
        let aggregator = Aggregator::new(
            Fleet::new(clock.now(), settings.silent_after).with_brake(settings.brake),
            view_publisher,
            receiver,
            Arc::clone(&heartbeats),
            clock,
            metrics.clone(),
            stop.aggregator,
        );
        let (published, told) = mpsc::channel(follow::TOLD_MAX);
        let writes = replicate::Sender::new(replicate::TOLD_MAX);
        let (hand_over, requests) = mpsc::channel(hand_over::REQUESTS_MAX);
        let coordinator = Coordinator {
            store: Observed::new(store, Arc::clone(&diagnostics)),
            layout: layout.clone(),
            id: settings.id,
            address: settings.advertise,
            view: view.clone(),
            commands: commands.clone(),
            leadership: leadership_publisher,
            ended,
            requests,
            told,
            links: writes.clone(),
            clock,
            orphans_max_percent: settings.orphans_max_percent,
            audit_interval: match settings.standalone {
                true => AUDIT_INTERVAL_STANDALONE,
                false => AUDIT_INTERVAL,
            },
            freshness_interval: settings.freshness_interval,
            metrics: metrics.clone(),
            diagnostics: Arc::clone(&diagnostics),
            stop: stop.leader,
        };
        let peer_links = PeerLinks {
            id: id.clone(),
            leadership: leadership.clone(),
            view: view.clone(),
            peers: peers_publisher,
            ended: ended_publisher,
            open_streams: Arc::clone(&open_streams),
            intake: Intake {
                commands: commands.clone(),
                next_stream: Arc::clone(&next_stream),
                metrics: metrics.clone(),
                refused: Arc::default(),
            },
            published,
            hand_over: hand_over.clone(),
            intervals: Intervals {
                heartbeat: settings.heartbeat_interval,
                silent_after: settings.silent_after,
            },
            dial: settings.dial,
            clock,
            stop: supervisor.stop().clone(),
        };
        let services = Services {
            ingest: Ingest {
                id: id.clone(),
                heartbeat_interval: settings.heartbeat_interval,
                silent_after: settings.silent_after,
                commands: commands.clone(),
                heartbeats,
                clock,
                supervisor: supervisor.clone(),
                metrics: metrics.clone(),
                next_stream,
                refusals: Arc::default(),
                open_streams: Arc::clone(&open_streams),
            },
            admin: Admin {
                id: id.clone(),
                leadership: leadership.clone(),
                peers: peers.clone(),
                hand_over,
                clock,
            },
            links: Links {
                open_streams: Arc::clone(&open_streams),
                commands,
                writes,
                metrics: metrics.clone(),
                id: id.clone(),
                boot: settings.boot.clone(),
                view: view.clone(),
                leadership: leadership.clone(),
                clock,
                supervisor: supervisor.clone(),
            },
            queries: Queries {
                id,
                boot: settings.boot,
                view: view.clone(),
                leadership: leadership.clone(),
                peers: peers.clone(),
                standalone: settings.standalone,
                clock,
                supervisor: supervisor.clone(),
                metrics: metrics.clone(),
            },
            leadership: leadership.clone(),
            clock,
            draining: supervisor.stop().clone(),
            close_grace: settings.close_grace,
        };
        Self {
            aggregator,
            coordinator,
            peer_links,
            services,
            view,
            leadership,
            peers,
            open_streams,
            diagnostics,
            layout,
        }
    }
}
