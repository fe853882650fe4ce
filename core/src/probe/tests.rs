use super::{answers::UNASKED_MAX, *};
use crate::{
    redis::reply::{self, Reply},
    status::{Role, State},
};

mod extra_checks;
mod info;
mod properties;
mod silence;
mod snapshot;

const MS: Duration = Duration::from_millis(1);

fn config() -> ProbeConfig {
    ProbeConfig {
        interval: 500 * MS,
        phase: Duration::ZERO,
        spread: Default::default(),
        connect_timeout: 1000 * MS,
        hang_after: 3000 * MS,
        info_interval: 10_000 * MS,
        connect_interval: 60_000 * MS,
        successes_before_up: 2,
        failures_before_down: 3,
        authenticate: false,
        tls: false,
        vanished: false,
    }
}

fn pong() -> Meaning {
    reply::ping(&Reply::Text("PONG".into()))
}

/// Drives a prober against a scripted server and records what it does.
struct Bench {
    prober: Prober,
    now: Mono,
    out: Vec<Effect>,
    /// Time and reason of each verdict, and the time of the last valid reply before it.
    verdicts: Vec<(Mono, Reason, Mono)>,
    /// Commands sent on the open connection and not yet answered.
    pending: VecDeque<Command>,
    open: bool,
    connecting: bool,
    last_valid: Mono,
    inspected: usize,
    new_connections: usize,
    /// When a second connection was requested, and its time limit.
    asked: Vec<(Mono, Duration)>,
    asking: bool,
    mute: usize,
    connects: usize,
    /// Additional lines of INFO.
    info: &'static str,
}

impl Bench {
    fn new() -> Self {
        let now = Mono::from_millis(10_000);
        Self {
            prober: Prober::new(now, WallMs(0), config()),
            now,
            out: vec![],
            verdicts: vec![],
            pending: VecDeque::new(),
            open: false,
            connecting: false,
            last_valid: now,
            inspected: 0,
            new_connections: 0,
            asked: vec![],
            asking: false,
            mute: 0,
            connects: 0,
            info: "",
        }
    }

    /// A server that is UP.
    fn served() -> Self {
        let mut bench = Self::new();
        bench.up();
        bench
    }

    fn input(&mut self, input: Input) {
        self.prober
            .step(self.now, WallMs(self.now.0 / 1000), input, &mut self.out);
        for effect in std::mem::take(&mut self.out) {
            match effect {
                Effect::Connect => {
                    (self.connecting, self.open) = (true, false);
                    self.connects += 1;
                }
                Effect::Disconnect => (self.connecting, self.open) = (false, false),
                Effect::Send(commands) => {
                    assert!(self.open, "a command without a connection");
                    assert!(self.pending.is_empty(), "two probes in flight");
                    self.pending.extend(commands);
                }
                // INFO may change other fields of a verdict while its reason stays.
                Effect::Verdict(v)
                    if self
                        .verdicts
                        .last()
                        .is_some_and(|(_, reason, _)| *reason == v.reason) => {}
                Effect::Verdict(v) => self.verdicts.push((self.now, v.reason, self.last_valid)),
                Effect::CheckProcess => self.inspected += 1,
                Effect::CheckNewConnection => self.new_connections += 1,
                Effect::CheckSecondConnection(limit) => {
                    self.asked.push((self.now, limit));
                    self.asking = true;
                }
                Effect::SilentConnectionReplaced => self.mute += 1,
                Effect::Round | Effect::Latency(_) | Effect::Paused(_) | Effect::LocateProcess(_) => {}
            }
            if !self.open {
                self.pending.clear();
                self.asking = false;
            }
        }
    }

    fn accept(&mut self) {
        if self.connecting {
            (self.connecting, self.open) = (false, true);
            self.input(Input::Connected);
        }
    }

    fn refuse(&mut self) {
        if self.connecting {
            self.connecting = false;
            self.input(Input::ConnectFailed(ConnectFailure::Refused));
        }
    }

    fn answer(&mut self) {
        while let Some(command) = self.pending.pop_front() {
            self.last_valid = self.now;
            // The result of a second connection no longer matters.
            self.asking = false;
            let reply = match command {
                Command::Info => Reply::Text(
                    format!(
                        "run_id:r1\r\nrole:master\r\nredis_version:7.0.15\r\n{}",
                        self.info
                    )
                    .into(),
                ),
                Command::ClusterInfo => Reply::Text("cluster_state:fail\r\n".into()),
                Command::Auth | Command::Ping => {
                    Reply::Text(if command == Command::Ping { "PONG" } else { "OK" }.into())
                }
            };
            self.input(Input::Replied(reply));
        }
    }

