//! Warns before the TLS certificate of a server ends, and shows its end in the metrics.

use std::time::Duration;

use redkeeper_core::{
    ids::InstanceId,
    time::{Mono, WallMs},
};
use redkeeper_runtime::clock::Clock;

use crate::metrics::Metrics;

/// Renewal should have been done by then: the usual tools renew 30 days before the end.
const CERTIFICATE_ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
const TELL_CERTIFICATE_EVERY: Duration = Duration::from_secs(86_400);

/// A certificate that ends soon takes clients with it, so it is told before. `last_told` is when that was done.
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
