//! An agent in the simulation: the product's own board and outbox; the probes are replaced by the truth, and the
//! gRPC stream by a pipe that delays, breaks, and may deliver what was under way after the next stream began.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use redkeeper_agent::board::Board;
use redkeeper_collector::{aggregator::Command, feedback};
use redkeeper_core::{
    agent::outbox::Outbox,
    fleet::Greeting,
    ids::{AgentId, BootId, InstanceId},
    status::{Identity, Reason, Stage, Verdict},
    time::WallMs,
};
use redkeeper_proto::convert;
use redkeeper_runtime::clock::Clock;
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use super::{Flag, Fleet, run_in_background};

/// How often an agent proves that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often each instance is probed.
const INTERVAL: Duration = Duration::from_millis(500);

/// An agent's place in the world; the process in it comes and goes.
pub struct Agent {
    /// Its name.
    pub id: AgentId,
    truth: Arc<Mutex<Vec<Reason>>>,
    /// Its ways to the collectors.
    pub links: Vec<Arc<Flag>>,
    /// The process.
    pub process: Option<Process>,
}

/// A running agent.
pub struct Process {
    board: Arc<Board>,
    _tasks: JoinSet<()>,
}

impl Agent {
    /// A place without a process.
    ///
    /// # Panics
    /// When the name is none.
    pub fn new(name: &str, instances: usize, collectors: usize) -> Self {
        Self {
            id: AgentId::new(name).expect("a name"),
            truth: Arc::new(Mutex::new(vec![Reason::Ok; instances])),
            links: (0..collectors).map(|_| Arc::new(Flag::new(true))).collect(),
            process: None,
        }
    }

    /// What is true of each of its instances now.
    pub fn truth(&self) -> Vec<Reason> {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Id of its nth instance.
    pub fn instance(&self, n: usize) -> String {
        format!("{}:{n}", self.id)
    }

    /// Starts the process: a new boot that has probed nothing yet.
    ///
    /// # Panics
    /// When a name is none.
    pub fn start(&mut self, fleet: &Fleet, clock: Clock, rng: &mut fastrand::Rng) {
        let boot = BootId::new(&format!("{:032x}", rng.u128(1 << 120..))).expect("hex digits");
        let identity = |n| Identity {
            id: InstanceId::new(&self.instance(n)).expect("a name"),
            cluster: None,
            address: "127.0.0.1:1".into(),
            labels: Arc::default(),
        };
        let blank = Verdict::blank(Reason::NotProbed, Stage::Resolve, "", WallMs(0));
        let board = Arc::new(Board::new(clock));
        for n in 0..self.truth().len() {
            board.add(identity(n), blank.clone(), INTERVAL * 4);
        }
        let mut tasks = JoinSet::new();
        for (number, link) in self.links.iter().enumerate() {
            let uplink = Uplink {
                agent: self.id.clone(),
                boot: boot.clone(),
                board: Arc::clone(&board),
                link: Arc::clone(link),
                fleet: fleet.clone(),
                number,
                clock,
                rng: rng.fork(),
                changed: Arc::new(tokio::sync::Notify::new()),
            };
            tasks.spawn(uplink.run());
        }
        let (probed, truth, first) = (Arc::clone(&board), Arc::clone(&self.truth), rng.u64(1..200));
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_millis(first)).await;
            let seen = truth.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for (handle, reason) in probed.entries().into_keys().zip(seen) {
                probed.set(handle, Verdict::blank(reason, Stage::Reply, "", WallMs(0)));
            }
            loop {
                let now = clock.now();
                probed
                    .entries()
                    .values()
                    .for_each(|entry| entry.progress.completed(now));
                tokio::time::sleep(INTERVAL).await;
            }
        });
        self.process = Some(Process { board, _tasks: tasks });
    }

    /// Changes the truth, which a running agent sees at once.
    pub fn set(&mut self, n: usize, reason: Reason) {
        self.truth.lock().unwrap_or_else(PoisonError::into_inner)[n] = reason;
        if let Some(process) = &self.process
            && let Some((handle, _)) = process.board.entries().into_iter().nth(n)
        {
            process
                .board
                .set(handle, Verdict::blank(reason, Stage::Reply, "", WallMs(0)));
        }
    }
}

