//! P3: SIGSTOP until the znode says REPLY_TIMEOUT, counted from the last valid reply, which a relay between agent
//! and server sees; beside Sentinel.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{Sandbox, ports, servers::status_path};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    plot,
    report::Outcome,
    rig::{Sentinel, address, runtime, says, told, watched},
    scenarios::fault_growth::{self, Fault},
    stats::Samples,
};

const HANG_AFTER: f64 = 1.0;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

type Last = Arc<Mutex<Instant>>;

/// Passes bytes on, and notes when the server said something last.
#[allow(clippy::disallowed_methods)] // It ends with the scenario.
async fn relay(listener: TcpListener, server: u16, last: Last) {
    while let Ok((client, _)) = listener.accept().await {
        let last = Arc::clone(&last);
        tokio::spawn(async move {
            let server = TcpStream::connect(("127.0.0.1", server)).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let asks = async move { tokio::io::copy(&mut from_client, &mut to_server).await };
            let answers = async move {
                let mut bytes = vec![0; 65_536];
                loop {
                    let n = from_server.read(&mut bytes).await?;
                    if n == 0 {
                        return std::io::Result::Ok(());
                    }
                    *last.lock().unwrap_or_else(|e| e.into_inner()) = Instant::now();
                    to_client.write_all(&bytes[..n]).await?;
                }
            };
            tokio::select! { _ = asks => Ok(()), ended = answers => ended }
        });
    }
}

#[allow(clippy::disallowed_methods)] // As above.
async fn measure(quick: bool) -> Result<Outcome, String> {
    let (rounds, warm_up) = if quick { (6, 1) } else { (30, 2) };
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.durable_zookeeper().await;
    let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
    let collector = sandbox.collector_with("a", &store).await;
    let (ours, theirs) = (sandbox.redis().await, sandbox.redis().await);
    let front = ports::port();
    let listener = TcpListener::bind(("127.0.0.1", front.number))
        .await
        .map_err(|e| e.to_string())?;
    let last = Arc::new(Mutex::new(Instant::now()));
    let relaying = tokio::spawn(relay(listener, ours.port.number, Arc::clone(&last)));
    let text = format!(
        "[probe]\nhang_after = '1s'\n[[instances]]\naddress = '127.0.0.1:{}'\n",
        front.number
    );
    let collectors = [format!("'127.0.0.1:{}'", collector.grpc.number)];
    let _agent = sandbox.agent_with("db01", &collectors, &text).await;
    let sentinel = Sentinel::start(&sandbox, &[address(&theirs)])?;
    let mut events = sentinel.subscribe("+sdown")?;
    let client = zookeeper.client().await;
    let path = status_path(&format!("db01:{}", front.number));
    let (mut from_reply, mut from_stop, mut peer) =
        (Samples::default(), Samples::default(), Samples::default());
    for n in 0..warm_up + rounds {
        let watcher = watched(&client, &path, says("UP")).await?;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(600_000..1_100_000))).await;
        let start = Instant::now();
        ours.process.signal(Signal::SIGSTOP);
        let told = told(watcher).await?;
        let (data, _) = client.get_data(&path).await.map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&data);
        if !text.contains("REPLY_TIMEOUT") {
            return Err(format!("the znode says {text}"));
        }
        let reply = *last.lock().unwrap_or_else(|e| e.into_inner());
        ours.process.signal(Signal::SIGCONT);
        tokio::time::sleep(Duration::from_micros(fastrand::u64(600_000..1_100_000))).await;
        let stopped = Instant::now();
        theirs.process.signal(Signal::SIGSTOP);
        // It blocks this thread, with nothing else to do for the relay but a few PINGs.
        let seen = tokio::task::spawn_blocking(move || {
            let seen = events.until("master m0");
            (events, seen)
        });
        let (back, seen) = seen.await.map_err(|e| e.to_string())?;
        events = back;
        theirs.process.signal(Signal::SIGCONT);
        if n >= warm_up {
            from_reply.push((told - reply).as_secs_f64());
            from_stop.push((told - start).as_secs_f64());
            peer.push((seen? - stopped).as_secs_f64());
        }
    }
    relaying.abort();
    let mut outcome = Outcome::default();
    outcome.sample("redkeeper, from the last valid reply", "s", &from_reply);
    outcome.sample("redkeeper, from SIGSTOP", "s", &from_stop);
    outcome.sample("Sentinel, from SIGSTOP", "s", &peer);
    let (early, late) = (from_reply.min(), from_reply.max());
    // The one that is farthest from the promise counts.
    let worst = early
        .zip(late)
        .map(|(early, late)| if early < HANG_AFTER { early } else { late });
    outcome.value("seconds_over_hang_after", worst.map(|worst| worst - HANG_AFTER));
    outcome.ratio(
        "times_faster_than_sentinel",
        peer.median().zip(from_stop.median()).map(|(a, b)| a / b),
    );
    let sets = [("redkeeper", &from_stop), ("Sentinel", &peer)];
    outcome.plots.extend(plot::distributions(
        "hang.svg",
        "SIGSTOP until it is told",
        "s",
        &sets,
    ));
    if quick {
        outcome.growth_is_left_out();
    } else {
        drop((ours, theirs, sentinel));
        let rig = (&zookeeper, collectors[0].trim_matches('\''));
        fault_growth::growth(&sandbox, rig, Fault::Stop, "hang-growth.svg", &mut outcome).await?;
    }
    Ok(outcome)
}
