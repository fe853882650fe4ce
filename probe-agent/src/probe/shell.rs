//! The shell around [`Prober`](redkeeper_core::probe::Prober): it turns what happens on connections and in `/proc` into
//! inputs, and carries out the effects that concern them. It decides nothing. The worker of an instance and
//! `redkeeper-agent probe` both drive the prober through it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use redkeeper_core::probe::{Command, Effect, Input};

use super::{
    connection::{Check, Link, has_moved, poll_once},
    server_process::ServerProcess,
};
use crate::{
    host::process::{Location, Process},
    redis::{self, StepLog, Steps, Target, tls},
};

/// Connections in a row that a dying server may accept and end without a byte. After one more, TLS is tried even where
/// the protocol was known.
const SILENT_CONNECTIONS_MAX: u32 = 5;

/// Connections and process of one instance.
pub struct Shell {
    target: Arc<Target>,
    connect_timeout: Duration,
    link: Link,
    /// Steps of the present or last attempt to connect.
    steps: Arc<StepLog>,
    process: ServerProcess,
    /// Checks of the process wait for the search for it.
    waits_for_search: bool,
    /// The periodic check with a new connection, in progress.
    new_connection: Option<Check>,
    /// The server has answered once, so its protocol is known.
    protocol_known: bool,
    /// Consecutive connections that ended without a byte.
    silent_connections: u32,
    inputs: VecDeque<Input>,
}

/// What happened, before it is an input.
enum Event {
    Input(Input),
    NewConnection(redis::ConnectionCheck),
    SecondConnection(redis::ConnectionCheck),
}

impl Shell {
    /// Without a connection. `connect_timeout` bounds each attempt to connect, and each write.
    pub fn new(target: Arc<Target>, connect_timeout: Duration) -> Self {
        Self {
            target,
            connect_timeout,
            link: Link::default(),
            steps: Arc::default(),
            process: ServerProcess::default(),
            waits_for_search: false,
            new_connection: None,
            protocol_known: false,
            silent_connections: 0,
            inputs: VecDeque::with_capacity(2),
        }
    }

    /// As [`new`](Self::new), for a diagnosis that ends with the first verdict: a check of the process waits for the
    /// search for it, because no later check could use the result.
    pub fn for_diagnosis(target: Arc<Target>, connect_timeout: Duration) -> Self {
        Self {
            waits_for_search: true,
            ..Self::new(target, connect_timeout)
        }
    }

    /// True if a connection is open.
    pub fn is_connected(&self) -> bool {
        self.link.open.is_some()
    }

    /// True if an input is ready, so that [`next`](Self::next) does not wait.
    pub fn has_input(&self) -> bool {
        !self.inputs.is_empty()
    }

    /// The server's process, if it is known.
    pub fn process(&self) -> Option<Process> {
        self.process.known()
    }

    /// Takes the steps of the last attempt to connect.
    pub fn take_steps(&self) -> Steps {
        self.steps.take()
    }

