//! The pages below `/debug/`. They are made on the thread of the HTTP server and never wait for the main runtime.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;

use super::{
    bundle, log_level, memory,
    page::{Content, DebugPage, Parameters, short},
    profiles,
    pulse::Pulse,
    runtime::{self, Busy},
    tasks,
};
use crate::{exposition, log_tail, profile::Unit, supervise::Supervisor};

/// Longest body of a request: a log filter.
const BODY_BYTES_MAX: usize = 4 * 1024;

/// Pages of each kind of thing, such as instances, that an archive holds: those that need attention first.
const BUNDLE_IDS_MAX: usize = 100;

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
    registry: Arc<Registry>,
    main: Handle,
    busy: Busy,
    pulse: Arc<Pulse>,
    summary: Page,
    pages: Vec<DebugPage>,
    /// Path and help of each page; set with the routes.
    index: OnceLock<Vec<(&'static str, &'static str)>>,
}

impl Debug {
    /// `summary` stands on the index; `pages` are those that only this daemon has. Must be called on the main runtime.
    pub(super) fn new(
        title: String,
        supervisor: Supervisor,
        registry: Arc<Registry>,
        pulse: Arc<Pulse>,
        summary: Page,
        pages: Vec<DebugPage>,
    ) -> Self {
        let main = Handle::current();
        Self {
            inner: Arc::new(Inner {
                title,
                started: Instant::now(),
                supervisor,
                registry,
                busy: Busy::new(&main),
                main,
                pulse,
                summary,
                pages,
                index: OnceLock::new(),
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

    /// The routes: the common pages, those of the daemon, and the index of all of them.
    pub(super) fn router(&self) -> Router {
        let mut pages = Pages::default()
            .page(
                "/debug/tasks",
                "tasks by kind: how many, how old, how long they wait; ?kind= lists all of one kind",
                get(tasks),
            )
            .page(
                "/debug/tasks/count",
                "the bare number of live tasks",
                get(task_count),
            )
            .page(
                "/debug/runtime",
                "how busy the main runtime is, and which tasks hold it up",
                get(main_runtime),
            )
            .page(
                "/debug/memory",
                "what the program uses, and what the allocator keeps",
                get(memory_use),
            )
            .page(
                "/debug/pprof/heap",
                "heap profile for `go tool pprof`; ?format=svg, text or json; PUT on or off",
                get(heap_in_use).put(profiles::switch_sampling),
            )
            .page(
                "/debug/pprof/allocs",
                "the same with what was freed: who allocates much",
                get(heap_allocated),
            )
            .page(
                "/debug/pprof/profile",
                "CPU profile of ?seconds=10; takes memory until the process ends",
                get(cpu),
            )
            .page(
                "/debug/log-level",
                "the log filter; PUT changes it for a time",
                get(log_level).put(set_log_level).delete(reset_log_level),
            )
            .page("/debug/log", "the last log lines", get(log))
            .page(
                "/debug/bundle",
                "all pages, metrics and the heap profile in one archive, for support; takes a second",
                get(bundle),
            );
        for page in &self.inner.pages {
            pages = pages.page(page.path, page.help, of_daemon(page.clone()));
        }
        let Pages { router, index } = pages;
        // The same each time that the routes are made.
        self.inner.index.set(index).ok();
        let make_index = |State(debug): State<Debug>, Query(parameters), headers: HeaderMap| async move {
            debug.index().answer(&parameters, &headers)
        };
        router
            .route("/debug/", get(make_index))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self.clone())
    }

    /// All pages that have a text and JSON, each with its path.
    fn contents(&self) -> Vec<(String, Content)> {
        let Inner {
            supervisor,
            main,
            busy,
            pulse,
            pages,
            ..
        } = &*self.inner;
        let common = [
            ("/debug/", self.index()),
            ("/debug/tasks", tasks::page(supervisor, self.alive(), None)),
            (
                "/debug/runtime",
                runtime::page(main, busy, supervisor, pulse.age()),
            ),
            ("/debug/memory", memory::page()),
            ("/debug/log-level", log_level::page()),
            ("/debug/log", Content::lines(log_tail::text())),
        ];
        let common = common
            .into_iter()
            .map(|(path, content)| (path.to_owned(), content));
        common
            .chain(pages.iter().flat_map(|page| page.all(BUNDLE_IDS_MAX)))
            .collect()
    }

    fn index(&self) -> Content {
        let Inner {
            title,
            started,
            summary,
            ..
        } = &*self.inner;
        let (pid, up) = (std::process::id(), started.elapsed());
        let mut text = format!("{title}  pid {pid}  up {}\n{}\n", short(up), summary());
        let elsewhere = [
            ("/livez", "the main runtime runs"),
            ("/readyz", "the process does its job"),
            ("/metrics", "counts and ages as time series, for Prometheus"),
        ];
        let pages = self.inner.index.get().map_or(&[][..], Vec::as_slice);
        let all = elsewhere.iter().chain(pages);
        for (path, help) in all.clone() {
            text.push_str(&format!("{path:<23}{help}\n"));
        }
        text.push_str("\nEach page below /debug/ is JSON with ?format=json or Accept: application/json.\n");
        let json = serde_json::json!({
            "title": title,
            "pid": pid,
            "up_seconds": up.as_secs_f64(),
            "summary": summary(),
            "pages": all.map(|(path, help)| serde_json::json!({"path": path, "help": help})).collect::<Vec<_>>(),
        });
        Content { text, json }
    }
}

/// The routes of the pages, and the index that names each of them.
#[derive(Default)]
struct Pages {
    router: Router<Debug>,
    index: Vec<(&'static str, &'static str)>,
}

impl Pages {
    fn page(mut self, path: &'static str, help: &'static str, methods: MethodRouter<Debug>) -> Self {
        self.index.push((path, help));
        let route = match path.strip_suffix("/ID") {
            // No id has a slash; with one, the answer is that there is no such thing.
            Some(before) => format!("{before}/{{*id}}"),
            None => path.to_owned(),
        };
        self.router = self.router.route(&route, methods);
        self
    }
}

fn of_daemon(page: DebugPage) -> MethodRouter<Debug> {
    get(
        move |id: Option<Path<String>>, Query(parameters): Query<Parameters>, headers: HeaderMap| async move {
            let id = id.map_or_else(String::new, |Path(id)| id);
            match (page.content)(&id) {
                Some(content) => content.answer(&parameters, &headers),
                None => (StatusCode::NOT_FOUND, format!("{id} is not known here\n")).into_response(),
            }
        },
    )
}

async fn tasks(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    tasks::page(&debug.inner.supervisor, debug.alive(), parameters.kind.as_deref())
        .answer(&parameters, &headers)
}

async fn task_count(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    let alive = debug.alive();
    let (text, json) = (format!("{alive}\n"), serde_json::json!({ "alive": alive }));
    Content { text, json }.answer(&parameters, &headers)
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

async fn heap_in_use(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    profiles::heap(debug.inner.title.clone(), Unit::InUse, &parameters, &headers).await
}

async fn heap_allocated(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    profiles::heap(debug.inner.title.clone(), Unit::Allocated, &parameters, &headers).await
}

async fn cpu(
    State(debug): State<Debug>,
    Query(parameters): Query<Parameters>,
    headers: HeaderMap,
) -> Response {
    profiles::cpu(debug.inner.title.clone(), &parameters, &headers).await
}

async fn log(Query(parameters): Query<Parameters>, headers: HeaderMap) -> Response {
    Content::lines(log_tail::text()).answer(&parameters, &headers)
}

async fn bundle(State(debug): State<Debug>) -> Response {
    let content = move || {
        let metrics = exposition::openmetrics(&debug.inner.registry).unwrap_or_else(|e| e);
        let files = vec![("metrics.txt".to_owned(), metrics.into_bytes())];
        (debug.contents(), files)
    };
    bundle::answer(content).await
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
