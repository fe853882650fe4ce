//! The embedded HTTP server. It has its own thread and runtime, so that it answers even when the main runtime is stuck:
//! that is when it is needed.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text::encode},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

use crate::{
    blocked_runtime::{LOOK_INTERVAL, STUCK_MAX, StuckWatch},
    exposition,
    memory::{self, MemoryMetrics},
    net,
    supervise::Supervisor,
    telemetry::{self, LogMetrics},
};

/// The main runtime counts as stuck when its pulse is older than this.
pub const PULSE_MAX_AGE: Duration = Duration::from_secs(5);
/// Each pulse wakes the process, so pulses are infrequent.
const PULSE_INTERVAL: Duration = Duration::from_secs(1);

/// Produces a page's text on request. Must not block and must not wait for the main runtime.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// Data of the pages.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    title: String,
    started: Instant,
    supervisor: Supervisor,
    main: tokio::runtime::Handle,
    registry: Registry,
    ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    detail: Page,
    notes: OnceLock<Page>,
    /// Milliseconds after `started` at which the main runtime last ran the pulse.
    pulse: AtomicU64,
}

impl Admin {
    /// Builds the pages. `ready` returns why the process is not ready; `detail` is appended to `/debug/tasks`. Must be
    /// called on the main runtime, whose pulse it starts.
    pub fn new(
        title: String,
        supervisor: Supervisor,
        mut registry: Registry,
        ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
        detail: Page,
    ) -> Self {
        registry.register_collector(Box::new(TaskMetrics(supervisor.clone())));
        registry.register_collector(Box::new(MemoryMetrics));
        registry.register_collector(Box::new(LogMetrics));
        let inner = Arc::new(Inner {
            title,
            started: Instant::now(),
            supervisor: supervisor.clone(),
            main: tokio::runtime::Handle::current(),
            registry,
            ready,
            detail,
            notes: OnceLock::new(),
            pulse: AtomicU64::new(0),
        });
        let (beating, stop) = (Arc::clone(&inner), supervisor.stop().clone());
        let _owned_by_supervisor = supervisor.spawn_critical("pulse", "", async move {
            while !stop.is_cancelled() {
                let millis = u64::try_from(beating.started.elapsed().as_millis()).unwrap_or(u64::MAX);
                beating.pulse.store(millis, Ordering::Relaxed);
                tokio::select! { () = tokio::time::sleep(PULSE_INTERVAL) => (), () = stop.cancelled() => () }
            }
        });
        Self { inner }
    }

    /// Appends `notes` to the `ok` of `/readyz`: problems that do not prevent the process from working, but need
    /// attention. A second call changes nothing.
    pub fn note(&self, notes: Page) {
        self.inner.notes.set(notes).ok();
    }

    /// The public routes.
    pub fn public_router(&self) -> Router {
        Router::new()
            .route("/livez", get(livez))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self.clone())
    }

    /// All routes.
    pub fn router(&self) -> Router {
        let debug = Router::new()
            .route("/debug/", get(index))
            .route("/debug/tasks", get(tasks))
            .route(
                "/debug/tasks/count",
                get(|State(a): State<Admin>| async move { format!("{}\n", a.alive()) }),
            )
            .with_state(self.clone());
        self.public_router().merge(debug)
    }

    fn alive(&self) -> usize {
        self.inner.main.metrics().num_alive_tasks()
    }

    fn pulse_age(&self) -> Duration {
        let pulse = Duration::from_millis(self.inner.pulse.load(Ordering::Relaxed));
        self.inner.started.elapsed().saturating_sub(pulse)
    }

    /// Ends the process when its main runtime is stuck permanently.
    async fn watch_pulse(&self) {
        let mut watch = StuckWatch::default();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let since_last = std::mem::replace(&mut looked, Instant::now()).elapsed();
            // There is no pulse during shutdown, which has its own time limit.
            let stopping = self.inner.supervisor.stop().is_cancelled();
            if watch.look(since_last, stopping || self.pulse_age() <= PULSE_INTERVAL * 3) {
                tracing::error!(
                    "the main runtime has not run for {STUCK_MAX:?}: some task blocks its thread; exiting"
                );
                telemetry::finish();
                // An orderly shutdown is no longer possible.
                std::process::exit(1);
            }
        }
    }

    fn live(&self) -> Result<(), String> {
        let age = self.pulse_age();
        if age > PULSE_MAX_AGE && !self.inner.supervisor.stop().is_cancelled() {
            return Err(format!("the main runtime has not run for {age:.1?}"));
        }
        Ok(())
    }
}

