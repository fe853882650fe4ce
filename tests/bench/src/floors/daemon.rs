//! What redkeeper replaces: a daemon that writes each status into ZooKeeper again and again, changed or not.

use std::time::Duration;

use zookeeper_client::{Acls, Client, CreateMode};

/// Each status is written once in this time.
const EVERY: Duration = Duration::from_secs(10);
/// It does a share of its writes so often.
const TICK: Duration = Duration::from_millis(100);

/// Creates `/daemon/N` for each status, says so, and writes them for ever.
pub(super) async fn run(zookeeper: &str, statuses: &str, bytes: &str) -> Result<(), String> {
    let read = |text: &str| text.parse::<usize>().map_err(|e| format!("{text:?}: {e}"));
    let (statuses, bytes) = (read(statuses)?, read(bytes)?);
    let client = Client::connect(zookeeper)
        .await
        .map_err(|e| format!("{zookeeper}: {e}"))?;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let data = format!("{:<bytes$}", "up").into_bytes();
    let create = async |path: &str| {
        let made = client.create(path, &data, &options).await;
        made.map(drop).map_err(|e| format!("{path}: {e}"))
    };
    create("/daemon").await?;
    for n in 0..statuses {
        create(&format!("/daemon/{n}")).await?;
    }
    println!("ready");
    let turn = u128::max(EVERY.as_millis() / TICK.as_millis(), 1) as usize;
    let mut ticks = tokio::time::interval(TICK);
    let mut written = 0;
    for tick in 1.. {
        ticks.tick().await;
        // One status in a turn where there is only one.
        while written < tick * statuses / turn {
            let path = format!("/daemon/{}", written % statuses);
            let set = client.set_data(&path, &data, None).await;
            set.map_err(|e| format!("{path}: {e}"))?;
            written += 1;
        }
    }
    Ok(())
}
