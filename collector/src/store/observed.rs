//! A store that records in [`Diagnostics`] what passes through it: sessions, requests in flight, watches and errors.

use std::{error::Error, future::Future, sync::Arc, time::Duration};

use redkeeper_runtime::errors::chain;

use super::{
    CommitError, Connection, Kind, Node, Session, Stat, Store, StoreError, Watch, Write,
    diagnostics::Diagnostics,
};

/// A store, observed.
pub struct Observed<S> {
    store: S,
    diagnostics: Arc<Diagnostics>,
}

impl<S> Observed<S> {
    /// Records in `diagnostics` what passes between the caller and `store`.
    pub fn new(store: S, diagnostics: Arc<Diagnostics>) -> Self {
        Self { store, diagnostics }
    }
}

/// A session, observed.
pub struct ObservedSession<T: Session> {
    inner: Arc<T>,
    diagnostics: Arc<Diagnostics>,
}

/// Awaits a request, and records it meanwhile, and its error if that is a fault.
async fn observe<T, E: Error>(
    diagnostics: &Arc<Diagnostics>,
    (operation, subject): (&'static str, &str),
    request: impl Future<Output = Result<T, E>>,
    is_fault: fn(&E) -> bool,
) -> Result<T, E> {
    let pending = diagnostics.request(operation, subject);
    let result = request.await;
    drop(pending);
    if let Err(error) = &result
        && is_fault(error)
    {
        diagnostics.error(operation, &format!("{subject}: {}", chain(error)));
    }
    result
}

/// That a znode exists, or does not, is an answer and no fault.
fn is_fault(error: &StoreError) -> bool {
    !matches!(error, StoreError::Exists | StoreError::Missing)
}

impl<S: Store> Store for Observed<S> {
    type Session = ObservedSession<S::Session>;

    async fn connect(&self) -> Result<Self::Session, StoreError> {
        let servers = self.store.servers();
        let connecting = self.store.connect();
        let session = observe(&self.diagnostics, ("connect", &servers), connecting, is_fault).await?;
        for dead in session.dead_servers() {
            self.diagnostics.error("connect", dead);
        }
        self.diagnostics.session_began(session.id(), session.timeout());
        Ok(ObservedSession {
            inner: Arc::new(session),
            diagnostics: Arc::clone(&self.diagnostics),
        })
    }

    fn servers(&self) -> String {
        self.store.servers()
    }
}

impl<T: Session> ObservedSession<T> {
    async fn observe<R>(
        &self,
        operation: &'static str,
        subject: &str,
        request: impl Future<Output = Result<R, StoreError>>,
    ) -> Result<R, StoreError> {
        observe(&self.diagnostics, (operation, subject), request, is_fault).await
    }
}

/// The first of these, and how many more there are.
fn first_of<'a>(mut paths: impl ExactSizeIterator<Item = &'a str>) -> String {
    let (first, more) = (paths.next().unwrap_or_default(), paths.len());
    match more {
        0 => first.to_owned(),
        more => format!("{first} and {more} more"),
    }
}

impl<T: Session> Session for ObservedSession<T> {
    fn id(&self) -> i64 {
        self.inner.id()
    }

    fn timeout(&self) -> Duration {
        self.inner.timeout()
    }

    fn dead_servers(&self) -> &[String] {
        self.inner.dead_servers()
    }

    fn connection(&self) -> Connection {
        self.inner.connection()
    }

    async fn changed(&self, known: Connection) -> Connection {
        let changed = self.inner.changed(known).await;
        self.diagnostics.connection(changed);
        let session = self.id();
        match changed {
            Connection::Connected => {}
            Connection::Suspended => {
                let text = format!("the connection of session {session:#x} broke");
                self.diagnostics.error("connection", &text);
            }
            Connection::Lost => {
                let text = format!("session {session:#x} has ended");
                self.diagnostics.error("connection", &text);
            }
        }
        changed
    }

    async fn create(&self, path: &str, data: &[u8], kind: Kind) -> Result<String, StoreError> {
        self.observe("create", path, self.inner.create(path, data, kind))
            .await
    }

    async fn get(&self, paths: &[String]) -> Result<Vec<Option<Node>>, StoreError> {
        let subject = first_of(paths.iter().map(String::as_str));
        self.observe("read", &subject, self.inner.get(paths)).await
    }

    async fn stat(&self, path: &str) -> Result<Option<Stat>, StoreError> {
        self.observe("stat", path, self.inner.stat(path)).await
    }

    async fn children(&self, path: &str) -> Result<Vec<String>, StoreError> {
        self.observe("list", path, self.inner.children(path)).await
    }