/// Binds `address`. Called before anything is started, so that a taken port is reported clearly.
///
/// # Errors
/// When the address cannot be bound.
pub fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves `router` on each listener from a thread of its own, until the process ends: it must answer
/// during shutdown too. Ends the process when `admin` finds its main runtime stuck for [`STUCK_MAX`].
///
/// # Errors
/// When the thread cannot be started.
pub fn serve(admin: &Admin, servers: Vec<(net::Bound, Router)>) -> std::io::Result<()> {
    let admin = admin.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name("admin-http".to_owned())
        .spawn(move || {
            let failed = runtime.block_on(async {
                let servers = servers
                    .into_iter()
                    .map(|(bound, router)| async move { axum::serve(bound.listen()?, router).await });
                tokio::select! {
                    ended = futures_util::future::try_join_all(servers) => ended.err(),
                    () = admin.watch_pulse() => None,
                }
            });
            let supervisor = &admin.inner.supervisor;
            supervisor.fail(format!("admin HTTP server ended: {failed:?}"));
        })?;
    Ok(())
}

type Answer = (StatusCode, String);

fn verdict(result: Result<(), String>) -> Answer {
    match result {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn livez(State(admin): State<Admin>) -> Answer {
    verdict(admin.live())
}

async fn readyz(State(admin): State<Admin>) -> Answer {
    let (code, mut text) = verdict(admin.live().and_then(|()| (admin.inner.ready)()));
    if let Some(notes) = admin.inner.notes.get().filter(|_| code == StatusCode::OK) {
        text.push_str(&notes());
    }
    (code, text)
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    if let Err(e) = encode(&mut text, &admin.inner.registry) {
        let text = format!("metrics cannot be encoded: {e}\n");
        return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response();
    }
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, text) = if accept.is_some_and(exposition::prefers_openmetrics) {
        (exposition::OPENMETRICS, text)
    } else {
        (exposition::CLASSIC, exposition::classic(&text))
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn index(State(admin): State<Admin>) -> String {
    format!(
        "{}  pid {}  up {:.0?}\n\n/livez              the main runtime runs\n/readyz             the process does its job\n\
         /metrics            Prometheus text format\n/debug/tasks        live tasks by name, expected against alive\n\
         /debug/tasks/count  the bare number of live tasks\n",
        admin.inner.title,
        std::process::id(),
        admin.inner.started.elapsed()
    )
}

async fn tasks(State(admin): State<Admin>) -> String {
    let supervisor = &admin.inner.supervisor;
    let (total, own) = (admin.alive(), supervisor.count());
    let mut text = format!(
        "{total} tasks alive on the main runtime, {own} supervised\n\nKIND                ALIVE  EXPECTED\n"
    );
    for (kind, (alive, expected)) in supervisor.by_kind() {
        let (expected, mark) = match expected {
            Some(n) => (n.to_string(), if n == alive { "" } else { "  <- differs" }),
            None => ("-".to_owned(), ""),
        };
        text.push_str(&format!("{kind:<20}{alive:<7}{expected}{mark}\n"));
    }
    text.push_str("\nENDED               HOW        COUNT\n");
    for ((kind, exit), count) in supervisor.exits() {
        text.push_str(&format!("{kind:<20}{:<11}{count}\n", exit.as_str()));
    }
    text.push_str("\nLIVE TASK           NAME                                     AGE\n");
    for task in supervisor.live() {
        text.push_str(&format!(
            "{:<20}{:<41}{:.1?}\n",
            task.kind,
            task.name,
            task.started.elapsed()
        ));
    }
    if let Some(memory) = memory::allocated() {
        let [allocated, resident] =
            [memory.allocated, memory.resident].map(|bytes| bytes as f64 / 1_048_576.0);
        text.push_str(&format!(
            "\n{allocated:.1} MiB allocated, {resident:.1} MiB resident\n"
        ));
    }
    text.push_str(&(admin.inner.detail)());
    text
}

/// Live, expected and ended tasks as metrics.
#[derive(Debug)]
struct TaskMetrics(Supervisor);

impl std::fmt::Debug for Supervisor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Supervisor")
            .field("count", &self.count())
            .finish()
    }
}

impl Collector for TaskMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let kinds = self.0.by_kind();
        let mut family = |name, help, values: Vec<(&'static str, usize)>| -> Result<(), std::fmt::Error> {
            let kind = prometheus_client::metrics::MetricType::Gauge;
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for (task, value) in values {
                let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
                gauge.encode(metric.encode_family(&[("kind", task)])?)?;
            }
            Ok(())
        };
        let alive = kinds.iter().map(|(kind, (alive, _))| (*kind, *alive)).collect();
        family("redkeeper_tasks_alive", "Live supervised tasks", alive)?;
        let expected = kinds
            .iter()
            .filter_map(|(kind, (_, n))| n.map(|n| (*kind, n)))
            .collect();
        family("redkeeper_tasks_expected", "Tasks that should be alive", expected)?;
        let kind = prometheus_client::metrics::MetricType::Counter;
        let mut metric =
            encoder.encode_descriptor("redkeeper_tasks_ended", "Tasks ended, by how", None, kind)?;
        for ((task, exit), count) in self.0.exits() {
            let labels = [("kind", task), ("exit", exit.as_str())];
            ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    use super::*;

    /// Answers a request on a thread and runtime of its own, as the server does.
    fn get(admin: &Admin, path: &str, accept: &str) -> (StatusCode, String, String) {
        let request = Request::get(path).header(header::ACCEPT, accept);
        let request = request.body(Body::empty()).unwrap();
        let router = admin.router();
        let ask = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let answer = router.oneshot(request).await.unwrap();
                let kind = answer.headers()[header::CONTENT_TYPE]
                    .to_str()
                    .unwrap()
                    .to_owned();
                let status = answer.status();
                let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
                (status, kind, String::from_utf8(body.to_vec()).unwrap())
            })
        };
        std::thread::spawn(ask).join().unwrap()
    }

    fn admin() -> Admin {
        Admin::new(
            "test".to_owned(),
            Supervisor::new(tokio_util::sync::CancellationToken::new()),
            Registry::default(),
            Arc::new(|| Err("nobody is connected".to_owned())),
            Arc::new(|| "the end".to_owned()),
        )
    }

    fn on_a_runtime<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(test)
    }

    /// The main runtime has one thread here, and that thread is stuck in this function.
    #[test]
    fn it_answers_while_the_main_runtime_is_stuck_and_says_so() {
        on_a_runtime(async {
            let admin = admin();
            let page = |path| get(&admin, path, "").2;
            // From here on nothing awaits, so the main runtime does not run.
            assert_eq!(get(&admin, "/livez", "").0, StatusCode::OK);
            let tasks = page("/debug/tasks");
            assert!(tasks.contains("pulse") && tasks.ends_with("the end"), "{tasks}");
            assert_eq!(page("/debug/tasks/count"), "1\n");
            assert!(page("/readyz").contains("nobody is connected"));
            let deadline = Instant::now() + PULSE_MAX_AGE * 3;
            while !page("/livez").contains("has not run for") {
                assert!(Instant::now() < deadline, "a stuck runtime still counts as alive");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    }

    #[test]
    fn metrics_come_in_the_format_that_was_asked_for() {
        on_a_runtime(async {
            let admin = admin();
            let (status, kind, text) = get(&admin, "/metrics", "*/*");
            assert_eq!(
                (status, kind.as_str()),
                (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8")
            );
            assert!(
                text.contains("redkeeper_tasks_alive{kind=\"pulse\"} 1\n"),
                "{text}"
            );
            assert!(
                text.contains("# TYPE redkeeper_panics_total counter\n") && !text.contains("# EOF"),
                "{text}"
            );
            let (_, kind, text) = get(&admin, "/metrics", "application/openmetrics-text;version=1.0.0");
            assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
            assert!(
                text.contains("# TYPE redkeeper_panics counter\n") && text.ends_with("# EOF\n"),
                "{text}"
            );
        });
    }
}
