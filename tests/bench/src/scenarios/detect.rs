//! P1: SIGKILL of a small Redis until a watcher of its znode is told, beside the bare chain and Sentinel.

use std::time::{Duration, Instant};

use redkeeper_tests::{
    Sandbox, ports,
    servers::{Redis, ZooKeeper, status_path},
};

use crate::{
    floors, plot,
    report::Outcome,
    rig::{Sentinel, address, listens, pool, runtime, says, told, watched},
    scenarios::fault_growth::{self, Fault},
    stats::Samples,
};

/// Servers that each chain takes turns with: none dies often enough to be taken for a flapping one, whose writes
/// are limited until it was quiet for 10 s.
const POOL: usize = 120;
/// The same for Sentinel, which has no such limit.
const PEERS: usize = 4;

pub(super) fn run(quick: bool) -> Result<Outcome, String> {
    runtime()?.block_on(measure(quick))
}

/// Kills the server and says how long its watcher took to be told.
async fn killed(
    sandbox: &Sandbox,
    client: &zookeeper_client::Client,
    redis: &mut Redis,
    path: &str,
    up: impl Fn(&str) -> bool,
    down: impl Fn(&str) -> bool,
) -> Result<Duration, String> {
    let watcher = watched(client, path, up).await?;
    tokio::time::sleep(Duration::from_micros(fastrand::u64(5_000..15_000))).await;
    let start = Instant::now();
    redis.process.signal(nix::sys::signal::Signal::SIGKILL);
    let told = told(watcher).await?;
    let (data, _) = client.get_data(path).await.map_err(|e| e.to_string())?;
    let text = String::from_utf8_lossy(&data).into_owned();
    if !down(&text) {
        return Err(format!("{path} says {text}"));
    }
    sandbox.restart(redis).await;
    Ok(told - start)
}

/// How large the status of this instance is in ZooKeeper, once it is UP.
async fn status_bytes(client: &zookeeper_client::Client, redis: &Redis) -> Result<usize, String> {
    let path = status_path(&format!("db01:{}", redis.port.number));
    drop(watched(client, &path, says("UP")).await?);
    let (data, _) = client.get_data(&path).await.map_err(|e| format!("{path}: {e}"))?;
    Ok(data.len())
}

/// Writes as many bytes as a status has.
async fn floor(
    sandbox: &Sandbox,
    zookeeper: &ZooKeeper,
    servers: &[Redis],
    bytes: usize,
) -> Result<impl Sized + use<>, String> {
    let client = zookeeper.client().await;
    let options = zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    for path in ["/floor".to_owned()]
        .into_iter()
        .chain((0..POOL).map(|n| format!("/floor/{n}")))
    {
        client
            .create(&path, b"", &options)
            .await
            .map_err(|e| format!("{path}: {e}"))?;
    }
    let port = ports::port();
    let listen = format!("127.0.0.1:{}", port.number);
    let store = format!("127.0.0.1:{}", zookeeper.port.number);
    let collector = floors::start(sandbox, "collector", &[listen.clone(), store, bytes.to_string()]);
    listens(port.number).await;
    let addresses = servers
        .iter()
        .map(|redis| format!("127.0.0.1:{}", redis.port.number));
    let words: Vec<_> = [listen].into_iter().chain(addresses).collect();
    let agent = floors::start(sandbox, "agent", &words);
    Ok((collector, agent, port))
}

async fn measure(quick: bool) -> Result<Outcome, String> {
    // A block is so many deaths of ours and of the floor's, in turns, and one of Sentinel's. The first one warms up.
    let (blocks, pairs) = if quick { (5, 20) } else { (20, 15) };
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.durable_zookeeper().await;
    let store = format!("[zookeeper]\nservers = '127.0.0.1:{}'\n", zookeeper.port.number);
    let collector = sandbox.collector_with("a", &store).await;
    let (mut ours, mut bare) = (pool(&sandbox, POOL).await, pool(&sandbox, POOL).await);
    let mut theirs = pool(&sandbox, PEERS).await;
    let mut text = String::new();
    for redis in &ours {
        text.push_str(&format!(
            "[[instances]]\naddress = '127.0.0.1:{}'\n",
            redis.port.number
        ));
    }
    let collectors = [format!("'127.0.0.1:{}'", collector.grpc.number)];
    let _agent = sandbox.agent_with("db01", &collectors, &text).await;
    let client = zookeeper.client().await;
    let bytes = status_bytes(&client, &ours[0]).await?;
    let _floor = floor(&sandbox, &zookeeper, &bare, bytes).await?;
    let watcher = Sentinel::start(&sandbox, &theirs.iter().map(address).collect::<Vec<_>>())?;
    let mut events = watcher.subscribe("+sdown")?;

    let (mut product, mut chain, mut sentinel) = (Samples::default(), Samples::default(), Samples::default());
    for block in 0..=blocks {
        for n in block * pairs..(block + 1) * pairs {
            let redis = &mut ours[n % POOL];
            let path = status_path(&format!("db01:{}", redis.port.number));
            let a = killed(&sandbox, &client, redis, &path, says("UP"), says("DOWN")).await?;
            let path = format!("/floor/{}", n % POOL);
            let starts = |word: &'static str| move |text: &str| text.starts_with(word);
            let redis = &mut bare[n % POOL];
            let b = killed(&sandbox, &client, redis, &path, starts("up"), starts("down")).await?;
            if block > 0 {
                product.push_ms(a);
                chain.push_ms(b);
            }
        }
        let redis = &mut theirs[block % PEERS];
        // It asks once a second, and must have heard from this one lately.
        tokio::time::sleep(Duration::from_millis(1_200 + fastrand::u64(0..500))).await;
        let start = Instant::now();
        redis.process.signal(nix::sys::signal::Signal::SIGKILL);
        // Beside this thread, on which the ZooKeeper session is kept.
        let seen = tokio::task::spawn_blocking(move || {
            let seen = events.until(&format!("master m{}", block % PEERS));
            (events, seen)
        });
        let (back, seen) = seen.await.map_err(|e| e.to_string())?;
        events = back;
        if block > 0 {
            sentinel.push_ms(seen? - start);
        }
        sandbox.restart(redis).await;
    }
    let mut outcome = Outcome::default();
    outcome.sample("redkeeper", "ms", &product);
    outcome.sample("floor: EOF, one gRPC hop, set_data, watch", "ms", &chain);
    outcome.sample("Sentinel, down-after 1000", "ms", &sentinel);
    let over = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    outcome.ratio("to_floor_p50", over(product.median(), chain.median()));
    outcome.ratio("to_floor_p99", over(product.p99(), chain.p99()));
    outcome.ratio(
        "times_faster_than_sentinel",
        over(sentinel.median(), product.median()),
    );
    let sets = [
        ("redkeeper", &product),
        ("floor", &chain),
        ("Sentinel", &sentinel),
    ];
    let plot = plot::distributions("detect.svg", "SIGKILL until a watcher is told", "ms", &sets);
    outcome.plots.extend(plot);
    outcome.notes.push("one ZooKeeper with fsync; probe settings are the defaults; a watcher is told by its own ZooKeeper session".to_owned());
    if quick {
        outcome.growth_is_left_out();
    } else {
        drop((ours, bare, theirs, watcher));
        let rig = (&zookeeper, collectors[0].trim_matches('\''));
        fault_growth::growth(&sandbox, rig, Fault::Kill, "detect-growth.svg", &mut outcome).await?;
    }
    Ok(outcome)
}
