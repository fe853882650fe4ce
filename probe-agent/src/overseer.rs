//! Owns the workers. One that panicked, ended, or completed no round for its limit is replaced and counted;
//! the others never notice.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    agent::{prober::Prober, watchdog},
    ids::Handle,
    time::Mono,
};
use redkeeper_runtime::supervise::{Supervisor, Task};
use tokio::time::MissedTickBehavior;

use crate::{board::Board, worker::Worker};

/// Kind of the workers' tasks.
pub const WORKER: &str = "probe-worker";

struct Post {
    worker: Worker,
    task: Task,
    /// When the present worker took over.
    since: Mono,
    limit: Duration,
}

/// The workers of all instances.
pub struct Overseer {
    posts: Vec<Post>,
    supervisor: Supervisor,
    board: Arc<Board>,
}

impl Overseer {
    /// Starts a worker for each instance.
    pub fn start(supervisor: Supervisor, board: Arc<Board>, workers: Vec<Worker>) -> Self {
        supervisor.expect(WORKER, workers.len());
        let posts = workers.into_iter().map(|worker| {
            let (now, wall) = (worker.clock.now(), worker.clock.wall());
            let prober = Prober::new(now, wall, worker.config.probe.clone());
            let limit =
                watchdog::progress_limit(worker.config.probe.interval, worker.config.probe.connect_timeout);
            Post {
                task: spawn(&supervisor, &worker, prober),
                worker,
                since: now,
                limit,
            }
        });
        Self {
            posts: posts.collect(),
            supervisor,
            board,
        }
    }

    /// Watches until asked to stop.
    pub async fn run(mut self) {
        let Some(first) = self.posts.first() else {
            self.supervisor.stop().clone().cancelled().await;
            return;
        };
        let clock = first.worker.clock;
        let period = self
            .posts
            .iter()
            .map(|post| post.worker.config.probe.interval)
            .min()
            .unwrap_or_default()
            / 2;
        let period = period.clamp(Duration::from_millis(20), Duration::from_secs(1));
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = self.supervisor.stop().clone();
        let (mut looked, mut paused) = (clock.now(), None);
        loop {
            tokio::select! { biased; () = stop.cancelled() => return, _ = ticks.tick() => () }
            let now = clock.now();
            if now.since(looked) > period * 3 {
                paused = Some(now);
            }
            looked = now;
            for post in &mut self.posts {
                let last = post.worker.progress.last().unwrap_or_default().max(post.since);
                let why = if post.task.is_finished() {
                    "ended"
                } else if watchdog::is_stalled(now, last, paused, post.limit) {
                    "made no progress"
                } else {
                    continue;
                };
                replace(&self.supervisor, &self.board, post, now, why);
            }
        }
    }
}

fn replace(supervisor: &Supervisor, board: &Board, post: &mut Post, now: Mono, why: &'static str) {
    let id = &post.worker.config.identity.id;
    tracing::error!(instance = %id, "worker {why}; replacing it");
    post.worker.metrics.replaced.get_or_create(&[("why", why)]).inc();
    post.task.abort();
    let verdict = board
        .entries()
        .remove(&post.worker.handle)
        .map(|entry| entry.verdict);
    let config = post.worker.config.probe.clone();
    let prober = match verdict {
        Some(verdict) => Prober::resume(now, config, verdict),
        None => Prober::new(now, post.worker.clock.wall(), config),
    };
    post.task = spawn(supervisor, &post.worker, prober);
    post.since = now;
}

fn spawn(supervisor: &Supervisor, worker: &Worker, prober: Prober) -> Task {
    let name = worker.config.identity.id.to_string();
    supervisor.spawn(WORKER, name, worker.clone().run(prober))
}

/// Lines for `/debug/tasks`: each instance's last progress.
pub fn progress_page(board: &Board, now: Mono) -> String {
    let mut text =
        String::from("\nINSTANCE                                 STATE     REASON              LAST ROUND\n");
    for (Handle(_), entry) in board.entries() {
        let last = entry.progress.last().map_or("never".to_owned(), |at| {
            format!("{:.3} s ago", now.since(at).as_secs_f64())
        });
        let (id, verdict) = (&entry.identity.id, &entry.verdict);
        text.push_str(&format!(
            "{id:<41}{:<10}{:<20}{last}\n",
            verdict.state(),
            verdict.reason
        ));
    }
    text
}
