//! The pages below `/debug/`. They are made on the thread of the HTTP server and never wait for the main runtime.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::runtime::Handle;

use super::{
    content::{Content, Parameters, short},
    log_level, memory,
    pulse::Pulse,
    runtime::{self, Busy},
    tasks,
};
use crate::supervise::Supervisor;

/// Longest body of a request: a log filter.
const BODY_BYTES_MAX: usize = 4 * 1024;

/// Produces a page's text on request. Must not block and must not wait for the main runtime.
pub type Page = Arc<dyn Fn() -> String + Send + Sync>;

/// What the pages show.
#[derive(Clone)]
pub(super) struct Debug {
    inner: Arc<Inner>,
}

struct Inner {
    title: String,
    started: Instant,
    supervisor: Supervisor,
    main: Handle,
    busy: Busy,
    pulse: Arc<Pulse>,
    detail: Page,
}

impl Debug {
    /// `detail` is appended to `/debug/tasks`. Must be called on the main runtime.
    pub(super) fn new(title: String, supervisor: Supervisor, pulse: Arc<Pulse>, detail: Page) -> Self {
        let main = Handle::current();
        Self {
            inner: Arc::new(Inner {
                title,
                started: Instant::now(),
                supervisor,
                busy: Busy::new(&main),
                main,
                pulse,
                detail,
            }),
        }
    }

    /// Notes how busy the main runtime is. To be called each few seconds.
    pub(super) fn sample(&self) {
        self.inner.busy.sample(&self.inner.main);
    }

    fn alive(&self) -> usize {
        self.inner.main.metrics().num_alive_tasks()
    }

    /// The routes.
    pub(super) fn router(&self) -> Router {
        let count = |State(debug): State<Debug>| async move { format!("{}\n", debug.alive()) };
        Router::new()
            .route("/debug/", get(index))
            .route("/debug/tasks", get(tasks))
            .route("/debug/tasks/count", get(count))
            .route("/debug/runtime", get(main_runtime))
            .route("/debug/memory", get(memory_use))
            .route(
                "/debug/log-level",
                get(log_level).put(set_log_level).delete(reset_log_level),
            )
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self.clone())
    }
}

/// The pages below `/debug/`, each with what it shows.
const PAGES: [(&str, &str); 6] = [
    (
        "/debug/tasks",
        "tasks by kind: how many, how old, how long they wait; ?kind= lists all of one kind",
    ),
    ("/debug/tasks/count", "the bare number of live tasks"),
    (
        "/debug/runtime",
        "how busy the main runtime is, and which tasks hold it up",
    ),
    (
        "/debug/memory",
        "what the program uses, and what the allocator keeps",
    ),
    ("/debug/log-level", "the log filter; PUT changes it for a time"),
    ("/metrics", "the same counts as time series, for Prometheus"),
];

async fn index(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let mut text = format!(
        "{}  pid {}  up {}\n\n/livez               the main runtime runs\n/readyz              the process does its job\n",
        debug.inner.title,
        std::process::id(),
        short(debug.inner.started.elapsed())
    );
    for (path, help) in PAGES {
        text.push_str(&format!("{path:<21}{help}\n"));
    }
    text.push_str("\nEach page below /debug/ is JSON with ?format=json or Accept: application/json.\n");
    let json = serde_json::json!({
        "title": debug.inner.title,
        "pid": std::process::id(),
        "up_seconds": debug.inner.started.elapsed().as_secs_f64(),
        "pages": PAGES.iter().map(|(path, help)| serde_json::json!({"path": path, "help": help})).collect::<Vec<_>>(),
    });
    Content { text, json }.answer(&parameters, &headers)
}

async fn tasks(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let mut content = tasks::page(&debug.inner.supervisor, debug.alive(), parameters.kind.as_deref());
    if parameters.kind.is_none() {
        content.text.push_str(&(debug.inner.detail)());
    }
    content.answer(&parameters, &headers)
}

async fn main_runtime(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let Inner {
        main,
        busy,
        supervisor,
        pulse,
        ..
    } = &*debug.inner;
    runtime::page(main, busy, supervisor, pulse.age()).answer(&parameters, &headers)
}

async fn memory_use(Query(parameters): Query<Parameters>, headers: HeaderMap) -> Response {
    memory::page().answer(&parameters, &headers)
}

async fn log_level(Query(parameters): Query<Parameters>, headers: HeaderMap) -> Response {
    log_level::page().answer(&parameters, &headers)
}

async fn set_log_level(Query(parameters): Query<Parameters>, headers: HeaderMap, filter: String) -> Response {
    match log_level::set(&filter, parameters.lasts.as_deref()) {
        Ok(content) => content.answer(&parameters, &headers),
        Err(wrong) => wrong.into_response(),
    }
}

async fn reset_log_level(Query(parameters): Query<Parameters>, headers: HeaderMap) -> Response {
    match log_level::reset() {
        Ok(content) => content.answer(&parameters, &headers),
        Err(wrong) => wrong.into_response(),
    }
}
