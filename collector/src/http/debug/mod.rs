//! The collector's own pages below `/debug/`. They are made from what other tasks publish, and wait for none of them.

mod instances;
mod streams;
mod zookeeper;

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    ids::CollectorId,
    time::{Mono, WallMs},
};
use redkeeper_runtime::{
    admin::{DebugPage, config_page, short},
    clock::Clock,
    config::EffectiveConfig,
};

use crate::{
    fleet::{open_streams::OpenStreams, view::ViewHandle},
    leader::leadership,
    store::{diagnostics::Diagnostics, layout::Layout},
};

/// The state from which the pages are made.
pub(crate) struct Sources {
    /// Id of this collector.
    pub(crate) id: CollectorId,
    /// Whether there is no ZooKeeper.
    pub(crate) standalone: bool,
    /// Silence after which an agent's instances are UNKNOWN.
    pub(crate) silent_after: Duration,
    /// Paths in ZooKeeper.
    pub(crate) layout: Layout,
    /// Clock.
    pub(crate) clock: Clock,
    /// The fleet's view.
    pub(crate) view: ViewHandle,
    /// Leadership, as this collector knows it.
    pub(crate) leadership: leadership::Reader,
    /// The open streams of agents.
    pub(crate) open_streams: Arc<OpenStreams>,
    /// All values of the configuration.
    pub(crate) config: EffectiveConfig,
    /// What happens between this collector and ZooKeeper.
    pub(crate) diagnostics: Arc<Diagnostics>,
}

/// All of the pages.
pub(super) fn pages(sources: Sources) -> Vec<DebugPage> {
    let sources = Arc::new(sources);
    let [streams, zookeeper, instances, listed] = [0; 4].map(|_| Arc::clone(&sources));
    vec![
        DebugPage::new(
            "/debug/streams",
            "agents' streams: what was received, applied and acknowledged; agents without one",
            move || streams::page(&streams),
        ),
        DebugPage::new(
            "/debug/zookeeper",
            "the session with ZooKeeper, requests in flight, watches and the last errors",
            move || zookeeper::page(&zookeeper),
        ),
        DebugPage::by_id(
            "/debug/instances/ID",
            "one instance: who reports what of it, what is due when, and what is published",
            move |id| instances::page(&instances, id),
            move || instances::worst_first(&listed.view),
        ),
        config_page(sources.config.clone()),
    ]
}

/// The present time of both clocks.
#[derive(Clone, Copy)]
struct Now {
    mono: Mono,
    wall: WallMs,
}

impl Now {
    fn of(clock: Clock) -> Self {
        Self {
            mono: clock.now(),
            wall: clock.wall(),
        }
    }

    /// Seconds from `at` until now.
    fn seconds_since(self, at: Mono) -> f64 {
        self.mono.since(at).as_secs_f64()
    }

    /// Seconds from now until `at`; negative if it has passed.
    fn seconds_until(self, at: Mono) -> f64 {
        at.since(self.mono).as_secs_f64() - self.seconds_since(at)
    }

    /// The time from now until `at`, or since then, for people.
    fn relative(self, at: Mono) -> String {
        if at > self.mono {
            format!("in {}", short(at.since(self.mono)))
        } else {
            format!("{} ago", short(self.mono.since(at)))
        }
    }

    /// The wall-clock time of an instant.
    fn wall_of(self, at: Mono) -> WallMs {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (ahead, ago) = (millis(at.since(self.mono)), millis(self.mono.since(at)));
        WallMs(self.wall.0.saturating_add(ahead).saturating_sub(ago))
    }
}

/// Lines of a name and a text each, in two columns.
fn lines(rows: &[(&str, String)]) -> String {
    let line = |(name, text): &(&str, String)| format!("{name:<18}{text}\n");
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_from_now_in_both_directions() {
        let now = Now {
            mono: Mono::from_millis(10_000),
            wall: WallMs(1_000_000),
        };
        let (past, future) = (Mono::from_millis(8_500), Mono::from_millis(10_250));
        assert_eq!(
            (now.relative(past), now.relative(future)),
            ("1s 500ms ago".into(), "in 250ms".into())
        );
        assert_eq!((now.seconds_until(past), now.seconds_until(future)), (-1.5, 0.25));
        assert_eq!(now.wall_of(past), WallMs(998_500));
        assert_eq!(now.wall_of(future), WallMs(1_000_250));
        assert_eq!(now.wall_of(Mono(0)), WallMs(990_000));
    }
}