    /// Waits for the next input. `timer` is ready at the prober's deadline.
    pub async fn next(&mut self, mut timer: impl FnMut(&mut Context<'_>) -> Poll<()>) -> Input {
        let input = match self.inputs.pop_front() {
            Some(input) => input,
            // Written as a poll function instead of `select!`, because it is polled twice for each PING.
            None => match std::future::poll_fn(|context| self.poll_event(&mut timer, context)).await {
                Event::Input(input) => input,
                Event::NewConnection(check) => {
                    self.inputs.extend(check.certificate_ends.map(Input::Certificate));
                    let moved = has_moved(self.link.peer(), &check.addresses);
                    self.inputs.extend(moved.then_some(Input::Moved));
                    Input::NewConnectionChecked(check.answer)
                }
                Event::SecondConnection(check) => {
                    self.inputs.extend(check.certificate_ends.map(Input::Certificate));
                    Input::SecondConnectionChecked(check.answer)
                }
            },
        };
        match &input {
            Input::Connected => {
                let open = self.link.open.as_ref();
                let ends = open.and_then(|open| open.certificate_ends);
                self.inputs.extend(ends.map(Input::Certificate));
            }
            Input::Replied(_) => {
                (self.protocol_known, self.silent_connections) = (true, 0);
                self.process.answered();
            }
            _ => {}
        }
        self.explain_silent_end(input).await
    }

    fn poll_event(
        &mut self,
        timer: &mut impl FnMut(&mut Context<'_>) -> Poll<()>,
        context: &mut Context<'_>,
    ) -> Poll<Event> {
        if let Poll::Ready(input) = self.link.poll(context) {
            return Poll::Ready(Event::Input(input));
        }
        if let Some(check) = poll_once(&mut self.link.second, context) {
            return Poll::Ready(Event::SecondConnection(check));
        }
        if let Some(check) = poll_once(&mut self.new_connection, context) {
            return Poll::Ready(Event::NewConnection(check));
        }
        // What a search has found serves the next check of the process.
        let _done = self.process.poll_search(context);
        timer(context).map(|()| Event::Input(Input::Tick))
    }

    /// Determines why a connection without TLS ended before the first byte: the server may expect TLS. Not asked while a
    /// server whose protocol is known may be dying.
    async fn explain_silent_end(&mut self, input: Input) -> Input {
        let Some(peer) = self.link.ended_silent.take() else {
            return input;
        };
        self.silent_connections += 1;
        if self.protocol_known && self.silent_connections <= SILENT_CONNECTIONS_MAX {
            return input;
        }
        // Boxed, because the handshake would make each worker a kilobyte larger.
        Box::pin(tls::end_of(peer, input, self.connect_timeout / 4)).await
    }

    /// Carries out an effect. Returns those that do not concern connections and process, which the caller carries out.
    pub async fn carry_out(&mut self, effect: Effect) -> Option<Effect> {
        match effect {
            Effect::Connect => {
                self.process.connection_replaced();
                let _former = self.steps.take();
                let (target, steps) = (Arc::clone(&self.target), Arc::clone(&self.steps));
                self.link = Link::connect(target, self.connect_timeout, steps);
            }
            Effect::Disconnect => self.link = Link::default(),
            Effect::Send(commands) => self.send(&commands).await,
            Effect::LocateProcess(reported) => {
                self.process.locate(&self.location(), reported);
                if self.waits_for_search {
                    self.process.finish_search().await;
                }
            }
            Effect::CheckProcess => {
                let location = self.location();
                let mut state = self.process.check(&location);
                if self.waits_for_search {
                    self.process.finish_search().await;
                    state = self.process.check(&location);
                }
                self.inputs.push_back(Input::ProcessChecked(state));
            }
            // One check at a time: a slow earlier one is worth more than a new one.
            Effect::CheckNewConnection if self.new_connection.is_some() => {}
            Effect::CheckNewConnection => self.new_connection = Some(self.check(self.connect_timeout)),
            Effect::CheckSecondConnection(limit) => self.link.second = Some(self.check(limit)),
            Effect::SilentConnectionReplaced
            | Effect::Round
            | Effect::Latency(_)
            | Effect::Verdict(_)
            | Effect::Paused(_) => return Some(effect),
        }
        None
    }

    fn check(&self, limit: Duration) -> Check {
        let target = Arc::clone(&self.target);
        Box::pin(async move { redis::check_new_connection(&target, limit).await })
    }

    fn location(&self) -> Location {
        Location::of(&self.target.address, self.link.peer())
    }

    async fn send(&mut self, commands: &[Command]) {
        let Some(connection) = &mut self.link.open else {
            return;
        };
        let sent = {
            let mut sending = std::pin::pin!(connection.send(commands));
            // A few bytes fit into the empty socket buffer, so this does not wait unless the peer is stuck.
            match (&mut sending).now_or_never() {
                Some(sent) => sent,
                None => tokio::time::timeout(self.connect_timeout, sending)
                    .await
                    .unwrap_or_else(|_| Err("the socket takes no more bytes".to_owned())),
            }
        };
        if let Err(how) = sent {
            self.link.open = None;
            self.inputs.push_back(Input::Closed(how));
        }
    }
}
