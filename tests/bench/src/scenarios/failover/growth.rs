//! A clean stop of the leader of more and more instances: until the next one has claimed, and until it has read and
//! compared everything that is published.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use redkeeper_tests::{daemons::Collector, eventually};

use super::Rig;
use crate::{
    fleet::{Speaker, drain},
    plot,
    report::Outcome,
    stats::Samples,
};

/// So many are added each time.
const COUNTS: [u32; 6] = [1, 10, 100, 1_000, 10_000, 100_000];
/// Instances of one agent at most.
const EACH: u32 = 500;
/// Stops for each count; the first one warms up.
const STOPS: usize = 4;

/// Streams of the newest part of the fleet to one collector. None of them beats: `silent_after` is long here.
async fn streams(collector: &Collector, count: u32) -> Result<Vec<Speaker>, String> {
    let address = format!("127.0.0.1:{}", collector.grpc.number);
    let mut all = Vec::new();
    for n in 0..count.div_ceil(EACH) {
        let own = EACH.min(count - n * EACH);
        let mut speaker = Speaker::connect(&address, format!("agent-{count}-{n}"), own).await?;
        drain(&mut speaker);
        all.push(speaker);
    }
    let known = || async { collector.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all are known", known, |n| *n >= Some(f64::from(count))).await;
    Ok(all)
}

pub(super) async fn growth(rig: &mut Rig<'_>, outcome: &mut Outcome) -> Result<(), String> {
    let mut lines = ["until the claim", "until all is compared"].map(|name| (name.to_owned(), Vec::new()));
    let mut all = 0.0;
    for count in COUNTS {
        all += f64::from(count);
        let mut fleet = BTreeMap::new();
        for collector in &rig.collectors {
            fleet.insert(collector.id.clone(), streams(collector, count).await?);
        }
        let (mut claimed, mut compared) = (Samples::default(), Samples::default());
        for stop in 0..STOPS {
            let old = rig.leader().await?;
            let pending = || async { rig.collectors[old].metric("redkeeper_zookeeper_pending_writes") };
            eventually("all are published", pending, |n| *n == Some(0.0)).await;
            let (claim, live) = taken_over(rig, old).await?;
            if stop > 0 {
                claimed.push_ms(claim);
                compared.push_ms(live);
            }
            rig.restart(old).await;
            let collector = &rig.collectors[old];
            fleet.insert(collector.id.clone(), streams(collector, count).await?);
            let leader = rig.leader().await?;
            let up = rig.collectors[leader].metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}");
            if up != Some(all) {
                return Err(format!("{up:?} of {all} instances are UP"));
            }
        }
        for (line, samples) in lines.iter_mut().zip([claimed, compared]) {
            line.1.push((all, samples.median().unwrap_or_default()));
        }
    }
    let axes = ("instances", "ms from SIGTERM");
    let title = "Until the next leader has claimed, and compared";
    outcome
        .plots
        .extend(plot::growth("failover-growth.svg", title, axes, &lines));
    Ok(())
}

/// Stops the leader, and says when the next one had claimed and when it was live.
async fn taken_over(rig: &mut Rig<'_>, old: usize) -> Result<(Duration, Duration), String> {
    let (_, _, watcher) = rig
        .client
        .get_and_watch_data("/redkeeper/epoch")
        .await
        .map_err(|e| e.to_string())?;
    let start = Instant::now();
    rig.collectors[old].process.signal(Signal::SIGTERM);
    let limit = Duration::from_secs(30);
    tokio::time::timeout(limit, watcher.changed())
        .await
        .map_err(|_| "nobody took over".to_owned())?;
    let claim = start.elapsed();
    // The former leader said so too, and its node may still be there.
    let former = &rig.collectors[old].id;
    while start.elapsed() < limit {
        let publisher = rig.zookeeper.json(&rig.client, "/redkeeper/publisher").await;
        if publisher.is_some_and(|json| json["phase"] == "live" && json["holder"] != former.as_str()) {
            return Ok((claim, start.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Err(format!("no live leader within {limit:?}"))
}
