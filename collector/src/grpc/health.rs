//! The health service (`grpc.health.v1`): whether this collector serves, and whether it leads. Everything is
//! NOT_SERVING while it drains.

use std::time::Duration;

use redkeeper_runtime::clock::Clock;
use tokio_util::sync::CancellationToken;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health, HealthServer},
    server::HealthReporter,
};

use crate::leader::leadership;

/// Pseudo-service that is SERVING on the leader only.
pub(super) const LEADER_HEALTH: &str = "redkeeper.v1.Leader";
/// Services that are SERVING until the collector drains. An empty name stands for the whole process.
const SERVICES: [&str; 3] = ["", "redkeeper.v1.StatusService", "redkeeper.v1.AgentService"];
/// Maximum time between two checks of the leader's health: a machine that slept wakes after the end of its lease.
const LEADER_INTERVAL: Duration = Duration::from_millis(250);

/// Creates the service, and the reporter that sets its answers.
pub(super) async fn service() -> (HealthReporter, HealthServer<impl Health>) {
    let (health, service) = tonic_health::server::health_reporter();
    set(&health, ServingStatus::Serving).await;
    // The library begins with SERVING for every name.
    health
        .set_service_status(LEADER_HEALTH, ServingStatus::NotServing)
        .await;
    (health, service)
}

async fn set(health: &HealthReporter, status: ServingStatus) {
    for name in SERVICES {
        health.set_service_status(name, status).await;
    }
}

/// Keeps the answers up to date until the collector drains, and then reports that it serves no longer.
pub(super) async fn follow(
    health: HealthReporter,
    leadership: leadership::Reader,
    clock: Clock,
    stop: CancellationToken,
) {
    tokio::select! {
        biased;
        () = stop.cancelled() => (),
        () = follow_leader(&health, leadership, clock) => (),
    }
    health
        .set_service_status(LEADER_HEALTH, ServingStatus::NotServing)
        .await;
    set(&health, ServingStatus::NotServing).await;
}

async fn follow_leader(health: &HealthReporter, mut leadership: leadership::Reader, clock: Clock) {
    loop {
        let now = clock.now();
        let (leads, ends) = {
            let leadership = leadership.borrow_and_update();
            (leadership.leads(now), leadership.lease_ends())
        };
        let status = if leads {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        health.set_service_status(LEADER_HEALTH, status).await;
        // A lease expires without a change.
        let ends = ends
            .filter(|_| leads)
            .map_or(LEADER_INTERVAL, |ends| ends.since(now));
        if let Ok(Err(_)) = tokio::time::timeout(ends.min(LEADER_INTERVAL), leadership.changed()).await {
            return;
        }
    }
}
