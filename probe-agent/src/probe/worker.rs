//! The worker is the task of one instance. It carries out what `core::probe` decides.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::{Duration, Instant},
};

use futures_util::FutureExt;
use redkeeper_core::{
    ids::Handle,
    probe::{Effect, Input, Prober, ProcessState},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, log_limit::LogLimit};

use crate::{
    blocking::BlockingPool,
    config::InstanceConfig,
    host::process::{Place, Process},
    instances::{InstanceTable, Progress},
    metrics::Metrics,
    probe::{
        certificate,
        timer::{Timer, Timers},
        worker_connection::{Fresh, Link, has_moved, poll_once},
    },
    redis::{self, NewClient, tls},
};

/// The worker of one instance.
#[derive(Clone)]
pub struct Worker {
    /// Configuration of the instance.
    pub config: Arc<InstanceConfig>,
    /// Handle of the instance in the table.
    pub handle: Handle,
    /// Receives the verdicts.
    pub table: Arc<InstanceTable>,
    /// Records completed rounds.
    pub progress: Progress,
    /// The clock.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Wakes the worker.
    pub timers: Timers,
}

/// Events that a worker waits for.
enum Event {
    Input(Input),
    /// The periodic check with a new connection is done.
    Fresh(NewClient),
    /// The check with a second connection, made because the present one is silent, is done.
    Second(NewClient),
    /// The search for the process is done.
    Found(Option<Process>),
}

type Search = Pin<Box<dyn Future<Output = Option<Process>> + Send>>;

/// State that outlives a connection.
#[derive(Default)]
struct Beside {
    /// The server's process, if known.
    process: Option<Process>,
    /// Pid that INFO reported for it. It may differ from the host's, because a container has its own pid namespace.
    told: Option<u32>,
    /// The process was found on a previous connection; its exit proves nothing about the present server.
    former: bool,
    /// The server has answered once, so its protocol is known.
    understood: bool,
    /// Consecutive connections that ended without a single byte. After `MUTES_UNDERSTOOD` of them, TLS is tried even if
    /// the protocol was known.
    mutes: u32,
    /// The process was searched for since the last answer.
    searched_mute: bool,
    /// The periodic check with a new connection, in progress.
    fresh: Option<Fresh>,
    /// The search for the process on the present connection, in progress.
    search: Option<Search>,
    /// Time of the last warning about the certificate.
    told_certificate: Option<Mono>,
}

