//! Formats single values as human-readable text: states, durations and times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redkeeper_proto::v1;

/// Name of an enum value without its prefix, such as `DOWN`; its number if this version does not know the value.
pub(super) fn word<E: TryFrom<i32>>(value: i32, prefix: &str, name: impl Fn(&E) -> &'static str) -> String {
    match E::try_from(value) {
        Ok(known) => name(&known).trim_start_matches(prefix).to_owned(),
        Err(_) => format!("{prefix}{value}"),
    }
}

/// State with a symbol, so that states never differ by colour alone.
pub(super) fn state(value: i32) -> String {
    let sign = match v1::InstanceState::try_from(value).unwrap_or_default() {
        v1::InstanceState::Up => "✓",
        v1::InstanceState::Degraded => "!",
        v1::InstanceState::Down => "✗",
        v1::InstanceState::Unknown | v1::InstanceState::Unspecified => "?",
    };
    let word = word(value, "INSTANCE_STATE_", v1::InstanceState::as_str_name);
    format!("{sign} {word}")
}

pub(super) fn reason(value: i32) -> String {
    match value {
        0 => "-".to_owned(),
        value => word(value, "REASON_", v1::Reason::as_str_name),
    }
}

pub(super) fn role(value: i32) -> String {
    match value {
        0 => "-".to_owned(),
        value => word(value, "ROLE_", v1::Role::as_str_name).to_lowercase(),
    }
}

pub(super) fn ability(value: i32) -> String {
    word(value, "ABILITY_", v1::Ability::as_str_name).to_lowercase()
}

pub(super) fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

fn wall(time: Option<&redkeeper_proto::Timestamp>) -> Option<SystemTime> {
    let time = time?;
    let (seconds, nanos) = (u64::try_from(time.seconds).ok()?, u32::try_from(time.nanos).ok()?);
    UNIX_EPOCH.checked_add(Duration::new(seconds, nanos))
}

/// How long state and reason have been unchanged. The collector reports it, because the clock of this host may be
/// wrong; an older collector does not.
pub(super) fn state_age(instance: &v1::Instance) -> String {
    let since = instance.verdict.as_ref().and_then(|v| v.since_time.as_ref());
    span(instance.state_age.as_ref()).unwrap_or_else(|| since_by_own_clock(since))
}

pub(super) fn since_by_own_clock(time: Option<&redkeeper_proto::Timestamp>) -> String {
    let age = wall(time).and_then(|at| SystemTime::now().duration_since(at).ok());
    age.map_or("-".to_owned(), |age| in_units(age.as_secs()))
}

/// Formats a duration in two units at most.
pub(super) fn span(duration: Option<&redkeeper_proto::Duration>) -> Option<String> {
    let seconds = u64::try_from(duration?.seconds).ok()?;
    Some(in_units(seconds))
}

fn in_units(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m{}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h{}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d{}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Describes the error of an agent's clock, as its collector sees it.
pub(super) fn clock_state(ahead: Option<&redkeeper_proto::Duration>) -> String {
    // Network delay makes the last digits random.
    let rounded = |seconds: i64| match seconds.unsigned_abs() {
        seconds @ 0..60 => in_units(seconds),
        seconds => in_units(seconds.saturating_add(30) / 60 * 60),
    };
    match ahead.map(|ahead| ahead.seconds) {
        None => "ok".to_owned(),
        Some(seconds @ 0..) => format!("{} ahead", rounded(seconds)),
        Some(seconds) => format!("{} behind", rounded(seconds)),
    }
}

pub(super) fn age(duration: Option<&redkeeper_proto::Duration>) -> String {
    duration.map_or("-".to_owned(), |d| {
        format!("{:.1}s", d.seconds as f64 + f64::from(d.nanos) / 1e9)
    })
}

pub(super) fn clock(time: Option<&redkeeper_proto::Timestamp>) -> String {
    wall(time).map_or("-".to_owned(), |at| {
        humantime::format_rfc3339_millis(at).to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_version_does_not_know_is_shown_by_number() {
        assert_eq!(state(3), "✗ DOWN");
        assert_eq!(state(9), "? INSTANCE_STATE_9");
        assert_eq!(
            (reason(1), reason(4_711), reason(0)),
            ("OK".into(), "REASON_4711".into(), "-".into())
        );
        assert_eq!(
            (role(1), role(9), ability(9)),
            ("master".into(), "role_9".into(), "ability_9".into())
        );
    }
}
