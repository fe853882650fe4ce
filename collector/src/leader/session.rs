//! Opens sessions, and prepares what a session needs.

use std::sync::{Arc, atomic::AtomicU64};

use super::{
    Coordinator, PendingRead,
    membership::{Membership, read_membership, register},
};
use crate::{
    publish::Setup,
    store::{Store, StoreError},
};

impl<S: Store> Coordinator<S> {
    /// Opens a session, with the layout in place and this collector registered.
    pub(super) async fn open(&self) -> Result<Arc<S::Session>, StoreError> {
        let session = Arc::new(self.store.connect().await?);
        self.layout.ensure(&*session).await?;
        let membership = register(&*session, &self.layout, &self.membership()).await?;
        if membership == Membership::Foreign {
            // Another session: a former one that has not expired yet, or that of another collector with the same id.
            tracing::warn!(id = %self.id, "another session has registered this id; if another collector uses it, give each its own `id`");
        }
        Ok(session)
    }

    pub(super) fn setup(&self) -> Setup {
        Setup {
            layout: self.layout.clone(),
            id: self.id.to_string(),
            view: self.view.clone(),
            commands: self.commands.clone(),
            clock: self.clock,
            orphans_max_percent: self.orphans_max_percent,
            audit_interval: self.audit_interval,
            freshness_interval: self.freshness_interval,
            links: self.links.clone(),
            next_adoption: Arc::new(AtomicU64::new(1)),
            metrics: self.metrics.clone(),
            diagnostics: Arc::clone(&self.diagnostics),
        }
    }

    pub(super) fn read_membership(&self, session: &Arc<S::Session>) -> PendingRead {
        let (session, layout, own) = (Arc::clone(session), self.layout.clone(), self.membership());
        Box::pin(async move { read_membership(&*session, &layout, &own).await })
    }
}
