//! `/debug/pprof/`: profiles of memory and CPU. They are made on threads of their own, one of a kind at a time.

use std::{sync::mpsc, time::Duration};

use axum::{
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::page::{Content, Parameters, wants_json};
use crate::{
    blocking::BlockingPool,
    profile::{self, Profile, ProfileError, Row, Top, Unit, cpu, heap},
};

/// How long a CPU profile lasts if nothing else is asked for.
const SECONDS_DEFAULT: u64 = 10;
/// How long the conversion of a profile may take: the debug information of the program is read.
const CONVERSION_TIMEOUT: Duration = Duration::from_secs(60);

/// One heap profile at a time; others wait.
static HEAP: BlockingPool = BlockingPool::new(1);
/// One CPU profile at a time. The second place is for the refusal of another one.
static CPU: BlockingPool = BlockingPool::new(2);

/// Form of a profile.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Pprof,
    FlameGraph,
    Text,
    Json,
}

impl Form {
    fn asked(parameters: &Parameters, headers: &HeaderMap) -> Result<Self, String> {
        match parameters.format.as_str() {
            _ if wants_json(parameters, headers) => Ok(Self::Json),
            "" | "pprof" => Ok(Self::Pprof),
            "svg" => Ok(Self::FlameGraph),
            "text" => Ok(Self::Text),
            other => Err(format!(
                "format={other} is unknown: pprof, svg, text and json are known"
            )),
        }
    }
}

