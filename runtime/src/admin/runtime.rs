//! `/debug/runtime`: how busy the main runtime is, and which tasks hold it up.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::runtime::Handle;

use super::page::{Content, short};
use crate::supervise::Supervisor;

/// Tasks that are listed: those with the longest polls.
const LISTED_MAX: usize = 10;

/// Busy time and number of parks of each worker thread, at one time.
#[derive(Clone)]
struct Sample {
    at: Instant,
    workers: Vec<(Duration, u64)>,
}

/// The last two samples, so that the share is that of the last seconds and not since the start.
pub(super) struct Busy(Mutex<[Sample; 2]>);

impl Busy {
    pub(super) fn new(main: &Handle) -> Self {
        let first = sample(main);
        Self(Mutex::new([first.clone(), first]))
    }

    /// Takes a sample. To be called each few seconds.
    pub(super) fn sample(&self, main: &Handle) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.rotate_left(1);
        samples[1] = sample(main);
    }

    fn before(&self) -> Sample {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)[0].clone()
    }
}

fn sample(main: &Handle) -> Sample {
    let metrics = main.metrics();
    let one = |n| {
        (
            metrics.worker_total_busy_duration(n),
            metrics.worker_park_count(n),
        )
    };
    Sample {
        at: Instant::now(),
        workers: (0..metrics.num_workers()).map(one).collect(),
    }
}

/// The page. `pulse_age` is the time since the main runtime last ran the pulse.
pub(super) fn page(main: &Handle, busy: &Busy, supervisor: &Supervisor, pulse_age: Duration) -> Content {
    let (before, now, metrics) = (busy.before(), sample(main), main.metrics());
    let span = now.at.duration_since(before.at).max(Duration::from_millis(1));
    let workers: Vec<_> = now
        .workers
        .iter()
        .zip(&before.workers)
        .map(|(now, before)| {
            let share = now.0.saturating_sub(before.0).as_secs_f64() / span.as_secs_f64();
            let parks = (now.1.saturating_sub(before.1)) as f64 / span.as_secs_f64();
            (share.min(1.0), parks)
        })
        .collect();
    let mut tasks = supervisor.live();
    tasks.sort_by_key(|task| std::cmp::Reverse(task.longest_poll()));
    tasks.truncate(LISTED_MAX);

    let (alive, queued) = (metrics.num_alive_tasks(), metrics.global_queue_depth());
    let mut text = format!(
        "{} worker threads, {alive} tasks alive, {queued} waiting in the common queue (those in the queues of the threads are not counted)\nlast pulse {} ago (one each second; a thread that is held up counts as idle below)\n\n\
         WORKER  BUSY, LAST {:<8} SLEPT, TIMES A SECOND\n",
        workers.len(),
        short(pulse_age),
        short(span)
    );
    for (n, (share, parks)) in workers.iter().enumerate() {
        text.push_str(&format!(
            "{n:<8}{:<20}{parks:.0}\n",
            format!("{:.1} %", share * 100.0)
        ));
    }
    text.push_str("\nLONGEST POLL OF THE LAST MINUTE\nTIME          TASK                NAME\n");
    for task in &tasks {
        let longest = short(task.longest_poll());
        text.push_str(&format!("{longest:<14}{:<20}{}\n", task.kind, task.name));
    }
    let json = json!({
        "workers": workers.iter().map(|(share, parks)| json!({
            "busy_share": share, "parks_per_second": parks,
        })).collect::<Vec<_>>(),
        "span_seconds": span.as_secs_f64(),
        "alive_tasks": alive,
        "global_queue_depth": queued,
        "pulse_age_seconds": pulse_age.as_secs_f64(),
        "longest_polls": tasks.iter().map(|task| json!({
            "kind": task.kind, "name": task.name, "seconds": task.longest_poll().as_secs_f64(),
        })).collect::<Vec<_>>(),
    });
    Content { text, json }
}
