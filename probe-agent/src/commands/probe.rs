//! `redkeeper-agent probe`: diagnoses one instance once, with timings, by the same [`Prober`] as the running agent.

use std::{
    collections::{BTreeMap, VecDeque},
    process::ExitCode,
    sync::Arc,
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
    probe::shell::Shell,
    redis::{Credentials, Target, tls::Tls},
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
    let diagnosing = Diagnosing {
        shell: Shell::for_diagnosis(Arc::new(target.clone()), probe.timeout),
        clock,
        process_state: None,
        sent: VecDeque::new(),
        timings: BTreeMap::new(),
    };
    let prober = Prober::new(clock.now(), clock.wall(), config);
    let mut found = diagnosing.run(prober).await;
    if let Some(credentials) = &target.credentials {
        credentials.explain(&mut found.verdict);
    }
    found
}

/// A diagnosis in progress: drives the prober up to its first verdict, and takes the times.
struct Diagnosing {
    shell: Shell,
    clock: Clock,
    process_state: Option<ProcessState>,
    /// Commands without an answer, with the time of sending.
    sent: VecDeque<(Command, Mono)>,
    timings: BTreeMap<&'static str, f64>,
}

impl Diagnosing {
    async fn run(mut self, mut prober: Prober) -> Diagnosis {
        let start = self.clock.now();
        let mut effects = Vec::new();
        while !self.is_done(&prober) {
            let deadline = self.clock.instant(prober.next_deadline());
            let mut sleep = std::pin::pin!(tokio::time::sleep_until(deadline));
            let input = self.shell.next(|context| sleep.as_mut().poll(context)).await;
            self.observe(&input);
            prober.step(self.clock.now(), self.clock.wall(), input, &mut effects);
            // The prober would continue with a new connection; a single diagnosis ends with the findings on this one.
            let down = prober.verdict().state() == State::Down;
            for effect in effects.drain(..) {
                match &effect {
                    Effect::Connect if down => continue,
                    Effect::Connect | Effect::Disconnect => {
                        self.take_steps();
                        self.sent.clear();
                    }
                    Effect::CheckNewConnection => continue,
                    Effect::Send(commands) => {
                        let now = self.clock.now();
                        self.sent.extend(commands.iter().map(|command| (*command, now)));
                    }
                    _ => {}
                }
                // What is left are verdicts and measurements, which the prober itself keeps.
                let _left = self.shell.carry_out(effect).await;
            }
        }
        self.take_steps();
        self.timings
            .insert("total", millis(self.clock.now().since(start)));
        let process = self.shell.process();
        Diagnosis {
            verdict: prober.verdict().clone(),
            info: prober.info().clone(),
            process: process.map(|process| {
                let state = self.process_state.unwrap_or_else(|| process.inspect());
                (process.pid(), state)
            }),
            timings: self.timings,
        }
    }

    /// True once a verdict was reached and every request was answered or can no longer be answered.
    fn is_done(&self, prober: &Prober) -> bool {
        let judged = prober.verdict().reason != Reason::NotProbed && !self.shell.has_input();
        let answered = self.sent.is_empty() || !self.shell.is_connected();
        judged && (answered || prober.verdict().state() == State::Down)
    }

    fn observe(&mut self, input: &Input) {
        match input {
            Input::Replied(_) => {
                if let Some((command, sent)) = self.sent.pop_front() {
                    let name = match command {
                        Command::Auth => "auth",
                        Command::Ping => "ping",
                        Command::Info => "info",
                        Command::ClusterInfo => "cluster_info",
                    };
                    self.timings.insert(name, millis(self.clock.now().since(sent)));
                }
            }
            Input::ProcessChecked(state) => self.process_state = Some(*state),
            Input::Connected | Input::ConnectFailed(_) => self.take_steps(),
            _ => {}
        }
    }

    /// Records how long the steps of the last attempt to connect took.
    fn take_steps(&mut self) {
        let steps = self.shell.take_steps();
        for (step, took) in [
            ("resolve", steps.resolve),
            ("connect", steps.connect),
            ("tls", steps.tls),
        ] {
            self.timings.extend(took.map(|took| (step, millis(took))));
        }
    }
}

fn millis(time: Duration) -> f64 {
    // Microseconds are precise enough.
    time.as_micros() as f64 / 1_000.0
}