    async fn watch(&self, path: &str) -> Result<Option<Watch>, StoreError> {
        let watch = self.observe("watch", path, self.inner.watch(path)).await?;
        Ok(watch.map(|watch| {
            let set = self.diagnostics.watch(path);
            Box::pin(async move {
                watch.await;
                drop(set);
            }) as Watch
        }))
    }

    async fn sync(&self, path: &str) -> Result<(), StoreError> {
        self.observe("sync", path, self.inner.sync(path)).await
    }

    async fn commit(&self, check: (&str, i32), writes: Vec<Write>) -> Result<(), CommitError> {
        let subject = first_of(writes.iter().map(Write::path));
        let subject = format!("{subject}, if {} has version {}", check.0, check.1);
        // Each refusal of a multi means that somebody else wrote.
        let request = self.inner.commit(check, writes);
        observe(&self.diagnostics, ("multi", &subject), request, |_| true).await
    }

    async fn close(this: Arc<Self>) {
        let inner = Arc::clone(&this.inner);
        drop(this);
        T::close(inner).await;
    }
}

impl<T: Session> Drop for ObservedSession<T> {
    fn drop(&mut self) {
        self.diagnostics.session_ended(self.inner.id());
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use redkeeper_runtime::clock::Clock;

    use super::*;
    use crate::store::tests_faults::{Call, Fault, FaultyStore};

    async fn session(store: &FaultyStore) -> (ObservedSession<impl Session>, Arc<Diagnostics>) {
        let diagnostics = Arc::new(Diagnostics::new(Clock::simulated()));
        let observed = Observed::new(store.clone(), Arc::clone(&diagnostics));
        (observed.connect().await.unwrap(), diagnostics)
    }

    #[tokio::test(start_paused = true)]
    async fn it_passes_the_suite_of_every_store() {
        let diagnostics = Arc::new(Diagnostics::new(Clock::simulated()));
        let observed = Observed::new(FaultyStore::default(), Arc::clone(&diagnostics));
        crate::store::contract::run(&observed, "/suite").await;
        let told = diagnostics.snapshot();
        assert!(told.sessions > 1);
        assert!(told.requests.is_empty() && told.watches.is_empty(), "{told:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_told_until_it_is_answered_or_given_up() {
        let store = FaultyStore::default();
        let (session, diagnostics) = session(&store).await;
        let slow = || Fault::After(Box::pin(std::future::pending()));
        store.plan_fault(Call::Get, slow());
        let paths = ["/a".to_owned(), "/b".to_owned()];
        let mut reading = Box::pin(session.get(&paths));
        assert!(reading.as_mut().now_or_never().is_none());
        let told: Vec<_> = diagnostics.snapshot().requests.into_values().collect();
        assert_eq!(
            (told[0].operation, told[0].subject.as_str()),
            ("read", "/a and 1 more")
        );
        drop(reading);
        assert!(diagnostics.snapshot().requests.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn watches_are_told_until_they_fire_or_are_dropped() {
        let (session, diagnostics) = session(&FaultyStore::default()).await;
        session.create("/a", b"", Kind::Persistent).await.unwrap();
        let watch = session.watch("/a").await.unwrap().unwrap();
        let dropped = session.watch("/a").await.unwrap().unwrap();
        assert!(session.watch("/b").await.unwrap().is_none());
        assert_eq!(diagnostics.snapshot().watches.len(), 2);
        drop(dropped);
        let write = Write::Set("/a".to_owned(), Vec::new(), None);
        session.commit(("/a", 0), vec![write]).await.unwrap();
        watch.await;
        assert!(diagnostics.snapshot().watches.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn faults_are_recorded_and_answers_are_not() {
        let store = FaultyStore::default();
        let (session, diagnostics) = session(&store).await;
        session.create("/a", b"", Kind::Persistent).await.unwrap();
        session.create("/a", b"", Kind::Persistent).await.unwrap_err();
        assert!(diagnostics.snapshot().errors.is_empty());
        store.plan_fault(Call::Sync, Fault::Fails(StoreError::TimedOut));
        session.sync("/a").await.unwrap_err();
        let write = Write::Delete("/a".to_owned());
        session.commit(("/a", 7), vec![write]).await.unwrap_err();
        store.memory.expire(session.id());
        assert_eq!(session.changed(Connection::Connected).await, Connection::Lost);
        let told = diagnostics.snapshot();
        let texts: Vec<_> = told.errors.iter().map(|fault| fault.text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "/a: no answer within the time limit",
                "/a, if /a has version 7: fenced: the checked znode has another version",
                "session 0x1 has ended"
            ]
        );
        drop(session);
        assert_eq!(diagnostics.snapshot().session, None);
    }
}
