//! One instance's task: carries what `core::probe` decides.

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
    probe::{Effect, Input, Prober, Sight},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, log_limit::LogLimit};

use crate::{
    blocking::Bounded,
    config::InstanceConfig,
    host::process::{Place, Process},
    instances::{Board, Progress},
    metrics::Metrics,
    probe::{
        certificate,
        link::{Fresh, Link, has_moved, poll_once},
        timer::{Alarm, Alarms},
    },
    redis::{self, NewClient, tls},
};

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

/// What a worker waits for.
enum Event {
    Input(Input),
    /// A second connection was tried.
    Fresh(NewClient),
    /// A second connection was asked, because the present one is silent.
    Second(NewClient),
    /// The process was searched for.
    Found(Option<Process>),
}

type Search = Pin<Box<dyn Future<Output = Option<Process>> + Send>>;

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
    /// Connections in a row on which nothing came back. After some of them it may speak something else by now.
    mutes: u32,
    /// A search was made since the last answer.
    searched_mute: bool,
    /// A second connection under way.
    fresh: Option<Fresh>,
    /// The search for the process under way, on the present connection.
    search: Option<Search>,
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
                None => match self
                    .event(prober.next_deadline(), &mut link, &mut beside, &mut alarm)
                    .await
                {
                    Event::Input(input) => input,
                    Event::Fresh(client) => {
                        inputs.extend(client.certificate_ends.map(Input::Certificate));
                        let peer = link.open.as_ref().and_then(|open| open.peer);
                        inputs.extend(has_moved(peer, &client.addresses).then_some(Input::Moved));
                        self.metrics.tried_fresh(&client.answer);
                        Input::Fresh(client.answer)
                    }
                    Event::Second(client) => {
                        inputs.extend(client.certificate_ends.map(Input::Certificate));
                        Input::Second(client.answer)
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

    /// The next thing that happens. Written out rather than selected: this is polled twice for each PING.
    async fn event(&self, deadline: Mono, link: &mut Link, beside: &mut Beside, alarm: &mut Alarm) -> Event {
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
            alarm.poll(deadline, context).map(|()| Event::Input(Input::Tick))
        })
        .await
    }

    /// Keeps the process known as long as it lives and INFO tells the same number; a search by the socket is made
    /// once for each connection, because it may read much of `/proc`.
    fn locate(&self, told: Option<(u32, u64)>, link: &mut Link, beside: &mut Beside) {
        let number = told.map(|(pid, _)| pid);
        let same = number.is_none() || number == beside.told;
        let lives = |process: &Process| {
            // On one connection a number does not change hands; each look checks the start time anyway.
            !beside.former || !matches!(process.inspect(), Sight::Gone | Sight::Zombie)
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

    /// Begins to search for the process by its socket.
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
            Effect::Locate(told) => self.locate(told, link, beside),
            Effect::Inspect => {
                // It may be found by the time of the next look, though INFO is not answered. Once, until something is.
                if beside.process.is_none() && !std::mem::replace(&mut beside.searched_mute, true) {
                    self.search(link, beside);
                }
                let sight = match beside.process.map(|process| process.inspect()) {
                    None => Sight::NotLocal,
                    Some(Sight::Gone | Sight::Zombie) if beside.former => Sight::NotLocal,
                    Some(sight) => sight,
                };
                inputs.push_back(Input::Inspected(sight));
            }
            // One at a time: a former one that is slow is worth more than a new one.
            Effect::TryFresh if beside.fresh.is_some() => {}
            Effect::TryFresh => {
                let (target, limit) = (Arc::clone(&self.config.target), self.config.probe.connect_timeout);
                beside.fresh = Some(Box::pin(async move { redis::try_fresh(&target, limit).await }));
            }
            Effect::AskSecond(limit) => {
                let target = Arc::clone(&self.config.target);
                link.second = Some(Box::pin(async move { redis::try_fresh(&target, limit).await }));
            }
            Effect::MuteConnection => {
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
            // The overseer counts and tells it, once for all instances.
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
                self.board.set(self.handle, verdict);
            }
        }
    }
}

/// Verdicts of all instances that have a line of their own; each of them is reported all the same.
static VERDICT_LINES: Mutex<LogLimit> = Mutex::new(LogLimit::new(200, Duration::from_secs(10)));

/// Searches of `/proc`: more at a time would only wait for each other.
static SEARCHES: Bounded = Bounded::new(2);
/// A search that takes longer is given up until the next connection.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(5);
/// As many mute connections as a dying server may accept; one more, and TLS is looked for.
const MUTES_UNDERSTOOD: u32 = 5;
