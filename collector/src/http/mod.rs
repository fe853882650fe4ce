//! The collector's pages over HTTP: whether it is ready, what is wrong, and one human-readable page. The pages that all
//! daemons have, such as `/metrics` and `/debug/tasks`, are the runtime's.

pub(crate) mod debug;
pub(crate) mod gauges;

use std::sync::Arc;

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use redkeeper_runtime::{admin::Admin, supervise::Supervisor};
use tokio_util::sync::CancellationToken;

use self::{debug::Sources, gauges::Standing};
use crate::{fleet::view::ViewHandle, peers::warnings::warnings, store::Connection};

/// The state from which the pages are made.
#[derive(Clone)]
pub(crate) struct Pages {
    /// Leadership and peers.
    pub(crate) standing: Standing,
    /// The fleet's view.
    pub(crate) view: ViewHandle,
    /// Statuses not yet acknowledged by ZooKeeper.
    pub(crate) pending: Gauge,
    /// The request to stop.
    pub(crate) stop: CancellationToken,
}

impl Pages {
    /// The content of the HTTP server; the debug pages show `sources`.
    pub(crate) fn admin(self, sources: Sources, supervisor: Supervisor, registry: Registry) -> Admin {
        let (id, version) = (&sources.id, env!("CARGO_PKG_VERSION"));
        let title = format!("redkeeper-collector {id} v{version}");
        let (ready, page) = (self.clone(), self.clone());
        let admin = Admin::new(
            title,
            supervisor,
            registry,
            Arc::new(move || ready.ready()),
            Arc::new(move || page.summary()),
            debug::pages(sources),
        );
        admin.note(Arc::new(move || self.warnings()));
        admin
    }

    /// Ready for queries: a leader is known, and this collector is not stopping.
    fn ready(&self) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("shutting down".to_owned());
        }
        let d = self.standing.leadership.borrow();
        match d.connection {
            Some(Connection::Connected) if !d.leader(self.standing.clock.now()).is_empty() => Ok(()),
            Some(Connection::Connected) => Err(d.shares_id().unwrap_or_else(|| "no leader yet".to_owned())),
            _ => Err(format!("ZooKeeper: {}", d.away().unwrap_or_default())),
        }
    }

    fn summary(&self) -> String {
        let (view, d) = (self.view.get(), self.standing.leadership.borrow());
        format!(
            "phase {}  leader {:?}  epoch {}  pending {}\n{} instances, {} agents, revision {}\n",
            d.phase,
            d.leader(self.standing.clock.now()),
            d.epoch,
            self.pending.get(),
            view.instances.len(),
            view.agents.len(),
            view.revision.0
        )
    }

    fn warnings(&self) -> String {
        let standing = &self.standing;
        let found = warnings(
            &standing.leadership.borrow(),
            &standing.peers.borrow(),
            standing.clock.now(),
        );
        found
            .iter()
            .map(|warning| format!("warning: {}\n", warning.text))
            .collect()
    }
}