    /// Accepts and answers what is there to accept and to answer.
    fn serve(&mut self) {
        self.accept();
        self.answer();
    }

    fn close(&mut self) {
        if self.open {
            self.open = false;
            self.pending.clear();
            self.input(Input::Closed("EOF".into()));
        }
    }

    /// Lets time pass up to `until`, waking the prober at its deadlines; `server` runs after each wake-up.
    fn run(&mut self, until: Mono, mut server: impl FnMut(&mut Self)) {
        server(self);
        while self.prober.next_deadline() <= until {
            self.now = self.now.max(self.prober.next_deadline());
            self.input(Input::Tick);
            server(self);
        }
        self.now = until;
    }

    /// Answers the second connection, if one is open.
    fn second(&mut self, answer: Result<Meaning, ConnectFailure>) {
        if std::mem::take(&mut self.asking) {
            if answer.is_ok() {
                self.last_valid = self.now;
            }
            self.input(Input::SecondConnectionChecked(answer));
        }
    }

    fn up(&mut self) {
        let until = self.now + 2000 * MS;
        self.run(until, Self::serve);
        assert_eq!(self.prober.verdict().state(), State::Up);
    }

    fn reason(&self) -> Reason {
        self.prober.verdict().reason
    }
}

#[test]
fn up_needs_two_replies_and_knows_run_id() {
    let mut bench = Bench::new();
    bench.input(Input::Tick);
    bench.accept();
    bench.answer();
    assert_eq!(bench.reason(), Reason::NotProbed);
    bench.up();
    let verdict = bench.prober.verdict();
    assert_eq!(
        (
            verdict.run_id.to_string().as_str(),
            verdict.role,
            &*verdict.server_version
        ),
        ("r1", Role::Master, "7.0.15")
    );
}

#[test]
fn death_is_believed_at_once() {
    let mut bench = Bench::served();
    bench.close();
    assert!(bench.connecting, "reconnects at once");
    bench.refuse();
    assert_eq!(bench.reason(), Reason::ConnectionRefused);
}

#[test]
fn a_reconnection_that_a_dying_server_accepts_is_repeated_at_once() {
    let mut bench = Bench::served();
    bench.close();
    bench.accept();
    bench.close();
    assert_eq!(bench.reason(), Reason::Ok);
    bench.now = bench.now + MS;
    bench.input(Input::Tick);
    bench.refuse();
    assert_eq!(bench.reason(), Reason::ConnectionRefused);
}

#[test]
fn a_restart_between_two_probes_stays_up_and_is_counted() {
    let mut bench = Bench::served();
    bench.close();
    bench.accept();
    bench.pending.clear();
    bench.input(Input::Replied(Reply::Text("PONG".into())));
    bench.input(Input::Replied(Reply::Text("run_id:r2\r\nrole:master\r\n".into())));
    let verdict = bench.prober.verdict();
    assert_eq!(
        (
            verdict.reason,
            verdict.run_id.to_string().as_str(),
            verdict.restarts
        ),
        (Reason::Ok, "r2", 1)
    );
}

#[test]
fn silence_is_down_exactly_at_hang_after() {
    let mut bench = Bench::served();
    let last = bench.last_valid;
    bench.run(last + 2999 * MS, Bench::accept);
    assert_eq!(bench.reason(), Reason::Ok);
    bench.run(last + 3000 * MS, Bench::accept);
    assert_eq!(bench.reason(), Reason::ReplyTimeout);
    assert_eq!(bench.verdicts.last().unwrap().0, last + 3000 * MS);
    bench.run(last + 9000 * MS, Bench::accept);
    bench.up();
}

#[test]
fn our_own_sleep_is_not_held_against_the_server() {
    let mut bench = Bench::served();
    // One PING is out, then the agent sleeps for 20 s and its timer fires before the reply is read.
    bench.now = bench.prober.next_deadline();
    bench.input(Input::Tick);
    assert!(!bench.pending.is_empty());
    bench.now = bench.now + 20_000 * MS;
    bench.input(Input::Tick);
    assert_eq!(bench.reason(), Reason::Ok);
    bench.answer();
    assert_eq!(bench.reason(), Reason::Ok);
}