/// `/debug/pprof/heap` and `/debug/pprof/allocs`. `title` names the daemon.
pub(super) async fn heap(
    title: String,
    unit: Unit,
    parameters: &Parameters,
    headers: &HeaderMap,
) -> Response {
    let form = match Form::asked(parameters, headers) {
        Ok(form) => form,
        Err(text) => return (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response(),
    };
    let made = HEAP
        .run(CONVERSION_TIMEOUT, move || {
            let profile = heap::profile(unit)?;
            let note = match heap::sampling() {
                heap::Sampling::Every(bytes) => format!(
                    "sampled: one allocation in {} KiB is recorded, so small amounts are estimates\n",
                    bytes >> 10
                ),
                _ => String::new(),
            };
            render(&profile, form, &title, &note)
        })
        .await;
    made.unwrap_or(Err(ProfileError::Busy)).unwrap_or_else(refused)
}

/// PUT on `/debug/pprof/heap`: `on` or `off`.
pub(super) async fn switch_sampling(switch: String) -> Response {
    let on = match switch.trim() {
        "on" => true,
        "off" => false,
        _ => return (StatusCode::BAD_REQUEST, "the body must be \"on\" or \"off\"\n").into_response(),
    };
    match heap::set_sampling(on) {
        Ok(()) => {
            let state = if on { "on" } else { "off" };
            tracing::info!("the sampling of allocations was switched {state}");
            format!("the sampling of allocations is {state}, until the process ends\n").into_response()
        }
        Err(e) => refused(e),
    }
}

/// `/debug/pprof/profile`. `title` names the daemon.
pub(super) async fn cpu(title: String, parameters: &Parameters, headers: &HeaderMap) -> Response {
    let bad = |text: String| (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response();
    let lasts = match seconds(parameters.seconds.as_deref()) {
        Ok(lasts) => lasts,
        Err(text) => return bad(text),
    };
    let form = match Form::asked(parameters, headers) {
        Ok(form) => form,
        Err(text) => return bad(text),
    };
    // Dropped with this future: the profile ends when its reader goes.
    let (asked, asks) = mpsc::channel();
    let made = CPU
        .run(lasts + CONVERSION_TIMEOUT, move || {
            let profile = cpu::profile(lasts, &asks)?;
            let (user, system) = profile.used;
            let note = format!(
                "in {lasts:?}: {user:.1?} of CPU time, and {system:.1?} of the kernel for it; the samples stand for {:.1?}, because time \
                 in the kernel and in the C library cannot be sampled safely\n",
                profile.sampled
            );
            render(&profile.profile, form, &title, &note)
        })
        .await;
    drop(asked);
    made.unwrap_or(Err(ProfileError::Busy)).unwrap_or_else(refused)
}

fn seconds(asked: Option<&str>) -> Result<Duration, String> {
    let Some(text) = asked else {
        return Ok(Duration::from_secs(SECONDS_DEFAULT));
    };
    let max = cpu::DURATION_MAX.as_secs();
    let seconds = text.parse().ok().filter(|seconds| (1..=max).contains(seconds));
    let seconds = seconds.ok_or_else(|| format!("seconds={text} is not a number from 1 to {max}"))?;
    Ok(Duration::from_secs(seconds))
}

fn render(profile: &Profile, form: Form, title: &str, note: &str) -> Result<Response, ProfileError> {
    let response = match form {
        Form::Pprof => {
            let headers = [
                (header::CONTENT_TYPE, "application/octet-stream"),
                (
                    header::CONTENT_DISPOSITION,
                    "attachment; filename=\"profile.pb.gz\"",
                ),
            ];
            (headers, profile::pprof_file(profile)).into_response()
        }
        Form::FlameGraph => {
            let svg = profile::flame_graph(profile, title)?;
            ([(header::CONTENT_TYPE, "image/svg+xml")], svg).into_response()
        }
        Form::Text => content(&profile::top(profile), profile.unit, note)
            .text
            .into_response(),
        Form::Json => content(&profile::top(profile), profile.unit, note).json_response(),
    };
    Ok(response)
}

/// The largest functions, as a page.
fn content(top: &Top, unit: Unit, note: &str) -> Content {
    let mut text = format!(
        "{}: {} in {} stacks\n{note}",
        unit.title(),
        amount(top.total, unit),
        top.stacks
    );
    let tables = [
        ("by the innermost function of redkeeper", &top.own),
        (
            "by function of redkeeper, with all that it calls",
            &top.with_callees,
        ),
    ];
    for (what, rows) in tables {
        text.push_str(&format!("\n{what}\n{:<14}SHARE    FUNCTION\n", "AMOUNT"));
        for Row { function, weight } in rows {
            let share = format!("{:.1} %", 100.0 * weight / top.total.max(1.0));
            text.push_str(&format!("{:<14}{share:<9}{function}\n", amount(*weight, unit)));
        }
    }
    let rows = |rows: &[Row]| -> Vec<_> {
        rows.iter()
            .map(|row| json!({ "function": row.function, "amount": row.weight }))
            .collect()
    };
    let json = json!({
        "what": unit.title(),
        "unit": unit.name(),
        "total": top.total,
        "stacks": top.stacks,
        "note": note.trim_end(),
        "by_innermost_own_function": rows(&top.own),
        "by_own_function_with_callees": rows(&top.with_callees),
    });
    Content { text, json }
}

fn amount(weight: f64, unit: Unit) -> String {
    match unit {
        Unit::Cpu => format!("{:.2} s", weight / 1e9),
        Unit::InUse | Unit::Allocated => format!("{:.1} MiB", weight / 1_048_576.0),
    }
}

fn refused(error: ProfileError) -> Response {
    let code = match error {
        ProfileError::Busy => StatusCode::TOO_MANY_REQUESTS,
        ProfileError::Off => StatusCode::CONFLICT,
        ProfileError::Unavailable => StatusCode::NOT_IMPLEMENTED,
        ProfileError::NoRoom { .. } | ProfileError::NoFolder { .. } => StatusCode::INSUFFICIENT_STORAGE,
        ProfileError::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, format!("{error}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_lasts_a_bounded_time() {
        assert_eq!(seconds(None), Ok(Duration::from_secs(10)));
        assert_eq!(seconds(Some("60")), Ok(Duration::from_secs(60)));
        for wrong in ["0", "61", "-1", "1s", "", "99999999999999999999"] {
            assert!(seconds(Some(wrong)).is_err(), "{wrong}");
        }
    }
}
