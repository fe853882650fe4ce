//! A fleet of agents that do not exist, in this process: each reports to all collectors, connects again to one that comes
//! back, and changes what it says when it is told to.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Runtime, sync::mpsc, time::MissedTickBehavior};

use crate::fleet::{Speaker, drain};

/// Interval of heartbeats, and of attempts to connect.
const INTERVAL: Duration = Duration::from_secs(1);

/// The first `down` of an agent's instances are down.
struct Order {
    down: u32,
    /// Told once it is sent.
    done: mpsc::Sender<()>,
}

/// The agents. They end with this.
pub(crate) struct Agents {
    orders: Vec<mpsc::Sender<Order>>,
    /// Their own, because the scenario waits for answers over HTTP meanwhile. `None` once it ends.
    runtime: Option<Runtime>,
}

impl Drop for Agents {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Agents {
    /// Starts so many agents with so many instances each.
    pub(crate) fn start(collectors: &[String], agents: u32, instances: u32) -> Result<Self, String> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| format!("runtime of the agents: {e}"))?;
        let collectors: Arc<[String]> = collectors.into();
        let mut orders = Vec::new();
        for n in 0..agents {
            let (sender, receiver) = mpsc::channel(1);
            orders.push(sender);
            let agent = Agent {
                name: format!("agent-{n}"),
                instances,
                down: 0,
                sequence: Arc::default(),
                speakers: collectors.iter().map(|to| (to.clone(), None)).collect(),
            };
            let phase = INTERVAL * n / agents;
            // Ends with the runtime.
            drop(runtime.spawn(agent.run(phase, receiver)));
        }
        Ok(Self {
            orders,
            runtime: Some(runtime),
        })
    }

    /// Number of agents.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.orders.len()).unwrap_or(u32::MAX)
    }

    /// The first `down` instances of the first `agents` agents are down from now on, and the others of them up. Returns
    /// when all have said so.
    pub(crate) async fn set(&self, agents: usize, down: u32) {
        let (done, mut said) = mpsc::channel(1);
        for order in self.orders.iter().take(agents) {
            let done = done.clone();
            drop(order.send(Order { down, done }).await);
        }
        drop(done);
        // Ends when the last one has dropped its part.
        while said.recv().await.is_some() {}
    }
}

struct Agent {
    name: String,
    instances: u32,
    down: u32,
    sequence: Arc<std::sync::atomic::AtomicU64>,
    /// By address of the collector.
    speakers: Vec<(String, Option<Speaker>)>,
}

impl Agent {
    async fn run(mut self, phase: Duration, mut orders: mpsc::Receiver<Order>) {
        tokio::time::sleep(phase).await;
        let mut beats = tokio::time::interval(INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(order) = orders.recv() => {
                    let before = std::mem::replace(&mut self.down, order.down);
                    for (_, speaker) in &mut self.speakers {
                        let Some(open) = speaker else { continue };
                        let (from, to) = (before.min(order.down) + 1, before.max(order.down));
                        if open.change(from, to, order.down < before).await.is_err() {
                            *speaker = None;
                        }
                    }
                    drop(order.done);
                }
                _ = beats.tick() => self.beat().await,
            }
        }
    }

    async fn beat(&mut self) {
        for (address, speaker) in &mut self.speakers {
            let said = match speaker {
                Some(open) => open.beat(self.instances).await.map(|()| None),
                None => {
                    let sequence = Arc::clone(&self.sequence);
                    let again = Speaker::connect_also(address, self.name.clone(), self.instances, sequence);
                    match again.await {
                        Ok(mut again) => {
                            drain(&mut again);
                            again.change(1, self.down, false).await.map(|()| Some(again))
                        }
                        Err(e) => Err(e),
                    }
                }
            };
            match said {
                Ok(Some(new)) => *speaker = Some(new),
                Ok(None) => {}
                Err(_) => *speaker = None,
            }
        }
    }
}
