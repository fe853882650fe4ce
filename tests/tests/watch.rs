//! What watchers are promised: a snapshot, then every change once and in order, resumption, and a clear error
//! where changes were lost.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use redkeeper_proto::v1::{
    Changes, Reason, Snapshot, WatchInstancesRequest, WatchInstancesResponse,
    agent_service_client::AgentServiceClient, report_status_request::Message,
    status_service_client::StatusServiceClient, watch_instances_response::Event,
};
use redkeeper_tests::{
    Sandbox, check,
    daemons::Collector,
    eventually,
    fake_agent::{hello, message, report},
    wait,
};
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
    let (mut redis, mut a, _agent, id) = sandbox.reported_redis(None).await;

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

    // A watcher is counted while it is there.
    let watchers = || async { a.metric("redkeeper_watchers") };
    eventually("two watchers", watchers, |n| *n == Some(2.0)).await;
    drop(second);
    eventually("one watcher", watchers, |n| *n == Some(1.0)).await;

    assert_eq!(
        watch(&mut client, "nonsense").await.unwrap_err().code(),
        Code::InvalidArgument
    );

    // A collector that stops says so.
    a.process.signal(Signal::SIGTERM);
    let ended = tokio::time::timeout(wait::LIMIT, first.message())
        .await
        .expect("in time");
    assert_eq!(ended.unwrap_err().code(), Code::Unavailable);

    // Tokens of a former process are refused, not misread.
    sandbox.restart_collector(&mut a);
    up(&a, &id).await;
    let refused = watch(&mut a.client().await, &last).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
}

/// What a watcher was told: I7 is judged on it.
fn event(change: &redkeeper_proto::v1::Transition) -> check::Event {
    let instance = change.instance.as_ref().unwrap();
    let after = format!("{:?}", instance.verdict.as_ref().unwrap().reason());
    (
        change.revision,
        instance.id.clone(),
        format!("{:?}", change.previous_reason()),
        after,
    )
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_so_and_holds_up_nobody() {
    let sandbox = Sandbox::new();
    // The agent sends no heartbeats, and must not be called silent: what it says then changes no status.
    let patient = "standalone = true\nsilent_after = '10m'\n";
    let a = sandbox.collector_with("a", patient).await;
    let mut client = a.client().await;
    let mut slow = watch(&mut client, "").await.unwrap();
    // Its snapshot is empty. From here on it does not read.
    assert!(matches!(next(&mut slow).await.event, Some(Event::SnapshotEnd(_))));

    // More changes than are kept twice: 64 instances change 2,200 times.
    let rounds = (0..2_200u64).map(|n| {
        let reason = if n % 2 == 0 { Reason::Ok } else { Reason::Loading };
        let instances = (1..=64).map(|i| report("db09", i, reason)).collect();
        let content = match n {
            0 => Message::Snapshot(Snapshot {
                instances,
                last: true,
            }),
            _ => Message::Changes(Changes { instances }),
        };
        message(n + 2, content)
    });
    let messages: Vec<_> = [message(1, hello("db09", 1))].into_iter().chain(rounds).collect();
    let stream = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let mut agents = AgentServiceClient::new(a.channel().await.unwrap());
    let answers = agents.report_status(stream).await.unwrap().into_inner();
    let applied = || async { a.metric("redkeeper_agent_reports_total{result=\"accepted\"}") };
    eventually("all applied", applied, |n| *n == Some(2_200.0)).await;

    // A reader that begins now is served at once.
    let mut fresh = watch(&mut a.client().await, "").await.unwrap();
    assert!(matches!(next(&mut fresh).await.event, Some(Event::Instance(_))));

    // The slow one gets what was under way, whole and in order, and then the truth about the rest.
    let mut events = Vec::new();
    let deadline = tokio::time::Instant::now() + wait::LIMIT;
    let ended = loop {
        match tokio::time::timeout_at(deadline, slow.message())
            .await
            .expect("in time")
        {
            Ok(Some(message)) => match &message.event {
                Some(Event::Change(change)) => events.push(event(change)),
                // Told between two batches, too; after the last one it would mean that nothing was lost.
                Some(Event::Progress(progress)) => {
                    assert!(
                        progress.header.as_ref().unwrap().revision < 2_200 * 64,
                        "nothing was lost"
                    );
                }
                _ => {}
            },
            Ok(None) => panic!("ended without a reason"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::OutOfRange, "{ended:?}");
    assert!(ended.message().contains("no longer kept"), "{ended:?}");
    assert_eq!(check::watch_history(&events), Ok(()));
    assert_eq!(a.metric("redkeeper_watch_lagged_total"), Some(1.0));
    drop(answers);
}
