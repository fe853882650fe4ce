//! How long a fault goes untold where an agent has more and more instances, beside a Sentinel that watches as many, in
//! the same faults.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    servers::{Redis, ZooKeeper, status_path},
};

use crate::{
    plot,
    report::Outcome,
    rig::{Sentinel, address, crowd, pool, says, told, watched},
    stats::Samples,
};

/// Instances of one agent, those that die included.
const COUNTS: [usize; 5] = [1, 10, 100, 1_000, 2_000];
/// Servers that fail, in turns. Where an agent has one instance only, there are as many agents.
const VICTIMS: usize = 6;
/// How often each fails: the writes of one that comes and goes more often are limited.
const FAULTS: usize = 2;

/// What happens to a server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Kill,
    Stop,
}

impl Fault {
    fn signal(self) -> Signal {
        match self {
            Self::Kill => Signal::SIGKILL,
            Self::Stop => Signal::SIGSTOP,
        }
    }

    /// Whether a status tells of it.
    fn told(self, status: &str) -> bool {
        match self {
            Self::Kill => says("DOWN")(status),
            Self::Stop => status.contains("REPLY_TIMEOUT"),
        }
    }

    async fn undo(self, sandbox: &Sandbox, victim: &mut Redis) {
        match self {
            Self::Kill => sandbox.restart(victim).await,
            Self::Stop => victim.process.signal(Signal::SIGCONT),
        }
    }
}

/// Draws it into `file`.
pub(super) async fn growth(
    sandbox: &Sandbox,
    (zookeeper, collector): (&ZooKeeper, &str),
    fault: Fault,
    file: &str,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let largest = COUNTS.into_iter().max().unwrap_or(1);
    let (_crowd, others) = crowd(sandbox, largest).await;
    let mut lines = ["redkeeper", "Sentinel, down-after 1000"].map(|name| (name.to_owned(), Vec::new()));
    for count in COUNTS {
        let mut victims = pool(sandbox, VICTIMS).await;
        let addresses: Vec<_> = victims.iter().map(address).collect();
        let named = |n: usize, address: &str| {
            format!("[[instances]]\naddress = '{address}'\nname = '{count}-instances-{n}'\n")
        };
        let own: Vec<_> = addresses.iter().enumerate().map(|(n, a)| named(n, a)).collect();
        let rest = &others[..count.saturating_sub(VICTIMS)];
        let all: String = rest
            .iter()
            .enumerate()
            .map(|(n, a)| named(VICTIMS + n, a))
            .collect();
        let texts = if count == 1 {
            own
        } else {
            vec![own.concat() + &all]
        };
        let collectors = [format!("'{collector}'")];
        let mut agents = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            let id = format!("agent-{count}-{n}");
            let text = format!("[probe]\nhang_after = '1s'\n{text}");
            agents.push(sandbox.agent_with(&id, &collectors, &text).await);
        }
        let watched_too: Vec<_> = addresses.into_iter().chain(rest.iter().cloned()).collect();
        let sentinel = Sentinel::start(sandbox, &watched_too)?;
        // Connections and the first rounds of both.
        tokio::time::sleep(Duration::from_secs(8)).await;
        sentinel.settled().await?;
        // A session that was not held up by the wait.
        let client = zookeeper.client().await;
        let (ours, theirs) = faults(sandbox, &client, &sentinel, &mut victims, (fault, count)).await?;
        let point = |samples: &Samples| (count as f64, samples.median().unwrap_or_default());
        lines[0].1.push(point(&ours));
        match theirs {
            // Sentinel watches all that die, so it never watches one only.
            Ok(theirs) if count > 1 => lines[1].1.push(point(&theirs)),
            Ok(_) => {}
            Err(why) => outcome.notes.push(format!(
                "growth: Sentinel with {count} instances is missing: {why}"
            )),
        }
    }
    let axes = ("instances of one agent", "ms until a watcher is told");
    let title = format!("{} until a watcher is told", fault.signal());
    outcome.plots.extend(plot::growth(file, &title, axes, &lines));
    Ok(())
}

/// Lets them fail in turns, and says when redkeeper's watcher and when Sentinel's subscriber were told, or why the latter
/// was not.
async fn faults(
    sandbox: &Sandbox,
    client: &zookeeper_client::Client,
    sentinel: &Sentinel,
    victims: &mut [Redis],
    (fault, count): (Fault, usize),
) -> Result<(Samples, Result<Samples, String>), String> {
    let mut events = Ok(sentinel.subscribe("+sdown")?);
    let (mut ours, mut theirs) = (Samples::default(), Samples::default());
    for round in 0..VICTIMS * FAULTS {
        let n = round % VICTIMS;
        let path = status_path(&format!("{count}-instances-{n}"));
        // Sentinel asks once a second, and must have heard from this one lately.
        tokio::time::sleep(Duration::from_millis(1_200 + fastrand::u64(0..500))).await;
        let watcher = watched(client, &path, says("UP")).await?;
        let start = Instant::now();
        victims[n].process.signal(fault.signal());
        let ended = told(watcher).await?;
        let (data, _) = client.get_data(&path).await.map_err(|e| e.to_string())?;
        if !fault.told(&String::from_utf8_lossy(&data)) {
            return Err(format!("{path} says {}", String::from_utf8_lossy(&data)));
        }
        // The first ones warm up.
        let counts = round >= 2;
        if counts {
            ours.push_ms(ended - start);
        }
        // Beside this thread, on which the ZooKeeper session is kept.
        let waiting = tokio::task::spawn_blocking(move || {
            let mut events = events?;
            let seen = events.until(&format!("master m{n} "))?;
            Ok::<_, String>((events, seen))
        });
        events = match waiting.await.map_err(|e| e.to_string())? {
            Ok((events, seen)) => {
                if counts {
                    theirs.push_ms(seen - start);
                }
                Ok(events)
            }
            Err(why) => Err(why),
        };
        fault.undo(sandbox, &mut victims[n]).await;
    }
    Ok((ours, events.map(|_| theirs)))
}
