//! The embedded HTTP server. It has its own thread and runtime, so that it answers even when the main runtime is stuck:
//! that is when it is needed.

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nix::sys::socket::{setsockopt, sockopt};
use prometheus_client::registry::Registry;

use self::{
    debug::Debug,
    pulse::{PULSE_INTERVAL, Pulse},
    task_metrics::TaskMetrics,
};
use crate::{
    blocked_runtime::{LOOK_INTERVAL, STUCK_MAX, StuckWatch},
    exposition, log_filter,
    memory::MemoryMetrics,
    net,
    supervise::Supervisor,
    telemetry::{self, LogMetrics},
};

pub use config::config_page;
pub use debug::Page;
pub use page::{Content, DebugPage, short};

mod bundle;
mod config;
mod debug;
mod log_level;
mod memory;
mod page;
mod profiles;
mod pulse;
mod runtime;
mod task_metrics;
mod tasks;

/// The main runtime counts as stuck when its pulse is older than this.
pub const PULSE_MAX_AGE: Duration = Duration::from_secs(5);

/// A connection whose peer takes nothing of an answer for this long is closed, so that it does not hold one of the port's
/// places.
const UNREAD_MAX: Duration = Duration::from_secs(10);

/// Data of the pages.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    supervisor: Supervisor,
    registry: Arc<Registry>,
    ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
    notes: OnceLock<Page>,
    pulse: Arc<Pulse>,
    debug: Debug,
}

impl Admin {
    /// Builds the pages. `ready` returns why the process is not ready; `summary` stands on the index of `/debug/`, to
    /// whose common pages `pages` are added. Must be called on the main runtime, whose pulse it starts.
    pub fn new(
        title: String,
        supervisor: Supervisor,
        mut registry: Registry,
        ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
        summary: Page,
        pages: Vec<DebugPage>,
    ) -> Self {
        registry.register_collector(Box::new(TaskMetrics(supervisor.clone())));
        registry.register_collector(Box::new(MemoryMetrics));
        registry.register_collector(Box::new(LogMetrics));
        let pulse = Pulse::start(&supervisor);
        let registry = Arc::new(registry);
        let debug = Debug::new(
            title,
            supervisor.clone(),
            Arc::clone(&registry),
            Arc::clone(&pulse),
            summary,
            pages,
        );
        Self {
            inner: Arc::new(Inner {
                supervisor,
                registry,
                ready,
                notes: OnceLock::new(),
                pulse,
                debug,
            }),
        }
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
        self.public_router().merge(self.inner.debug.router())
    }

    /// Ends the process when its main runtime is stuck permanently.
    async fn watch_pulse(&self) {
        let mut watch = StuckWatch::default();
        let mut looked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            let since_last = std::mem::replace(&mut looked, Instant::now()).elapsed();
            self.inner.debug.sample();
            log_filter::reset_if_due();
            // There is no pulse during shutdown, which has its own time limit.
            let stopping = self.inner.supervisor.stop().is_cancelled();
            if watch.look(
                since_last,
                stopping || self.inner.pulse.age() <= PULSE_INTERVAL * 3,
            ) {
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
        let age = self.inner.pulse.age();
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
    // Connections inherit the option of their listener.
    let millis = u32::try_from(UNREAD_MAX.as_millis()).unwrap_or(u32::MAX);
    setsockopt(&listener, sockopt::TcpUserTimeout, &millis)?;
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
    let text = match exposition::openmetrics(&admin.inner.registry) {
        Ok(text) => text,
        Err(text) => return (StatusCode::INTERNAL_SERVER_ERROR, text).into_response(),
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (kind, text) = if accept.is_some_and(exposition::prefers_openmetrics) {
        (exposition::OPENMETRICS, text)
    } else {
        (exposition::CLASSIC, exposition::classic(&text))
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

#[cfg(test)]
mod tests;
