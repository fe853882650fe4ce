//! What watchers are promised: a snapshot, then every change once and in order, resumption, and a clear error
//! where changes were lost.
#![allow(clippy::unwrap_used)]

use redkeeper_proto::v1::{
    WatchInstancesRequest, WatchInstancesResponse, status_service_client::StatusServiceClient,
    watch_instances_response::Event,
};
use redkeeper_tests::{Sandbox, daemons::Collector, eventually, wait};
use tonic::{Code, Status, Streaming, transport::Channel};

async fn watch(
    client: &mut StatusServiceClient<Channel>,
    token: &str,
) -> Result<Streaming<WatchInstancesResponse>, Status> {
    let request = WatchInstancesRequest {
        filter: None,
        resume_token: token.to_owned(),
    };
    Ok(client.watch_instances(request).await?.into_inner())
}

async fn next(stream: &mut Streaming<WatchInstancesResponse>) -> WatchInstancesResponse {
    tokio::time::timeout(wait::LIMIT, stream.message())
        .await
        .expect("in time")
        .unwrap()
        .expect("not the end")
}

/// Reads changes up to one that leaves the instance in `state`; returns revisions, and the last token.
async fn until(stream: &mut Streaming<WatchInstancesResponse>, state: &str) -> (Vec<u64>, String) {
    let mut revisions = Vec::new();
    loop {
        let message = next(stream).await;
        let Some(Event::Change(change)) = message.event else {
            continue;
        };
        revisions.push(change.revision);
        let verdict = change.instance.unwrap().verdict.unwrap();
        if verdict.state().as_str_name().ends_with(state) {
            return (revisions, message.resume_token);
        }
    }
}

async fn up(collector: &Collector, id: &str) {
    eventually("UP", || collector.state(id), |s| s == "UP/OK").await;
}

#[tokio::test]
async fn a_watcher_sees_every_change_once_and_can_resume() {
    let sandbox = Sandbox::new();
    let mut redis = sandbox.redis().await;
    let mut a = sandbox.collector("a", None).await;
    let _agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let id = format!("db01:{}", redis.port.number);
    up(&a, &id).await;

    let mut client = a.client().await;
    let mut first = watch(&mut client, "").await.unwrap();
    let Some(Event::Instance(instance)) = next(&mut first).await.event else {
        panic!("the snapshot comes first")
    };
    assert_eq!(instance.id, id);
    let end = next(&mut first).await;
    assert!(matches!(end.event, Some(Event::SnapshotEnd(end)) if end.count == 1));
    let token = end.resume_token;

    redis.process.kill();
    let (seen, _) = until(&mut first, "_DOWN").await;
    sandbox.restart(&mut redis).await;
    let (more, last) = until(&mut first, "_UP").await;
    let seen: Vec<_> = seen.into_iter().chain(more).collect();
    assert!(
        seen.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "each once, in order, none left out: {seen:?}"
    );

    // Another watcher that resumes sees the same.
    let mut second = watch(&mut client, &token).await.unwrap();
    let (down, _) = until(&mut second, "_DOWN").await;
    let (up_again, _) = until(&mut second, "_UP").await;
    assert_eq!(down.into_iter().chain(up_again).collect::<Vec<_>>(), seen);

    assert_eq!(
        watch(&mut client, "nonsense").await.unwrap_err().code(),
        Code::InvalidArgument
    );

    // Tokens of a former process are refused, not misread.
    sandbox.restart_collector(&mut a);
    up(&a, &id).await;
    let refused = watch(&mut a.client().await, &last).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}
