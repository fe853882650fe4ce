//! `/debug/log-level`: GET shows the log filter, PUT changes it for a time, DELETE ends the change.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::json;

use super::page::{Content, short};
use crate::log_filter::{self, CHANGE_MAX, Filters};

/// How long a change lasts if nothing else is asked for.
const CHANGE_DEFAULT: Duration = Duration::from_secs(600);

/// The page.
pub(super) fn page() -> Content {
    let Some(Filters { configured, changed }) = log_filter::get() else {
        let text = "logging has not started\n".to_owned();
        return Content {
            text,
            json: json!({}),
        };
    };
    let mut text = format!("configured  {configured}\n");
    if let Some((filter, left)) = &changed {
        text.push_str(&format!("in force    {filter}, for {} more\n", short(*left)));
    }
    text.push_str("\nPUT a filter such as info,redkeeper_core=debug to change it for ?for=10m; DELETE ends the change.\n");
    let json = json!({
        "configured": configured,
        "changed": changed.map(|(filter, left)| json!({"filter": filter, "seconds_left": left.as_secs_f64()})),
    });
    Content { text, json }
}

/// Changes the filter.
pub(super) fn set(filter: &str, lasts: Option<&str>) -> Result<Content, (StatusCode, String)> {
    let bad = |text: String| (StatusCode::BAD_REQUEST, format!("{text}\n"));
    let lasts = match lasts {
        None => CHANGE_DEFAULT,
        Some(text) => humantime::parse_duration(text)
            .ok()
            .filter(|time| *time <= CHANGE_MAX && *time >= Duration::from_secs(1))
            .ok_or_else(|| bad(format!("for={text} is not a time such as 10m, from 1s to 24h")))?,
    };
    let filter = filter.trim();
    if filter.is_empty() {
        return Err(bad(
            "the body must be a log filter such as info,redkeeper_core=debug".to_owned(),
        ));
    }
    log_filter::set(filter, lasts).map_err(bad)?;
    tracing::info!(filter, ?lasts, "the log filter was changed");
    Ok(page())
}

/// Goes back to the configured filter.
pub(super) fn reset() -> Result<Content, (StatusCode, String)> {
    match log_filter::reset() {
        Ok(_) => Ok(page()),
        Err(text) => Err((StatusCode::INTERNAL_SERVER_ERROR, format!("{text}\n"))),
    }
}
