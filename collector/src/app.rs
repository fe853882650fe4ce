//! Binds, builds, starts and stops the collector.
//!
//! `serve` builds everything that runs; `crate::shutdown` stops it step by step.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::registry::Registry;
use redkeeper_core::fleet::Fleet;
use redkeeper_runtime::{
    admin,
    clock::Clock,
    daemon::{self, DaemonError},
    net::{Listeners, Shares},
    signals,
    supervise::Supervisor,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    fleet::{aggregator::Aggregator, command::COMMANDS_MAX, heartbeats::HeartbeatQueue, view},
    grpc::{
        agent::Ingest,
        incoming,
        server::{self, Services},
        status::Queries,
    },
    http::{
        Pages,
        gauges::{self, Standing},
    },
    leader::{Coordinator, leadership::Leadership},
    metrics::Metrics,
    peers::{Peers, poll::PeerPoller},
    publish::{AUDIT_INTERVAL, AUDIT_INTERVAL_STANDALONE},
    shutdown::Shutdown,
    store::{Store, layout::Layout, memory::Memory, zookeeper::ZooKeeper},
};

/// Threads of the main runtime: half of the CPUs, 1 to 4. A message passes four tasks; on more threads each step wakes
/// another CPU, which costs more than the step. One thread handles some 50,000 messages or queries a second.
fn threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).clamp(1, 4)
}

