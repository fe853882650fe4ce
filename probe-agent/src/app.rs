//! Binds, builds, starts and stops the agent.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use redkeeper_proto::dial::Network;
use redkeeper_runtime::{
    admin::{self, Admin},
    clock::Clock,
    daemon::{self, DaemonError},
    net::{Listeners, Shares},
    signals,
    supervise::Supervisor,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    debug,
    instances::InstanceTable,
    metrics::Metrics,
    probe::{
        supervisor::{ProbeSupervisor, SharedContext},
        timer::{TIMERS, Timers},
    },
    reload::{Load, Reloader},
    report::{StreamStatus, UPLINK, Uplink, boot_id::Boot},
};

/// Runs the agent until it is asked to stop.
///
/// # Errors
/// When it cannot start, when a critical task ends, or when it does not stop in time.
pub fn run(config: Config, load: Load) -> Result<(), DaemonError> {
    // One thread: probing costs wake-ups, not CPU, and a second thread would double them.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(DaemonError::Start)?;
    let result = runtime.block_on(serve(config, load));
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, load: Load) -> Result<(), DaemonError> {
    let listener = admin::bind(config.admin_listen)
        .map_err(|e| DaemonError::Bind("admin_listen", config.admin_listen, e))?;
    let stop = CancellationToken::new();
    let supervisor = Supervisor::new(stop.clone());
    let clock = Clock::new();
    let mut registry = Registry::default();
    let listeners = Listeners::default();
    registry.register_collector(Box::new(listeners.clone()));
    let metrics = Metrics::new(&mut registry);
    let table = Arc::new(InstanceTable::new(clock));
    let streams = config.collectors.iter().cloned();
    let streams: Arc<[(String, StreamStatus)]> =
        streams.map(|collector| (collector, Default::default())).collect();

    let (count, connected) = (config.instances.len(), metrics.connected.clone());
    let ready_collectors = config.collectors.clone();
    let ready = move || {
        let open = ready_collectors
            .iter()
            .any(|c| connected.get_or_create_owned(&[("collector", c.clone())]).get() == 1);
        if open {
            Ok(())
        } else {
            Err("no collector is connected".to_owned())
        }
    };
    let summary = format!(
        "{count} instances configured, collectors {}\n",
        config.collectors.join(" ")
    );
    let title = format!("redkeeper-agent {} v{}", config.id, env!("CARGO_PKG_VERSION"));
    let admin = Admin::new(
        title,
        supervisor.clone(),
        registry,
        Arc::new(ready),
        Arc::new(move || summary.clone()),
        debug::pages(&table, &streams, config.values.clone(), clock),
    );
    let address = listener.local_addr().map_err(DaemonError::Start)?;
    let listener = listeners.add("admin", listener, Shares::of_this_process().admin);
    admin::serve(&admin, vec![(listener, admin.router())]).map_err(DaemonError::Start)?;
    let _listens = supervisor.spawn(
        "signals",
        "",
        signals::listen(stop.clone()).map_err(DaemonError::Start)?,
    );
    tracing::info!(agent = %config.id, instances = count, collectors = ?config.collectors, http = %address, "started");

    #[cfg(feature = "test-hooks")]
    let _owned_by_supervisor =
        supervisor.spawn("test-hooks", "", crate::test_hooks::leak(supervisor.clone()));
    start(&config, load, &supervisor, &table, &streams, clock, &metrics)
        .await
        .map_err(DaemonError::Start)?;
    stop.cancelled().await;
    // Waits for all tasks except the one that listens for the second signal.
    let clean = supervisor.all_ended(&["signals"], config.shutdown_grace).await;
    daemon::verdict(&supervisor, clean, config.shutdown_grace)
}

/// How long the first report waits for the first discovery scan. Configured instances are probed meanwhile.
const FIRST_LOOK: std::time::Duration = std::time::Duration::from_secs(10);

async fn start(
    config: &Config,
    load: Load,
    supervisor: &Supervisor,
    table: &Arc<InstanceTable>,
    streams: &[(String, StreamStatus)],
    clock: Clock,
    metrics: &Metrics,
) -> std::io::Result<()> {
    let shared = SharedContext {
        supervisor: supervisor.clone(),
        table: Arc::clone(table),
        timers: Timers::new(clock),
        clock,
        metrics: metrics.clone(),
    };
    let timers = shared.timers.clone().run(supervisor.stop().clone());
    let _owned_by_supervisor = supervisor.spawn_critical(TIMERS, "", timers);
    let (reloads, receiver) = mpsc::channel(1);
    let reloader = Reloader::new(config.clone(), load, reloads, metrics.clone(), Arc::clone(table)).await;
    let first_look = reloader.first_look();
    let probes = ProbeSupervisor::start(shared, reloader.all(), receiver);
    let _owned_by_supervisor = supervisor.spawn_critical("probe-supervisor", "", probes.run());
    let _owned_by_supervisor =
        supervisor.spawn_critical("reload", "", reloader.run(supervisor.stop().clone())?);
    for kind in [TIMERS, "probe-supervisor", "reload"] {
        supervisor.expect(kind, 1);
    }
    supervisor.expect(UPLINK, config.collectors.len());
    let Some(boot) = Boot::new().map(Arc::new) else {
        supervisor.fail("no boot id could be made".to_owned());
        return Ok(());
    };
    for (collector, status) in streams {
        let uplink = Uplink {
            collector: collector.clone(),
            dial: Arc::new(Network),
            agent: config.id.clone(),
            boot: Arc::clone(&boot),
            host: config.host.clone(),
            table: Arc::clone(table),
            clock,
            metrics: metrics.clone(),
            status: status.clone(),
            stop: supervisor.stop().clone(),
        };
        let (first_look, stop) = (first_look.clone(), supervisor.stop().clone());
        let run = async move {
            tokio::select! {
                biased;
                () = first_look.cancelled() => (),
                () = stop.cancelled() => (),
                () = tokio::time::sleep(FIRST_LOOK) => {
                    tracing::warn!("discovery takes longer than {FIRST_LOOK:?}; reporting what is known");
                }
            }
            uplink.run().await;
        };
        // The uplink handles the end of a stream itself. If its task ends, that is a bug, and the agent stops visibly.
        let _owned_by_supervisor = supervisor.spawn_critical(UPLINK, collector.clone(), run);
    }
    Ok(())
}
