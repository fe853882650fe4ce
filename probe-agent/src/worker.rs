//! One instance's task: carries what `core::agent::prober` decides.

use std::{collections::VecDeque, future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use redkeeper_core::{
    agent::{
        prober::{ConnectFailure, Effect, Input, Prober, Sight},
        reply::Reply,
    },
    ids::Handle,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::Clock;
use tokio::sync::Semaphore;

use crate::{
    alarm::Alarms,
    board::{Board, Progress},
    config::InstanceConfig,
    metrics::Metrics,
    process::Process,
    redis::{self, Connection, Received},
    tls,
};

/// Renewal should have been done by then: the usual tools renew 30 days before the end.
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
const TELL_CERTIFICATE_EVERY: Duration = Duration::from_secs(86_400);

/// What a worker needs.
#[derive(Clone)]
pub struct Worker {
    /// The instance.
    pub config: Arc<InstanceConfig>,
    /// Its place on the board.
    pub handle: Handle,
    /// Where verdicts go.
    pub board: Arc<Board>,
    /// Where progress goes.
    pub progress: Progress,
    /// Time.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Where it is woken from.
    pub alarms: Alarms,
}

type Fresh = Pin<Box<dyn Future<Output = FreshAnswer> + Send>>;
type FreshAnswer = (Result<Reply, String>, Option<WallMs>);
type Connecting = Pin<Box<dyn Future<Output = Result<Connection, ConnectFailure>> + Send>>;

/// At most one of connecting and open is there.
#[derive(Default)]
struct Link {
    connecting: Option<Connecting>,
    open: Option<Connection>,
    /// The connection that ended last went here, without TLS, and nothing came back on it.
    ended_mute: Option<SocketAddr>,
    /// The search for the server's process was made on this connection.
    searched: bool,
}

/// What lasts longer than one connection.
#[derive(Default)]
struct Beside {
    /// The server's process, where it is known.
    process: Option<Process>,
    /// The number that INFO told for it; another one in a container, where numbers have their own meaning.
    told: Option<u32>,
    /// It was found on a former connection. That it is gone then proves nothing: another may serve by now.
    former: bool,
    /// It has answered once, so what it speaks is known.
    understood: bool,
    /// A second connection under way.
    fresh: Option<Fresh>,
    /// When it was last told that the certificate ends soon.
    told_certificate: Option<Mono>,
}

impl Worker {
    /// Probes until the overseer ends the task. Never returns.
    pub async fn run(self, mut prober: Prober) {
        let (mut link, mut beside) = (Link::default(), Beside::default());
        let mut alarm = self.alarms.alarm();
        let mut inputs = VecDeque::with_capacity(2);
        let mut effects = Vec::with_capacity(4);
        loop {
            let input = match inputs.pop_front() {
                Some(input) => input,
                None => {
                    let deadline = prober.next_deadline();
                    tokio::select! {
                        biased;
                        input = next(&mut link) => input,
                        (answer, ends) = fresh(&mut beside.fresh) => {
                            inputs.extend(ends.map(Input::Certificate));
                            Input::Fresh(answer)
                        }
                        () = alarm.until(deadline) => Input::Tick,
                    }
                }
            };
            match (&input, &link.open) {
                (Input::Connected, Some(open)) => {
                    inputs.extend(open.certificate_ends.map(Input::Certificate))
                }
                (Input::Certificate(ends), _) => self.tell_certificate(*ends, &mut beside),
                _ => {}
            }
            beside.understood |= matches!(input, Input::Replied(_));
            let mute = link.ended_mute.take().filter(|_| !beside.understood);
            let input = match mute {
                // Boxed: a handshake would make each worker a kilobyte larger.
                Some(peer) => Box::pin(tls::end_of(peer, input, self.config.probe.connect_timeout / 4)).await,
                None => input,
            };
            let now = self.clock.now();
            prober.step(now, self.clock.wall(), input, &mut effects);
            for effect in effects.drain(..) {
                self.carry_out(now, effect, &mut link, &mut beside, &mut inputs)
                    .await;
            }
        }
    }

    /// A certificate that ends soon takes clients with it, so it is told before.
    fn tell_certificate(&self, ends: WallMs, beside: &mut Beside) {
        let (id, now) = (&self.config.identity.id, self.clock.now());
        let seconds = i64::try_from(ends.0 / 1000).unwrap_or(i64::MAX);
        self.metrics
            .certificates
            .get_or_create_owned(&[("instance", id.to_string())])
            .set(seconds);
        let left = Duration::from_millis(ends.0.saturating_sub(self.clock.wall().0));
        let told = beside
            .told_certificate
            .is_some_and(|at| now.since(at) < TELL_CERTIFICATE_EVERY);
        if left < CERTIFICATE_ENDS_SOON && !told {
            beside.told_certificate = Some(now);
            tracing::warn!(
                instance = %id,
                "the server's TLS certificate ends in {} days; renew it before clients are refused",
                left.as_secs() / 86_400
            );
        }
    }

    /// Keeps the process known as long as it lives and INFO tells the same number; a search by the socket is made
    /// once for each connection, because it may read much of `/proc`.
    async fn locate(&self, told: Option<(u32, u64)>, link: &mut Link, beside: &mut Beside) {
        let number = told.map(|(pid, _)| pid);
        let same = number.is_none() || number == beside.told;
        let lives = |process: &Process| {
            // On one connection a number does not change hands; each look checks the start time anyway.
            !beside.former || !matches!(process.inspect(), Sight::Gone | Sight::Zombie)
        };
        let known = beside.process.filter(|process| same && lives(process));
        (beside.former, beside.told) = (false, number.or(beside.told));
        let searched = std::mem::replace(&mut link.searched, true);
        let address = &self.config.target.address;
        beside.process = match known.or_else(|| told.and_then(|told| Process::told(address, told))) {
            None if !searched => search(address.clone()).await,
            found => found,
        };
        if !searched {
            tracing::debug!(instance = %self.config.identity.id, process = ?beside.process, "looked for the process");
        }
    }

    async fn carry_out(
        &self,
        now: Mono,
        effect: Effect,
        link: &mut Link,
        beside: &mut Beside,
        inputs: &mut VecDeque<Input>,
    ) {
        match effect {
            Effect::Locate(told) => self.locate(told, link, beside).await,
            Effect::Inspect => {
                let sight = match beside.process.map(|process| process.inspect()) {
                    None => Sight::NotLocal,
                    Some(Sight::Gone | Sight::Zombie) if beside.former => Sight::NotLocal,
                    Some(sight) => sight,
                };
                inputs.push_back(Input::Inspected(sight));
            }
            Effect::TryFresh => {
                let (target, limit) = (Arc::clone(&self.config.target), self.config.probe.connect_timeout);
                beside.fresh = Some(Box::pin(async move { redis::try_fresh(&target, limit).await }));
            }
            Effect::Connect => {
                beside.former = true;
                let (target, limit) = (Arc::clone(&self.config.target), self.config.probe.connect_timeout);
                *link = Link {
                    open: None,
                    searched: false,
                    ended_mute: None,
                    connecting: Some(Box::pin(async move { redis::connect(&target, limit).await })),
                };
            }
            Effect::Disconnect => *link = Link::default(),
            Effect::Send(commands) => {
                let Some(connection) = &mut link.open else { return };
                let sent = {
                    let mut sending = std::pin::pin!(connection.send(&commands));
                    // A few bytes into an empty socket buffer: this does not wait unless the peer is stuck.
                    match (&mut sending).now_or_never() {
                        Some(sent) => sent,
                        None => tokio::time::timeout(self.config.probe.connect_timeout, sending)
                            .await
                            .unwrap_or_else(|_| Err("the socket takes no more bytes".to_owned())),
                    }
                };
                if let Err(how) = sent {
                    link.open = None;
                    inputs.push_back(Input::Closed(how));
                }
            }
            Effect::Round => {
                #[cfg(feature = "test-hooks")]
                crate::test_hooks::obey(self.config.identity.id.as_str()).await;
                self.metrics.rounds.inc();
                self.progress.completed(now);
            }
            Effect::Latency(latency) => self.metrics.latency.observe(latency.as_secs_f64()),
            Effect::Paused(late) => {
                self.metrics.pauses.inc();
                tracing::warn!(instance = %self.config.identity.id, ?late, "the agent was asleep; deadlines extended");
            }
            Effect::Verdict(verdict) => {
                tracing::info!(
                    instance = %self.config.identity.id, state = %verdict.state(), reason = %verdict.reason,
                    role = %verdict.role, run_id = %verdict.run_id, evidence = %verdict.evidence, "verdict"
                );
                self.metrics
                    .verdicts
                    .get_or_create(&[("reason", verdict.reason.as_str())])
                    .inc();
                self.board.set(self.handle, verdict);
            }
        }
    }
}

/// Searches of `/proc` under way in the whole agent: more would only wait for each other.
static SEARCHES: Semaphore = Semaphore::const_new(2);
/// A search that takes longer is not waited for.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// Searches for a process beside the thread that probes.
async fn search(address: String) -> Option<Process> {
    let search = async {
        let permit = SEARCHES.acquire().await.ok()?;
        let found = tokio::task::spawn_blocking(move || {
            let found = Process::search(&address);
            drop(permit);
            found
        });
        found.await.ok()?
    };
    tokio::time::timeout(SEARCH_TIMEOUT, search).await.ok().flatten()
}

/// The answer of the second connection; never, where there is none.
async fn fresh(under_way: &mut Option<Fresh>) -> FreshAnswer {
    match under_way {
        Some(trying) => {
            let answer = trying.await;
            *under_way = None;
            answer
        }
        None => std::future::pending().await,
    }
}

/// The next thing that happens on the link; never, where there is none.
async fn next(link: &mut Link) -> Input {
    if let Some(connecting) = &mut link.connecting {
        let result = connecting.await;
        link.connecting = None;
        return match result {
            Ok(connection) => {
                link.open = Some(connection);
                Input::Connected
            }
            Err(failure) => Input::ConnectFailed(failure),
        };
    }
    match &mut link.open {
        Some(connection) => match connection.receive().await {
            Received::Reply(reply) => Input::Replied(reply),
            Received::Closed(how) => {
                link.ended_mute = connection.mute_plain();
                link.open = None;
                Input::Closed(how)
            }
            Received::Refused(failure) => {
                link.open = None;
                Input::ConnectFailed(failure)
            }
            Received::Garbage(what) => Input::Garbage(what),
        },
        None => std::future::pending().await,
    }
}
