//! P2: SIGKILL of a large Redis until its znode says DOWN, beside the end of an open connection, in the same death.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use redkeeper_tests::{
    Sandbox, ports,
    servers::{Redis, status_path},
};

use crate::{
    machine::{available, resident},
    plot,
    report::Outcome,
    rig::{answers, runtime, says, told, watched},
    stats::Samples,
};

/// How it is filled: so many values of so many bytes, more than 4 GB. Fewer and larger ones are there sooner; it is the
/// pages that the kernel has to free, not the values.
const SMALL: (u64, u64) = (4_100_000, 900);
const LARGE: (u64, u64) = (205_000, 16_000);
/// In so many parts, so that the server answers in between: it must not be taken for a hung one.
const PARTS: u64 = 20;
/// What one takes then, at most.
const BYTES_EACH: f64 = 5.5e9;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Times of some deaths.
#[derive(Default)]
struct Deaths {
    down: Samples,
    eof: Samples,
    memory: Samples,
}

/// Servers of one size that die, each once: writes of one that comes and goes are limited.
struct Plan {
    deaths: usize,
    /// So many are filled at once; then one after the other is killed.
    at_once: usize,
    /// See [`SMALL`].
    values: (u64, u64),
}

/// Where they die.
struct Rig<'a> {
    sandbox: &'a Sandbox,
    client: zookeeper_client::Client,
    collector: String,
    info_interval: u64,
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    let (deaths, at_once, values, info_interval) = if quick {
        (6, 2, LARGE, 1)
    } else {
        (8, 1, SMALL, 10)
    };
    let mut outcome = Outcome::default();
    let needed = BYTES_EACH * at_once as f64;
    if available() < needed {
        let needed = needed / 1e9;
        let note = format!("not measured: {needed:.1} GB of memory are needed and not there");
        outcome.notes.push(note);
        return Ok(outcome);
    }
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.durable_zookeeper().await;
    let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
    let collector = sandbox.collector_with("a", &store).await;
    let rig = Rig {
        sandbox: &sandbox,
        client: zookeeper.client().await,
        collector: format!("'127.0.0.1:{}'", collector.grpc.number),
        info_interval,
    };
    let plan = Plan {
        deaths,
        at_once,
        values,
    };
    let Deaths { down, eof, memory } = rig.run("large", &plan).await?;
    outcome.sample("redkeeper: a watcher is told DOWN", "ms", &down);
    outcome.sample("EOF on an open connection, same death", "ms", &eof);
    outcome.sample("memory of the Redis", "GB", &memory);
    outcome.ratio_of("to_eof", &down, &eof);
    let (count, size) = values;
    outcome.notes.push(format!(
        "{count} values of {size} bytes; probe settings are the defaults, but for info_interval = {info_interval} s"
    ));
    let sets = [("redkeeper", &down), ("EOF", &eof)];
    let plot = plot::distributions("detect-large.svg", "SIGKILL of a large Redis", "ms", &sets);
    outcome.plots.extend(plot);
    if quick {
        outcome.growth_is_left_out();
    } else {
        let largest = [&memory, &down, &eof].map(|samples| samples.median().unwrap_or_default());
        outcome.plots.extend(rig.growth(largest).await?);
    }
    Ok(outcome)
}

