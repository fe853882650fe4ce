//! Converts wire types to core types and back. Everything that comes from outside is checked here: lengths, names,
//! ranges. Wrong input is an error that names the field; it never panics and is never applied in part.

use std::time::Duration;

use redkeeper_core::time::WallMs;

mod agent;
mod enums;
mod status;

pub use agent::{greeting_from_wire, greeting_to_wire, message_from_wire, report_to_wire};
pub use enums::*;
pub use status::{identity, verdict_to_wire};

/// A message that breaks a rule of the `.proto`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    /// Path of the field.
    pub field: String,
    /// Human-readable description of the problem.
    pub problem: String,
}

impl Invalid {
    /// A mistake in a field.
    pub fn new(field: &str, problem: impl std::fmt::Display) -> Self {
        Self {
            field: field.to_owned(),
            problem: problem.to_string(),
        }
    }
}

fn invalid(field: &str, problem: impl std::fmt::Display) -> Invalid {
    Invalid::new(field, problem)
}

/// Longest duration that is accepted: a day. Anything longer is a mistake of the sender.
const DURATION_MAX: Duration = Duration::from_secs(86_400);

/// A duration for the wire; at most a day.
pub fn duration_to_wire(duration: Duration) -> pbjson_types::Duration {
    let duration = duration.min(DURATION_MAX);
    pbjson_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(0),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// A duration of any length for the wire.
pub fn long_duration_to_wire(duration: Duration) -> pbjson_types::Duration {
    pbjson_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

/// Milliseconds, which may be negative, as a duration for the wire.
pub fn signed_millis_to_wire(millis: i64) -> pbjson_types::Duration {
    pbjson_types::Duration {
        seconds: millis / 1_000,
        nanos: i32::try_from(millis % 1_000).unwrap_or(0) * 1_000_000,
    }
}

/// A duration from the wire.
///
/// # Errors
/// Negative, malformed or longer than a day.
pub fn duration_from_wire(field: &str, wire: &pbjson_types::Duration) -> Result<Duration, Invalid> {
    let (Ok(seconds), Ok(nanos)) = (u64::try_from(wire.seconds), u32::try_from(wire.nanos)) else {
        return Err(invalid(field, "is negative"));
    };
    if nanos >= 1_000_000_000 || Duration::new(seconds, nanos) > DURATION_MAX {
        return Err(invalid(field, "is malformed or longer than a day"));
    }
    Ok(Duration::new(seconds, nanos))
}

/// A wall-clock time for the wire; `None` for zero.
pub fn time_to_wire(time: WallMs) -> Option<pbjson_types::Timestamp> {
    (time.0 > 0).then(|| pbjson_types::Timestamp {
        seconds: i64::try_from(time.0 / 1000).unwrap_or(0),
        nanos: i32::try_from(time.0 % 1000 * 1_000_000).unwrap_or(0),
    })
}

/// A wall-clock time from the wire; zero where absent or before 1970.
pub fn time_from_wire(wire: Option<&pbjson_types::Timestamp>) -> WallMs {
    // The protobuf type ends with the year 9999.
    let millis = wire.map_or(0, |t| {
        t.seconds.clamp(0, 253_402_300_799) * 1000 + i64::from(t.nanos.clamp(0, 999_999_999)) / 1_000_000
    });
    WallMs(u64::try_from(millis).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_beyond_the_limit_is_capped_and_still_accepted() {
        let wire = duration_to_wire(Duration::from_secs(1_000_000));
        assert_eq!(duration_from_wire("x", &wire), Ok(DURATION_MAX));
    }
}