/// One stream after the other to one collector.
struct Uplink {
    agent: AgentId,
    boot: BootId,
    board: Arc<Board>,
    link: Arc<Flag>,
    fleet: Fleet,
    number: usize,
    clock: Clock,
    rng: fastrand::Rng,
    changed: Arc<tokio::sync::Notify>,
}

impl Uplink {
    async fn run(mut self) {
        loop {
            self.link.is(true).await;
            if let Some((commands, stream)) = self.dial() {
                self.stream(commands, stream).await;
            }
            let delay = self.rng.u64(50..400);
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
    }

    fn dial(&self) -> Option<(mpsc::Sender<Command>, u64)> {
        let fleet = self.fleet.lock().unwrap_or_else(PoisonError::into_inner);
        let collector = &fleet[self.number];
        let commands = collector.process.as_ref()?.commands.clone();
        Some((commands, collector.next_stream.fetch_add(1, Ordering::Relaxed)))
    }

    async fn stream(&mut self, commands: mpsc::Sender<Command>, stream: u64) {
        let (pipe, receiver) = mpsc::channel(1_024);
        let lingers = self.rng.u8(0..4) == 0;
        let carried = carry(
            receiver,
            commands.clone(),
            Arc::clone(&self.link),
            self.rng.fork(),
            lingers,
        );
        run_in_background(carried);
        let (sender, mut feedback) = feedback::channel();
        let greeting = Greeting {
            agent: self.agent.clone(),
            boot: self.boot.clone(),
            version: String::new(),
            host: String::new(),
            address: String::new(),
            clock: Default::default(),
        };
        self.board.hello_seq();
        let mut generation = self.board.changed_since(0).generation;
        let mut outbox = Outbox::new(self.clock.now(), HEARTBEAT, self.board.entries().into_keys());
        if pipe.send(Command::Hello(stream, greeting, sender)).await.is_err() {
            return;
        }
        loop {
            outbox.acked(feedback.applied.get());
            let changed = self.board.changed_since(generation);
            generation = changed.generation;
            outbox.mark(changed.handles);
            while let Some(next) = outbox.next(self.clock.now()) {
                let (seq, request) = self.board.compose(&next);
                outbox.sent(self.clock.now(), seq);
                let content = request.message.expect("a message");
                let message =
                    convert::message_from_wire(content, &self.agent).expect("what an agent sends is valid");
                let command = Command::Message(stream, seq, message);
                if pipe.send(command).await.is_err() {
                    return;
                }
            }
            // Looked at often instead of waited for: several streams woken at once would run in a random order.
            tokio::select! {
                biased;
                () = self.link.is(false) => return,
                _ = &mut feedback.end => return,
                () = self.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
        }
    }
}

/// Carries a stream's messages in order. Where the link is cut they are lost, unless they linger: then they arrive
/// later, beside those of the next stream.
async fn carry(
    mut pipe: mpsc::Receiver<Command>,
    commands: mpsc::Sender<Command>,
    link: Arc<Flag>,
    mut rng: fastrand::Rng,
    lingers: bool,
) {
    let mut stream = None;
    while let Some(command) = pipe.recv().await {
        if let Command::Hello(number, ..) = &command {
            stream = Some(*number);
        }
        tokio::time::sleep(Duration::from_micros(rng.u64(50..5_000))).await;
        if !link.get() {
            if !lingers {
                break;
            }
            link.is(true).await;
            tokio::time::sleep(Duration::from_millis(rng.u64(1..500))).await;
        }
        if commands.send(command).await.is_err() {
            return;
        }
    }
    // The collector sees the end of the stream at once, or, where the path is dead, when nothing came for long.
    let end = Instant::now() + super::collector::SILENT_AFTER * 2;
    drop(tokio::time::timeout_at(end, link.is(true)).await);
    if let Some(stream) = stream {
        drop(commands.send(Command::Bye(stream)).await);
    }
}

/// All collectors, shared between the world and the agents.
pub type Shared = Arc<Mutex<Vec<super::collector::Collector>>>;
