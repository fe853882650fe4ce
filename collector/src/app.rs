//! Binds, builds, starts and stops the collector.
//!
//! `crate::components` builds what runs, `serve` gives it ports and starts it, `crate::shutdown` stops it step by step.

use std::{sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use redkeeper_runtime::{
    admin,
    clock::Clock,
    daemon::{self, DaemonError},
    net::{Bound, Listener, Listeners, Shares},
    signals,
    supervise::Supervisor,
};
use tokio_util::sync::CancellationToken;

use crate::{
    components::{Components, Settings, StopTokens},
    config::Config,
    grpc::{incoming, server},
    http::{
        Pages,
        debug::Sources,
        gauges::{self, Standing},
    },
    leader::Coordinator,
    metrics::Metrics,
    peers::Network,
    shutdown::Shutdown,
    store::{Store, memory::Memory, zookeeper::ZooKeeper},
};

/// Threads of the main runtime: half of the CPUs, 1 to 4. A message passes four tasks; on more threads each step wakes
/// another CPU, which costs more than the step. One thread handles some 50,000 messages or queries a second.
fn threads() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).clamp(1, 4)
}

/// How long the last step of the aggregator may take.
const AGGREGATOR_LIMIT: Duration = Duration::from_secs(1);

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
    let mut registry = Registry::default();
    let ports = Ports::open(&config, &mut registry)?;
    let supervisor = Supervisor::new(CancellationToken::new());
    let stop = supervisor.stop().clone();
    let (clock, metrics) = (Clock::new(), Metrics::new(&mut registry));
    let shutdown = Shutdown::new(config.shutdown_grace);
    let stop_tokens = StopTokens {
        leader: shutdown.leader.clone(),
        aggregator: shutdown.aggregator.clone(),
    };
    let settings = settings(&config, shutdown.close_grace());
    let components = Components::new(settings, store, clock, &supervisor, &metrics, stop_tokens);

    let sources = Sources {
        id: config.id.clone(),
        standalone: config.zookeeper.is_none(),
        silent_after: config.silent_after,
        layout: components.layout,
        clock,
        view: components.view.clone(),
        leadership: components.leadership.clone(),
        open_streams: components.open_streams,
        config: config.values.clone(),
        diagnostics: components.diagnostics,
    };
    let standing = Standing {
        leadership: components.leadership,
        peers: components.peers,
        clock,
    };
    gauges::register(&mut registry, components.view.clone(), standing.clone());
    let pages = Pages {
        standing,
        view: components.view,
        pending: metrics.pending,
        stop: stop.clone(),
    };
    let admin = pages.admin(sources, supervisor.clone(), registry);
    let servers = vec![(ports.http, admin.public_router()), (ports.admin, admin.router())];
    admin::serve(&admin, servers).map_err(DaemonError::Start)?;

    let listens = signals::listen(stop.clone()).map_err(DaemonError::Start)?;
    let _listens = supervisor.spawn("signals", "", listens);
    let aggregating = supervisor.spawn_critical("aggregator", "", components.aggregator.run());
    let coordinating = start_coordinator(&supervisor, components.coordinator).map_err(DaemonError::Start)?;
    let _owned_by_supervisor = supervisor.spawn_critical("peers", "", components.peer_links.run());
    let (failing, close, services) = (supervisor.clone(), shutdown.grpc.clone(), components.services);
    let connections = incoming::connections(ports.grpc);
    let _owned_by_supervisor = supervisor.spawn_critical("grpc", "", async move {
        if let Err(e) = server::serve(connections, services, close).await {
            failing.fail(format!("gRPC server: {e}"));
        }
    });
    for kind in ["aggregator", "coordinator", "grpc", "peers", "pulse", "signals"] {
        supervisor.expect(kind, 1);
    }
    tracing::info!(
        collector = %config.id, grpc = %config.grpc_listen, http = %config.http_listen, admin = %config.admin_listen,
        standalone = config.zookeeper.is_none(), "started"
    );

    stop.cancelled().await;
    let clean = shutdown.run(&supervisor).await;
    // The coordinator's thread ends with its task.
    drop(coordinating);
    // Only a step that never ends could hold it up; the process ends all the same.
    drop(tokio::time::timeout(AGGREGATOR_LIMIT, aggregating.join()).await);
    daemon::verdict(&supervisor, clean, config.shutdown_grace)
}

/// The listening ports.
struct Ports {
    grpc: Listener,
    http: Bound,
    admin: Bound,
}

impl Ports {
    /// Binds all ports, before anything is started, and exports what happens on them.
    fn open(config: &Config, registry: &mut Registry) -> Result<Self, DaemonError> {
        let bound = |what, address| move |e| DaemonError::Bind(what, address, e);
        let grpc = server::bind(config.grpc_listen, config.silent_after)
            .map_err(bound("grpc_listen", config.grpc_listen))?;
        let http = admin::bind(config.http_listen).map_err(bound("http_listen", config.http_listen))?;
        let admin = admin::bind(config.admin_listen).map_err(bound("admin_listen", config.admin_listen))?;
        let (listeners, shares) = (Listeners::default(), Shares::of_this_process());
        registry.register_collector(Box::new(listeners.clone()));
        let grpc = listeners.add("grpc", grpc, shares.grpc).listen();
        Ok(Self {
            grpc: grpc.map_err(DaemonError::Start)?,
            http: listeners.add("http", http, shares.http),
            admin: listeners.add("admin", admin, shares.admin),
        })
    }
}

fn settings(config: &Config, close_grace: Duration) -> Settings {
    let zookeeper = config.zookeeper.as_ref();
    Settings {
        id: config.id.clone(),
        advertise: config.advertise.clone(),
        boot: format!("{:016x}", fastrand::u64(..)),
        heartbeat_interval: config.heartbeat_interval,
        silent_after: config.silent_after,
        freshness_interval: config.freshness_interval,
        brake: config.brake,
        standalone: zookeeper.is_none(),
        dial: Arc::new(Network),
        root: zookeeper.map_or("/redkeeper", |zk| zk.root.as_str()).to_owned(),
        orphans_max_percent: zookeeper.map_or(100, |zk| zk.orphans_max_percent),
        close_grace,
    }
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