impl Worker {
    /// Probes until the probe supervisor ends the task. Never returns.
    pub async fn run(self, mut prober: Prober) {
        let (mut link, mut beside) = (Link::default(), Beside::default());
        let mut timer = self.timers.timer();
        let mut inputs = VecDeque::with_capacity(2);
        let mut effects = Vec::with_capacity(4);
        loop {
            let input = match inputs.pop_front() {
                Some(input) => input,
                None => match self
                    .event(prober.next_deadline(), &mut link, &mut beside, &mut timer)
                    .await
                {
                    Event::Input(input) => input,
                    Event::Fresh(client) => {
                        inputs.extend(client.certificate_ends.map(Input::Certificate));
                        let peer = link.open.as_ref().and_then(|open| open.peer);
                        inputs.extend(has_moved(peer, &client.addresses).then_some(Input::Moved));
                        self.metrics.new_connection_checked(&client.answer);
                        Input::NewConnectionChecked(client.answer)
                    }
                    Event::Second(client) => {
                        inputs.extend(client.certificate_ends.map(Input::Certificate));
                        Input::SecondConnectionChecked(client.answer)
                    }
                    Event::Found(found) => {
                        self.found(found, &mut beside);
                        continue;
                    }
                },
            };
            match (&input, &link.open) {
                (Input::Connected, Some(open)) => {
                    inputs.extend(open.certificate_ends.map(Input::Certificate))
                }
                (Input::Certificate(ends), _) => certificate::tell(
                    &self.config.identity.id,
                    *ends,
                    self.clock,
                    &self.metrics,
                    &mut beside.told_certificate,
                ),
                _ => {}
            }
            if matches!(input, Input::Replied(_)) {
                (beside.understood, beside.mutes, beside.searched_mute) = (true, 0, false);
            }
            beside.mutes += u32::from(link.ended_mute.is_some());
            let puzzling = !beside.understood || beside.mutes > MUTES_UNDERSTOOD;
            let mute = link.ended_mute.take().filter(|_| puzzling);
            let input = match mute {
                // Boxed, because the handshake would make each worker a kilobyte larger.
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

    /// Waits for the next event. Written as a poll function instead of `select!`, because it is polled twice for each
    /// PING.
    async fn event(&self, deadline: Mono, link: &mut Link, beside: &mut Beside, timer: &mut Timer) -> Event {
        std::future::poll_fn(|context| {
            if let Poll::Ready(input) = link.poll(context) {
                return Poll::Ready(Event::Input(input));
            }
            if let Some(client) = poll_once(&mut link.second, context) {
                return Poll::Ready(Event::Second(client));
            }
            if let Some(client) = poll_once(&mut beside.fresh, context) {
                return Poll::Ready(Event::Fresh(client));
            }
            if let Some(found) = poll_once(&mut beside.search, context) {
                return Poll::Ready(Event::Found(found));
            }
            timer.poll(deadline, context).map(|()| Event::Input(Input::Tick))
        })
        .await
    }

    /// Keeps the known process while it is alive and INFO reports the same pid; else determines it anew. The search by
    /// the socket is made once for each connection, because it may read much of `/proc`.
    fn locate(&self, told: Option<(u32, u64)>, link: &mut Link, beside: &mut Beside) {
        let number = told.map(|(pid, _)| pid);
        let same = number.is_none() || number == beside.told;
        let lives = |process: &Process| {
            // On one connection the pid cannot pass to another process; each inspection checks the start time anyway.
            !beside.former || !matches!(process.inspect(), ProcessState::Gone | ProcessState::Zombie)
        };
        let known = beside.process.filter(|process| same && lives(process));
        (beside.former, beside.told) = (false, number.or(beside.told));
        let place = self.place(link);
        beside.process = known.or_else(|| told.and_then(|told| Process::told(&place, told)));
        if beside.process.is_none() {
            self.search(link, beside);
        }
    }

    fn place(&self, link: &Link) -> Place {
        Place::of(
            &self.config.target.address,
            link.open.as_ref().and_then(|open| open.peer),
        )
    }

    /// Starts the search for the process by its socket.
    fn search(&self, link: &mut Link, beside: &mut Beside) {
        if !std::mem::replace(&mut link.searched, true) {
            let place = self.place(link);
            let search = SEARCHES.run(SEARCH_TIMEOUT, move || Process::search(&place));
            beside.search = Some(Box::pin(async { search.await.flatten() }));
        }
    }

    fn found(&self, found: Option<Process>, beside: &mut Beside) {
        tracing::debug!(instance = %self.config.identity.id, process = ?found, "searched for the process");
        if beside.process.is_none() || beside.former {
            (beside.process, beside.former) = (found, false);
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
            Effect::LocateProcess(told) => self.locate(told, link, beside),
            Effect::CheckProcess => {
                // Search by the socket, because INFO is not answered; the result serves the next inspection. Once until
                // something is answered.
                if beside.process.is_none() && !std::mem::replace(&mut beside.searched_mute, true) {
                    self.search(link, beside);
                }
                let sight = match beside.process.map(|process| process.inspect()) {
                    None => ProcessState::NotLocal,
                    Some(ProcessState::Gone | ProcessState::Zombie) if beside.former => {
                        ProcessState::NotLocal
                    }
                    Some(sight) => sight,
                };
                inputs.push_back(Input::ProcessChecked(sight));
            }
            // One check at a time: a slow earlier one is worth more than a new one.
            Effect::CheckNewConnection if beside.fresh.is_some() => {}
            Effect::CheckNewConnection => {
                let (target, limit) = (Arc::clone(&self.config.target), self.config.probe.connect_timeout);
                beside.fresh = Some(Box::pin(async move {
                    redis::check_new_connection(&target, limit).await
                }));
            }
            Effect::CheckSecondConnection(limit) => {
                let target = Arc::clone(&self.config.target);
                link.second = Some(Box::pin(async move {
                    redis::check_new_connection(&target, limit).await
                }));
            }
            Effect::SilentConnectionReplaced => {
                self.metrics.mute_connections.inc();
            }
            Effect::Connect => {
                (beside.former, beside.search) = (true, None);
                let (target, limit) = (Arc::clone(&self.config.target), self.config.probe.connect_timeout);
                *link = Link {
                    open: None,
                    searched: false,
                    ended_mute: None,
                    second: None,
                    connecting: Some(Box::pin(async move { redis::connect(&target, limit).await })),
                };
            }
            Effect::Disconnect => *link = Link::default(),
            Effect::Send(commands) => {
                let Some(connection) = &mut link.open else { return };
                let sent = {
                    let mut sending = std::pin::pin!(connection.send(&commands));
                    // A few bytes fit into the empty socket buffer, so this does not wait unless the peer is stuck.
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
            // The probe supervisor counts and logs it, once for all instances.
            Effect::Paused(late) => {
                tracing::debug!(instance = %self.config.identity.id, ?late, "the agent was asleep; deadlines extended");
            }
            Effect::Verdict(mut verdict) => {
                if let Some(credentials) = &self.config.target.credentials {
                    credentials.explain(&mut verdict);
                }
                let line = VERDICT_LINES
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .line(Instant::now());
                if let Some(more) = line {
                    tracing::info!(
                        instance = %self.config.identity.id, state = %verdict.state(), reason = %verdict.reason,
                        role = %verdict.role, run_id = %verdict.run_id, evidence = %verdict.evidence, more, "verdict"
                    );
                }
                self.metrics
                    .verdicts
                    .get_or_create(&[("reason", verdict.reason.as_str())])
                    .inc();
                self.table.set(self.handle, verdict);
            }
        }
    }
}

/// Limits the log lines about verdicts, over all instances; every verdict is reported regardless.
static VERDICT_LINES: Mutex<LogLimit> = Mutex::new(LogLimit::new(200, Duration::from_secs(10)));

/// Searches of `/proc`: more than two at a time would only wait for each other.
static SEARCHES: BlockingPool = BlockingPool::new(2);
/// A search that takes longer is abandoned until the next connection.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of mute connections that a dying server may accept; after one more, TLS is tried.
const MUTES_UNDERSTOOD: u32 = 5;
