//! P2: SIGKILL of a large Redis until its znode says DOWN, beside the end of an open connection, in the same death.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use redkeeper_tests::{Sandbox, ports, servers::status_path};

use crate::{
    machine::{available, resident},
    plot,
    report::Outcome,
    rig::{answers, runtime, says, told, watched},
    stats::Samples,
};

/// How it is filled: so many values of so many bytes, about 4.6 GB. Fewer and larger ones are there sooner; it is the
/// pages that the kernel has to free, not the values.
const SMALL: (u64, u64) = (4_100_000, 900);
const LARGE: (u64, u64) = (275_000, 16_000);
/// What it takes then, and may take for a moment while the next one is filled.
const NEEDED: f64 = 6e9;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    // The first death warms the chain up. INFO tells the agent how large it is.
    let (rounds, values, info_interval) = if quick { (6, LARGE, 1) } else { (8, SMALL, 10) };
    let mut outcome = Outcome::default();
    if available() < NEEDED {
        let needed = NEEDED / 1e9;
        let note = format!("not measured: {needed:.1} GB of memory are needed and not there");
        outcome.notes.push(note);
        return Ok(outcome);
    }
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.durable_zookeeper().await;
    let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
    let collector = sandbox.collector_with("a", &store).await;
    // Each dies once: writes of one that comes and goes are limited. They are filled one after the other.
    let ports: Vec<_> = (0..rounds).map(|_| ports::port()).collect();
    let mut text = format!("[probe]\ninfo_interval = '{info_interval}s'\n");
    for port in &ports {
        text.push_str(&format!("[[instances]]\naddress = '127.0.0.1:{}'\n", port.number));
    }
    let collectors = [format!("'127.0.0.1:{}'", collector.grpc.number)];
    let _agent = sandbox.agent_with("db01", &collectors, &text).await;
    let client = zookeeper.client().await;
    let (mut down, mut eof, mut memory) = (Samples::default(), Samples::default(), Samples::default());
    for (n, port) in ports.into_iter().enumerate() {
        let path = status_path(&format!("db01:{}", port.number));
        let redis = sandbox.server_at(port, &["--enable-debug-command", "yes"]);
        answers(&redis).await;
        let port = redis.port.number;
        // Beside this thread, on which the ZooKeeper session is kept.
        let filled = tokio::task::spawn_blocking(move || populate(port, values)).await;
        filled.map_err(|e| e.to_string())??;
        let bytes = resident(redis.process.pid())?;
        let mut connection = open(port).map_err(|e| format!("a connection: {e}"))?;
        // The next INFO tells how large it is; and at any phase of the probe.
        tokio::time::sleep(Duration::from_secs(info_interval)).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(1_000_000..1_200_000))).await;
        let watcher = watched(&client, &path, says("UP")).await?;
        let start = Instant::now();
        redis.process.signal(nix::sys::signal::Signal::SIGKILL);
        let end = tokio::task::spawn_blocking(move || {
            // Nothing was asked, so whatever comes is the end.
            connection.read_exact(&mut [0]).ok();
            Instant::now()
        });
        let told = told(watcher).await?;
        let ended = end.await.map_err(|e| e.to_string())?;
        let (data, _) = client.get_data(&path).await.map_err(|e| e.to_string())?;
        if !says("DOWN")(&String::from_utf8_lossy(&data)) {
            return Err(format!("the znode says {}", String::from_utf8_lossy(&data)));
        }
        if n > 0 {
            down.push_ms(told - start);
            eof.push_ms(ended - start);
            memory.push(bytes / 1e9);
        }
    }
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
    Ok(outcome)
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
        stream.write_all(format!("DEBUG POPULATE {keys} k {bytes}\r\n").as_bytes())?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match fill() {
        Ok(answer) if answer == "+OK\r\n" => Ok(()),
        Ok(answer) => Err(format!("DEBUG POPULATE answered {answer:?}")),
        Err(e) => Err(format!("DEBUG POPULATE: {e}")),
    }
}