#[test]
fn password_faults_are_unknown() {
    let mut bench = Bench::new();
    bench.prober = Prober::new(
        bench.now,
        WallMs(0),
        ProbeConfig {
            authenticate: true,
            ..config()
        },
    );
    bench.input(Input::Tick);
    bench.accept();
    assert_eq!(bench.pending, [Command::Auth, Command::Ping, Command::Info]);
    bench.input(Input::Replied(Reply::Error(
        "WRONGPASS invalid username-password pair".into(),
    )));
    bench.input(Input::Replied(Reply::Error(
        "NOAUTH Authentication required.".into(),
    )));
    assert_eq!(bench.reason(), Reason::AuthFailed);
    assert_eq!(bench.prober.verdict().state(), State::Unknown);
}

#[test]
fn a_server_that_speaks_first_and_hangs_up_is_not_dead() {
    let mut bench = Bench::new();
    bench.input(Input::Tick);
    bench.accept();
    bench.input(Input::Replied(Reply::Error(
        "ERR max number of clients reached".into(),
    )));
    bench.close();
    assert_eq!(bench.reason(), Reason::MaxClients);
    assert!(!bench.connecting, "does not hammer a full server");
}

#[test]
fn a_proxy_that_takes_the_password_for_a_dead_server_is_down() {
    let mut bench = Bench::served();
    bench.prober.config.authenticate = true;
    for _ in 0..4 {
        bench.close();
        bench.run(bench.now + 600 * MS, |_| {});
        bench.accept();
        if bench.open {
            bench.pending.pop_front();
            bench.input(Input::Replied(Reply::Text("OK".into())));
        }
    }
    bench.close();
    assert_eq!(bench.reason(), Reason::ConnectionReset);
}

#[test]
fn a_full_server_behind_a_password_is_not_hammered_and_is_told() {
    let mut bench = Bench::served();
    bench.prober.config.authenticate = true;
    bench.close();
    bench.accept();
    bench.input(Input::Replied(Reply::Error(
        "ERR max number of clients reached".into(),
    )));
    bench.close();
    assert!(!bench.connecting);
    assert_eq!(bench.reason(), Reason::MaxClients);
}

#[test]
fn a_peer_that_hangs_up_after_each_answer_is_not_hammered() {
    let mut bench = Bench::served();
    bench.close();
    assert!(bench.connecting);
    bench.accept();
    bench.answer();
    bench.close();
    assert!(!bench.connecting, "once an interval is enough");
}

#[test]
fn a_peer_that_talks_by_itself_is_left() {
    let mut bench = Bench::served();
    for _ in 0..UNASKED_MAX {
        bench.input(Input::Replied(Reply::Text("PONG".into())));
        assert!(bench.open);
    }
    bench.input(Input::Replied(Reply::Text("PONG".into())));
    assert!(!bench.open && !bench.connecting);
    assert_eq!(bench.reason(), Reason::ProtocolError);
}

#[test]
fn a_state_that_changes_again_and_again_is_flapping_for_ten_minutes() {
    let mut bench = Bench::served();
    let turn = |bench: &mut Bench, n: u32| {
        if n.is_multiple_of(2) {
            bench.close();
            bench.refuse();
        } else {
            bench.up();
        }
    };
    for n in 0..6 {
        assert!(!bench.prober.verdict().flapping, "{n}");
        turn(&mut bench, n);
    }
    assert!(bench.prober.verdict().flapping);
    bench.run(bench.now + 580_000 * MS, Bench::serve);
    assert!(bench.prober.verdict().flapping);
    bench.run(bench.now + 21_000 * MS, Bench::serve);
    assert!(!bench.prober.verdict().flapping);
    (0..7).for_each(|n| turn(&mut bench, n));
    assert!(bench.prober.verdict().flapping);
    bench.run(bench.now + 601_000 * MS, Bench::refuse);
    assert!(!bench.prober.verdict().flapping, "dead for long is not flapping");
}

#[test]
fn what_is_no_redis_never_becomes_down() {
    let mut bench = Bench::new();
    let until = bench.now + 20_000 * MS;
    bench.run(until, |b| {
        b.accept();
        if b.open {
            b.input(Input::Garbage("HTTP".into()));
        }
    });
    assert_eq!(
        bench
            .verdicts
            .iter()
            .map(|(_, reason, _)| *reason)
            .collect::<Vec<_>>(),
        [Reason::NotRedis]
    );
}

#[test]
fn slow_connections_are_no_hang() {
    let mut bench = Bench::served();
    bench.close();
    for _ in 0..2 {
        bench.now = bench.prober.next_deadline().max(bench.now + 1000 * MS);
        bench.input(Input::Tick);
        bench.run(bench.now + 600 * MS, |_| {});
    }
    bench.accept();
    let until = bench.now + 100 * MS;
    bench.run(until, |_| {});
    assert_ne!(bench.reason(), Reason::ReplyTimeout);
}
