//! One instance's task: carries what `core::agent::prober` decides.

use std::{collections::VecDeque, future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use futures_util::FutureExt;
use redkeeper_core::{
    agent::{
        prober::{ConnectFailure, Effect, Input, Prober, Sight},
        reply::Reply,
    },
    ids::Handle,
    time::Mono,
};
use redkeeper_runtime::clock::Clock;

use crate::{
    alarm::Alarms,
    board::{Board, Progress},
    config::InstanceConfig,
    metrics::Metrics,
    process::Process,
    redis::{self, Connection, Received},
    tls,
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

type Fresh = Pin<Box<dyn Future<Output = Result<Reply, String>> + Send>>;
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
    /// It was found on a former connection. That it is gone then proves nothing: another may serve by now.
    former: bool,
    /// It has answered once, so what it speaks is known.
    understood: bool,
    /// A second connection under way.
    fresh: Option<Fresh>,
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
                        answer = fresh(&mut beside.fresh) => Input::Fresh(answer),
                        () = alarm.until(deadline) => Input::Tick,
                    }
                }
            };
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

    /// Keeps the process known as long as it lives and INFO tells its number; a search is made once for each
    /// connection, because it may read much of `/proc`.
    fn locate(&self, told: Option<(u32, u64)>, link: &mut Link, beside: &mut Beside) {
        let same = |process: &Process| match told {
            // On one connection a number does not change hands; each look checks the start time anyway.
            Some((pid, _)) if !beside.former => pid == process.pid(),
            told => told.is_none_or(|(pid, _)| pid == process.pid()) && process.inspect() != Sight::Gone,
        };
        let known = beside.process.filter(same);
        if known.is_some() || std::mem::replace(&mut link.searched, true) {
            beside.process = known;
            beside.former = false;
            return;
        }
        beside.former = false;
        beside.process = Process::locate(&self.config.target.address, told);
        tracing::debug!(instance = %self.config.identity.id, process = ?beside.process, "looked for the process");
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
                let sight = match beside.process.map(|process| process.inspect()) {
                    None => Sight::NotLocal,
                    Some(Sight::Gone) if beside.former => Sight::NotLocal,
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

/// The answer of the second connection; never, where there is none.
async fn fresh(under_way: &mut Option<Fresh>) -> Result<Reply, String> {
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
