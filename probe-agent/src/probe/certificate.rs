//! Warns before the TLS certificate of a server expires, and exports the time of expiry as a metric.

use std::time::Duration;

use redkeeper_core::{
    ids::InstanceId,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::Clock;

use crate::metrics::Metrics;

/// Warn this long before expiry. Renewal should be done by then: the usual tools renew 30 days before.
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
const TELL_CERTIFICATE_EVERY: Duration = Duration::from_secs(86_400);

/// Updates the metric, and warns at most once a day of a certificate that expires soon, because clients will be refused
/// then. `last_told` is the time of the last warning.
pub(super) fn tell(
    id: &InstanceId,
    ends: WallMs,
    clock: Clock,
    metrics: &Metrics,
    last_told: &mut Option<Mono>,
) {
    let now = clock.now();
    let seconds = i64::try_from(ends.0 / 1000).unwrap_or(i64::MAX);
    metrics
        .certificates
        .get_or_create_owned(&[("instance", id.to_string())])
        .set(seconds);
    let left = Duration::from_millis(ends.0.saturating_sub(clock.wall().0));
    let told = last_told.is_some_and(|at| now.since(at) < TELL_CERTIFICATE_EVERY);
    if left < CERTIFICATE_ENDS_SOON && !told {
        *last_told = Some(now);
        tracing::warn!(
            instance = %id,
            "the server's TLS certificate ends in {} days; renew it before clients are refused",
            left.as_secs() / 86_400
        );
    }
}
