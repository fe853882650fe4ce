//! The agent's own pages below `/debug/`.

use std::sync::Arc;

use redkeeper_runtime::{
    admin::{DebugPage, config_page},
    clock::Clock,
    config::EffectiveConfig,
};

use crate::{instances::InstanceTable, report::StreamStatus};

mod instance;
mod instances;
mod streams;
mod times;

/// All of them. `streams` are the addresses of the collectors, each with the state of its uplink.
pub fn pages(
    table: &Arc<InstanceTable>,
    streams: &Arc<[(String, StreamStatus)]>,
    config: EffectiveConfig,
    clock: Clock,
) -> Vec<DebugPage> {
    let [all, one, listed] = [0; 3].map(|_| Arc::clone(table));
    let streams = Arc::clone(streams);
    vec![
        DebugPage::new(
            "/debug/instances",
            "the instances, and when each was last probed",
            move || instances::list(&all, clock.now()),
        ),
        DebugPage::by_id(
            "/debug/instances/ID",
            "one instance: why it has its state, what was seen, what is due",
            move |id| Some(instance::page(&one.find(id)?, clock)),
            move || instances::worst_first(&listed),
        ),
        DebugPage::new(
            "/debug/streams",
            "the streams to the collectors, and how the last ones ended",
            move || streams::page(&streams, clock.now()),
        ),
        config_page(config),
    ]
}
