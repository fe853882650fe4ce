//! `redkeeper-agent probe`: diagnoses one instance once, with timings, by the same [`Prober`] as the running agent.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    pin::Pin,
    process::ExitCode,
    time::Duration,
};

use redkeeper_core::{
    hosts::HostPort,
    probe::{Command, Effect, Input, ProbeConfig, Prober, ProcessState, schedule::Spread},
    status::{Reason, State},
    time::Mono,
};
use redkeeper_runtime::{clock::Clock, terminal};

use crate::{
    cli::Probe,
    host::process::{Place, Process},
    redis::{
        self, Connection, Credentials, Received, Steps, Target,
        tls::{self, Tls},
    },
};

use diagnosis::Diagnosis;

mod diagnosis;

/// Exit code if nothing could be diagnosed: `EX_USAGE` of sysexits.
pub const USAGE: u8 = 64;

/// Runs the diagnosis and prints the result.
pub fn main(probe: &Probe) -> ExitCode {
    let is_socket = probe.address.starts_with('/');
    if let Err(e) = HostPort::parse(&probe.address, None)
        && !is_socket
    {
        terminal::problem(&format!("error: {e}, or the path of a Unix socket"));
        return ExitCode::from(USAGE);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            terminal::problem(&format!("error: cannot start: {e}"));
            return ExitCode::from(USAGE);
        }
    };
    let found = runtime.block_on(diagnose(probe));
    runtime.shutdown_background();
    let text = if probe.json {
        format!("{}\n", found.json(&probe.address))
    } else {
        found.text(&probe.address)
    };
    // The exit code states the verdict even if the output cannot be written.
    let _written = terminal::answer(&text);
    ExitCode::from(match found.verdict.state() {
        State::Up => 0,
        State::Degraded => 1,
        State::Down => 2,
        State::Unknown => 3,
    })
}

async fn diagnose(probe: &Probe) -> Diagnosis {
    let target = Target {
        owners: None,
        address: probe.address.clone(),
        credentials: probe.password_file.clone().map(|password_file| Credentials {
            user: probe.user.clone(),
            password_file,
        }),
        tls: probe.tls_ca.clone().map(|ca_file| Tls {
            ca_file,
            client: probe.tls_cert.clone().zip(probe.tls_key.clone()),
            server_name: probe.tls_server_name.clone(),
            verify: probe.tls_verify,
        }),
    };
    // One sample decides: a single diagnosis does not wait for a second one.
    let config = ProbeConfig {
        vanished: false,
        tls: target.tls.is_some(),
        interval: probe.timeout,
        phase: Duration::ZERO,
        spread: Spread::default(),
        connect_timeout: probe.timeout,
        hang_after: probe.timeout,
        info_interval: Duration::from_secs(3_600),
        connect_interval: Duration::from_secs(3_600),
        successes_before_up: 1,
        failures_before_down: 1,
        authenticate: target.credentials.is_some(),
    };
    let clock = Clock::new();
    let prober = Prober::new(clock.now(), clock.wall(), config);
    let mut session = Session {
        target,
        limit: probe.timeout,
        clock,
        connection: None,
        process: None,
        sight: None,
        mute: None,
        second: None,
        sent: VecDeque::new(),
        timings: BTreeMap::new(),
    };
    session.run(prober).await
}

struct Session {
    target: Target,
    limit: Duration,
    clock: Clock,
    connection: Option<Connection>,
    process: Option<Process>,
    sight: Option<ProcessState>,
    /// Peer of the last ended connection, if it was without TLS and received nothing.
    mute: Option<SocketAddr>,
    /// Check of a second connection in progress, started because the present one is silent.
    second: Option<Pin<Box<dyn Future<Output = Input> + Send>>>,
    sent: VecDeque<(Command, Mono)>,
    timings: BTreeMap<&'static str, f64>,
}

impl Session {
    async fn run(&mut self, mut prober: Prober) -> Diagnosis {
        let start = self.clock.now();
        let (mut inputs, mut effects) = (VecDeque::from([Input::Tick]), Vec::new());
        loop {
            let input = match inputs.pop_front() {
                Some(input) => input,
                None if self.is_done(&prober) => break,
                None => {
                    let deadline = self.clock.instant(prober.next_deadline());
                    tokio::select! {
                        biased;
                        input = next(&mut self.connection, &mut self.mute) => input,
                        input = answered(&mut self.second) => input,
                        () = tokio::time::sleep_until(deadline) => Input::Tick,
                    }
                }
            };
            let input = match self.mute.take() {
                Some(peer) => tls::end_of(peer, input, self.limit / 4).await,
                None => input,
            };
            self.note(&input);
            prober.step(self.clock.now(), self.clock.wall(), input, &mut effects);
            // The prober would continue with a new connection; a single diagnosis ends with the findings on this one.
            let down = prober.verdict().state() == State::Down;
            for effect in effects
                .drain(..)
                .filter(|effect| !down || *effect != Effect::Connect)
            {
                self.carry_out(effect, &mut inputs).await;
            }
        }
        self.timings
            .insert("total", millis(self.clock.now().since(start)));
        let mut verdict = prober.verdict().clone();
        if let Some(credentials) = &self.target.credentials {
            credentials.explain(&mut verdict);
        }
        Diagnosis {
            verdict,
            info: prober.info().clone(),
            process: self
                .process
                .map(|process| (process.pid(), self.sight.unwrap_or_else(|| process.inspect()))),
            timings: std::mem::take(&mut self.timings),
        }
    }