impl Rig<'_> {
    /// Kills servers of one size, which an agent of this name watches. The first death warms the chain up.
    async fn run(&self, agent: &str, plan: &Plan) -> Result<Deaths, String> {
        let ports: Vec<_> = (0..plan.deaths).map(|_| ports::port()).collect();
        let mut text = format!("[probe]\ninfo_interval = '{}s'\n", self.info_interval);
        for port in &ports {
            text.push_str(&format!("[[instances]]\naddress = '127.0.0.1:{}'\n", port.number));
        }
        let collectors = [self.collector.clone()];
        let _agent = self.sandbox.agent_with(agent, &collectors, &text).await;
        let (mut ports, mut deaths, mut all) = (ports.into_iter().peekable(), 0, Deaths::default());
        while ports.peek().is_some() {
            let mut servers = Vec::new();
            for port in ports.by_ref().take(plan.at_once) {
                let redis = self.sandbox.server_at(port, &["--enable-debug-command", "yes"]);
                answers(&redis).await;
                servers.push(redis);
            }
            // Beside this thread, on which the ZooKeeper session is kept.
            let fills = servers.iter().map(|redis| {
                let (port, values) = (redis.port.number, plan.values);
                tokio::task::spawn_blocking(move || populate(port, values))
            });
            for filled in fills.collect::<Vec<_>>() {
                filled.await.map_err(|e| e.to_string())??;
            }
            // The next INFO tells how large they are.
            tokio::time::sleep(Duration::from_secs(self.info_interval + 1)).await;
            for redis in servers {
                let [down, eof, bytes] = self.death(agent, redis).await?;
                deaths += 1;
                if deaths > 1 {
                    all.down.push(down);
                    all.eof.push(eof);
                    all.memory.push(bytes / 1e9);
                }
            }
        }
        Ok(all)
    }

    /// Kills it. Milliseconds until a watcher is told, and until an open connection ends; and how large it was.
    async fn death(&self, agent: &str, redis: Redis) -> Result<[f64; 3], String> {
        let path = status_path(&format!("{agent}:{}", redis.port.number));
        let bytes = resident(redis.process.pid())?;
        let mut connection = open(redis.port.number).map_err(|e| format!("a connection: {e}"))?;
        // At any phase of the probe.
        tokio::time::sleep(Duration::from_micros(fastrand::u64(200_000..700_000))).await;
        let watcher = watched(&self.client, &path, says("UP")).await?;
        let start = Instant::now();
        redis.process.signal(nix::sys::signal::Signal::SIGKILL);
        let end = tokio::task::spawn_blocking(move || {
            // Nothing was asked, so whatever comes is the end.
            connection.read_exact(&mut [0]).ok();
            Instant::now()
        });
        let told = told(watcher).await?;
        let ended = end.await.map_err(|e| e.to_string())?;
        let (data, _) = self.client.get_data(&path).await.map_err(|e| e.to_string())?;
        if !says("DOWN")(&String::from_utf8_lossy(&data)) {
            return Err(format!("the znode says {}", String::from_utf8_lossy(&data)));
        }
        let ms = |end: Instant| (end - start).as_secs_f64() * 1e3;
        Ok([ms(told), ms(ended), bytes])
    }

    /// The same with smaller ones.
    async fn growth(&self, [memory, down, eof]: [f64; 3]) -> Result<Option<String>, String> {
        let mut lines = ["redkeeper", "EOF"].map(|name| (name.to_owned(), Vec::new()));
        for share in [64, 16, 4, 2] {
            let plan = Plan {
                deaths: 5,
                at_once: 1,
                values: (SMALL.0 / share, SMALL.1),
            };
            let some = self.run(&format!("large-{share}"), &plan).await?;
            let of = |samples: &Samples| samples.median().unwrap_or_default();
            lines[0].1.push((of(&some.memory), of(&some.down)));
            lines[1].1.push((of(&some.memory), of(&some.eof)));
        }
        lines[0].1.push((memory, down));
        lines[1].1.push((memory, eof));
        let axes = ("GB of the Redis", "ms from SIGKILL");
        let title = "SIGKILL of a Redis of more and more memory";
        Ok(plot::growth("detect-large-growth.svg", title, axes, &lines))
    }
}

fn open(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"PING\r\n")?;
    stream.read_exact(&mut [0; 7])?;
    Ok(stream)
}

/// Fills it; that takes seconds.
fn populate(port: u16, (keys, bytes): (u64, u64)) -> Result<(), String> {
    let fill = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut answers = String::new();
        for part in 0..PARTS {
            let command = format!("DEBUG POPULATE {} k{part} {bytes}\r\n", keys / PARTS);
            stream.write_all(command.as_bytes())?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            answers.push_str(&String::from_utf8_lossy(&answer));
        }
        Ok(answers)
    };
    match fill() {
        Ok(answers) if answers == "+OK\r\n".repeat(PARTS as usize) => Ok(()),
        Ok(answer) => Err(format!("DEBUG POPULATE answered {answer:?}")),
        Err(e) => Err(format!("DEBUG POPULATE: {e}")),
    }
}
