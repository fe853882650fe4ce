//! The agent's own pages below `/debug/`.

use std::sync::Arc;

use redkeeper_runtime::{
    admin::{DebugPage, config_page},
    clock::Clock,
    config::EffectiveConfig,
};

use crate::instances::InstanceTable;

mod instances;

/// All of them.
pub fn pages(table: &Arc<InstanceTable>, config: EffectiveConfig, clock: Clock) -> Vec<DebugPage> {
    let all = Arc::clone(table);
    vec![
        DebugPage::new(
            "/debug/instances",
            "the instances, and when each was last probed",
            move || instances::list(&all, clock.now()),
        ),
        config_page(config),
    ]
}