    /// True once a verdict was reached and every request was answered or can no longer be answered.
    fn is_done(&self, prober: &Prober) -> bool {
        let judged = prober.verdict().reason != Reason::NotProbed;
        judged
            && (self.sent.is_empty() || self.connection.is_none() || prober.verdict().state() == State::Down)
    }

    fn note(&mut self, input: &Input) {
        if let Input::Replied(_) = input
            && let Some((command, sent)) = self.sent.pop_front()
        {
            let name = match command {
                Command::Auth => "auth",
                Command::Ping => "ping",
                Command::Info => "info",
                Command::ClusterInfo => "cluster_info",
            };
            self.timings.insert(name, millis(self.clock.now().since(sent)));
        }
    }

    fn place(&self) -> Place {
        let peer = self.connection.as_ref().and_then(|connection| connection.peer);
        Place::of(&self.target.address, peer)
    }

    async fn carry_out(&mut self, effect: Effect, inputs: &mut VecDeque<Input>) {
        match effect {
            Effect::Connect => {
                self.sent.clear();
                let mut steps = Steps::default();
                let connecting = redis::connect_by_steps(&self.target, self.limit, &mut steps);
                let connected = tokio::time::timeout(self.limit, connecting).await;
                for (step, took) in [
                    ("resolve", steps.resolve),
                    ("connect", steps.connect),
                    ("tls", steps.tls),
                ] {
                    self.timings.extend(took.map(|took| (step, millis(took))));
                }
                match connected {
                    Ok(Ok(connection)) => {
                        inputs.push_back(Input::Connected);
                        inputs.extend(connection.certificate_ends.map(Input::Certificate));
                        self.connection = Some(connection);
                    }
                    Ok(Err(failure)) => inputs.push_back(Input::ConnectFailed(failure)),
                    // The prober's own deadline has passed too.
                    Err(_) => inputs.push_back(Input::Tick),
                }
            }
            Effect::Disconnect => (self.connection, self.second) = (None, None),
            Effect::CheckSecondConnection(limit) => {
                let target = self.target.clone();
                let ask =
                    async move { Input::SecondConnectionChecked(redis::check_new_connection(&target, limit).await.answer) };
                self.second = Some(Box::pin(ask));
            }
            Effect::Send(commands) => {
                let now = self.clock.now();
                self.sent.extend(commands.iter().map(|command| (*command, now)));
                if let Some(connection) = &mut self.connection
                    && let Err(how) = connection.send(&commands).await
                {
                    self.connection = None;
                    inputs.push_back(Input::Closed(how));
                }
            }
            Effect::LocateProcess(told) => self.process = Process::locate(&self.place(), told),
            Effect::CheckProcess => {
                // Without INFO, the process may still be found by its socket.
                self.process = self.process.or_else(|| Process::locate(&self.place(), None));
                self.sight = Some(
                    self.process
                        .map_or(ProcessState::NotLocal, |process| process.inspect()),
                );
                inputs.extend(self.sight.map(Input::ProcessChecked));
            }
            Effect::CheckNewConnection
            | Effect::SilentConnectionReplaced
            | Effect::Round
            | Effect::Latency(_)
            | Effect::Verdict(_)
            | Effect::Paused(_) => {}
        }
    }
}

/// Waits for the result of the second connection; never returns if there is none.
async fn answered(second: &mut Option<Pin<Box<dyn Future<Output = Input> + Send>>>) -> Input {
    match second {
        Some(asking) => {
            let input = asking.as_mut().await;
            *second = None;
            input
        }
        None => std::future::pending().await,
    }
}

async fn next(connection: &mut Option<Connection>, mute: &mut Option<SocketAddr>) -> Input {
    match connection {
        Some(open) => match open.receive().await {
            Received::Reply(reply) => Input::Replied(reply),
            Received::Closed(how) => {
                *mute = open.mute_plain();
                *connection = None;
                Input::Closed(how)
            }
            Received::Garbage(what) => Input::Garbage(what),
            Received::Refused(failure) => {
                *connection = None;
                Input::ConnectFailed(failure)
            }
        },
        None => std::future::pending().await,
    }
}

fn millis(time: Duration) -> f64 {
    // Microseconds are precise enough.
    time.as_micros() as f64 / 1_000.0
}
