//! `/debug/config`: the configuration in force, with where each value comes from.

use serde_json::json;

use super::page::{Content, DebugPage};
use crate::config::{EffectiveConfig, EffectiveValue};

/// The page, for a daemon to add to its own.
pub fn config_page(config: EffectiveConfig) -> DebugPage {
    let help = "the configuration in force, and where each value comes from";
    DebugPage::new("/debug/config", help, move || content(&config.get()))
}

fn content(values: &[EffectiveValue]) -> Content {
    let mut text = format!("{:<36}{:<44}ORIGIN\n", "KEY", "VALUE");
    for EffectiveValue { key, value, origin } in values {
        text.push_str(&format!("{key:<35} {:<43} {origin}\n", value.to_string()));
    }
    let json = json!({ "values": values });
    Content { text, json }
}