/// How long the last step of the aggregator may take.
const AGGREGATOR_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the collector until it is asked to stop.
///
/// # Errors
/// When it cannot start, when a critical task ends, or when it does not stop in time.
pub fn run(config: Config) -> Result<(), DaemonError> {
    let mut builder = match threads() {
        // A current-thread runtime needs no queues between threads.
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder
        .worker_threads(threads())
        .enable_all()
        .build()
        .map_err(DaemonError::Start)?;
    let result = runtime.block_on(async {
        match config.zookeeper.clone() {
            Some(zk) => {
                let store = ZooKeeper::new(&zk.servers, zk.session_timeout);
                serve(config, store).await
            }
            None => serve(config, Memory::default()).await,
        }
    });
    runtime.shutdown_background();
    result
}

async fn serve<S: Store>(config: Config, store: S) -> Result<(), DaemonError> {
    let bound = |what, address| move |e| DaemonError::Bind(what, address, e);
    let grpc_listener = server::bind(config.grpc_listen, config.silent_after)
        .map_err(bound("grpc_listen", config.grpc_listen))?;
    let http = admin::bind(config.http_listen).map_err(bound("http_listen", config.http_listen))?;
    let admin_listener =
        admin::bind(config.admin_listen).map_err(bound("admin_listen", config.admin_listen))?;

    let stop = CancellationToken::new();
    let supervisor = Supervisor::new(stop.clone());
    let clock = Clock::new();
    let (view_publisher, view) = view::channel();
    let (leadership, leadership_reader) = watch::channel(Leadership::default());
    let mut registry = Registry::default();
    let (listeners, shares) = (Listeners::default(), Shares::of_this_process());
    registry.register_collector(Box::new(listeners.clone()));
    let grpc_listener = listeners
        .add("grpc", grpc_listener, shares.grpc)
        .listen()
        .map_err(DaemonError::Start)?;
    let http = listeners.add("http", http, shares.http);
    let admin_listener = listeners.add("admin", admin_listener, shares.admin);
    let (peers, peers_reader) = watch::channel(Peers::default());
    let standing = Standing {
        leadership: leadership_reader.clone(),
        peers: peers_reader.clone(),
        clock,
    };
    let metrics = Metrics::new(&mut registry);
    gauges::register(&mut registry, view.clone(), standing.clone());
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let standalone = config.zookeeper.is_none();
    let heartbeats = Arc::new(HeartbeatQueue::default());

    let pages = Pages {
        standing,
        view: view.clone(),
        pending: metrics.pending.clone(),
        stop: stop.clone(),
    };
    let admin = pages.admin(&config.id, supervisor.clone(), registry);
    admin::serve(
        &admin,
        vec![(http, admin.public_router()), (admin_listener, admin.router())],
    )
    .map_err(DaemonError::Start)?;
    let _listens = supervisor.spawn(
        "signals",
        "",
        signals::listen(stop.clone()).map_err(DaemonError::Start)?,
    );
    supervisor.expect("signals", 1);

    let shutdown = Shutdown::new(config.shutdown_grace);
    let fleet = Fleet::new(clock.now(), config.silent_after);
    let aggregator = Aggregator::new(
        fleet,
        view_publisher,
        receiver,
        Arc::clone(&heartbeats),
        clock,
        metrics.clone(),
        shutdown.aggregator.clone(),
    );
    let aggregating = supervisor.spawn_critical("aggregator", "", aggregator.run());

    let root = config
        .zookeeper
        .as_ref()
        .map_or("/redkeeper", |zk| zk.root.as_str());
    let coordinator = Coordinator {
        store,
        layout: Layout::new(root),
        id: config.id.clone(),
        address: config.advertise.clone(),
        view: view.clone(),
        commands: commands.clone(),
        leadership,
        clock,
        orphans_max_percent: config.zookeeper.as_ref().map_or(100, |zk| zk.orphans_max_percent),
        audit_interval: if standalone {
            AUDIT_INTERVAL_STANDALONE
        } else {
            AUDIT_INTERVAL
        },
        metrics: metrics.clone(),
        stop: shutdown.leader.clone(),
    };
    let coordinating = start_coordinator(&supervisor, coordinator).map_err(DaemonError::Start)?;

    let watchman = PeerPoller {
        id: config.id.to_string(),
        leadership: leadership_reader.clone(),
        view: view.clone(),
        peers,
        clock,
        stop: stop.clone(),
    };
    let _owned_by_supervisor = supervisor.spawn_critical("peers", "", watchman.run());

    let id = config.id.to_string();
    let services = Services {
        ingest: Ingest {
            id: id.clone(),
            heartbeat_interval: config.heartbeat_interval,
            silent_after: config.silent_after,
            commands,
            heartbeats,
            clock,
            supervisor: supervisor.clone(),
            metrics: metrics.clone(),
            next_stream: Arc::new(AtomicU64::new(1)),
            refusals: Arc::default(),
        },
        queries: Queries {
            id,
            boot: format!("{:016x}", fastrand::u64(..)),
            view,
            leadership: leadership_reader.clone(),
            peers: peers_reader,
            standalone,
            clock,
            supervisor: supervisor.clone(),
            metrics,
        },
        leadership: leadership_reader,
        clock,
        draining: stop.clone(),
        close_grace: shutdown.close_grace(),
    };
    for kind in ["aggregator", "coordinator", "grpc", "peers", "pulse"] {
        supervisor.expect(kind, 1);
    }
    let (failing, close) = (supervisor.clone(), shutdown.grpc.clone());
    let _owned_by_supervisor = supervisor.spawn_critical("grpc", "", async move {
        if let Err(e) = server::serve(incoming::connections(grpc_listener), services, close).await {
            failing.fail(format!("gRPC server: {e}"));
        }
    });
    tracing::info!(
        collector = %config.id, grpc = %config.grpc_listen, http = %config.http_listen, admin = %config.admin_listen,
        standalone, "started"
    );

    stop.cancelled().await;
    let clean = shutdown.run(&supervisor).await;
    // The coordinator's thread ends with its task.
    drop(coordinating);
    // Only a step that never ends could hold it up; the process ends all the same.
    drop(tokio::time::timeout(AGGREGATOR_LIMIT, aggregating.join()).await);
    daemon::verdict(&supervisor, clean, config.shutdown_grace)
}

/// The coordinator on a thread and runtime of its own: a busy main runtime must not delay the session's pings.
fn start_coordinator<S: Store>(
    supervisor: &Supervisor,
    coordinator: Coordinator<S>,
) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let task = supervisor.critical("coordinator", String::new(), coordinator.run());
    std::thread::Builder::new()
        .name("zookeeper".to_owned())
        .spawn(move || {
            runtime.block_on(task);
        })
}
