//! What operators and their tools rely on beside the statuses: health, reflection, and a way to stop at once.
#![allow(clippy::unwrap_used)]

use std::{
    fs::File,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::signal::Signal,
};
use redkeeper_proto::v1::{
    self, Snapshot, agent_service_client::AgentServiceClient, report_status_request::Message,
};
use redkeeper_tests::{
    Sandbox,
    daemons::{Collector, http_get},
    eventually,
    fake_agent::{hello, message, report},
};
use tokio_stream::StreamExt;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

async fn health(collector: &Collector, service: &str) -> Option<ServingStatus> {
    let mut client = HealthClient::new(collector.channel().await.ok()?);
    let request = HealthCheckRequest {
        service: service.to_owned(),
    };
    Some(client.check(request).await.ok()?.into_inner().status())
}

#[tokio::test]
async fn health_tells_who_serves_and_who_leads() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let mut a = sandbox.collector("a", Some(&zookeeper)).await;
    let serving = |status: &Option<ServingStatus>| *status == Some(ServingStatus::Serving);
    eventually("a leads", || health(&a, "redkeeper.v1.Leader"), serving).await;
    let b = sandbox.collector("b", Some(&zookeeper)).await;
    for collector in [&a, &b] {
        for service in ["", "redkeeper.v1.StatusService", "redkeeper.v1.AgentService"] {
            assert_eq!(
                health(collector, service).await,
                Some(ServingStatus::Serving),
                "{service}"
            );
        }
    }
    assert_eq!(
        health(&b, "redkeeper.v1.Leader").await,
        Some(ServingStatus::NotServing)
    );
    assert_eq!(b.metric("redkeeper_leader"), Some(0.0));
    assert_eq!(health(&b, "no.such.Service").await, None);

    // A leader that cannot reach ZooKeeper stops saying that it leads before its session could have ended.
    zookeeper.process.signal(Signal::SIGSTOP);
    let not = |status: &Option<ServingStatus>| *status == Some(ServingStatus::NotServing);
    let start = Instant::now();
    eventually("a no longer says so", || health(&a, "redkeeper.v1.Leader"), not).await;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "took {:?}",
        start.elapsed()
    );
    assert_eq!(a.metric("redkeeper_leader"), Some(0.0));
    zookeeper.process.signal(Signal::SIGCONT);
    a.process.kill();
    eventually("b leads", || health(&b, "redkeeper.v1.Leader"), serving).await;
}

#[tokio::test]
async fn reflection_names_all_services() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let mut client = ServerReflectionClient::new(a.channel().await.unwrap());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers
        .message()
        .await
        .unwrap()
        .unwrap()
        .message_response
        .unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    for name in ["AgentService", "StatusService", "PeerService"] {
        assert!(
            names.contains(&format!("redkeeper.v1.{name}").as_str()),
            "{names:?}"
        );
    }
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

/// Tools that know only the version before this one.
#[tokio::test]
async fn reflection_answers_former_tools_too() {
    use tonic_reflection::pb::v1alpha::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let mut client = ServerReflectionClient::new(a.channel().await.unwrap());
    let symbol = "redkeeper.v1.StatusService".to_owned();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileContainingSymbol(symbol)),
    };
    let request = tokio_stream::iter([request]);
    let mut answers = client.server_reflection_info(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(
        matches!(&answer, Some(MessageResponse::FileDescriptorResponse(file)) if !file.file_descriptor_proto.is_empty()),
        "{answer:?}"
    );
}

#[tokio::test]
async fn a_second_signal_ends_a_collector_that_takes_long_to_stop() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let mut a = sandbox.collector("a", Some(&zookeeper)).await;
    a.leads().await;
    // The hand-over waits for an answer that does not come.
    zookeeper.process.signal(Signal::SIGSTOP);
    a.process.signal(Signal::SIGTERM);
    let log = || async { a.process.log() };
    eventually("it is stopping", log, |log| log.contains("a second signal ends")).await;
    let start = Instant::now();
    a.process.signal(Signal::SIGINT);
    let status = a.process.ends_within(Duration::from_secs(10));
    assert_eq!(status.code(), Some(1));
    assert!(
        start.elapsed() < Duration::from_millis(900),
        "took {:?}",
        start.elapsed()
    );
    assert!(a.process.log().contains("second signal: exiting at once"));
    zookeeper.process.signal(Signal::SIGCONT);
}

/// Twenty agents are drained while ZooKeeper holds the hand-over up, so that the time between is long enough to look.
#[tokio::test]
async fn a_collector_that_stops_says_so_drains_and_hands_over_in_order() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let mut a = sandbox.collector("a", Some(&zookeeper)).await;
    a.leads().await;
    let channel = a.channel().await.unwrap();
    let mut streams = Vec::new();
    for n in 0..20 {
        let name = format!("db{n:02}");
        let snapshot = Message::Snapshot(Snapshot {
            instances: vec![report(&name, 1, v1::Reason::Ok)],
            last: true,
        });
        let heartbeats = (3..500).map(|n| message(n, Message::Heartbeat(v1::Heartbeat::default())));
        let messages: Vec<_> = [message(1, hello(&name, 1)), message(2, snapshot)]
            .into_iter()
            .chain(heartbeats)
            .collect();
        let stream = tokio_stream::iter(messages).chain(tokio_stream::pending());
        let mut client = AgentServiceClient::new(channel.clone());
        streams.push(client.report_status(stream).await.unwrap().into_inner());
    }
    eventually("the last is UP", || a.state("db19:1"), |s| s == "UP/OK").await;

    zookeeper.process.signal(Signal::SIGSTOP);
    a.process.signal(Signal::SIGTERM);
    let mut client = HealthClient::new(channel.clone());
    let mut served = async || {
        let request = HealthCheckRequest::default();
        client
            .check(request)
            .await
            .map(|answer| answer.into_inner().status())
    };
    let limit = Instant::now() + Duration::from_secs(3);
    while served().await.unwrap() != ServingStatus::NotServing {
        assert!(Instant::now() < limit, "still SERVING");
    }
    let (Ok(ready) | Err(ready)) = http_get(a.http.number, "/readyz");
    assert!(ready.contains("shutting down"), "{ready}");
    for stream in &mut streams {
        let mut last = None;
        while let Ok(Some(answer)) = stream.message().await {
            last = answer.message;
        }
        assert!(
            matches!(last, Some(v1::report_status_response::Message::Drain(_))),
            "{last:?}"
        );
    }
    // Nobody new gets in.
    let late = tokio_stream::iter([message(1, hello("late", 1))]).chain(tokio_stream::pending());
    let refused = AgentServiceClient::new(channel).report_status(late).await;
    assert_eq!(refused.unwrap_err().code(), tonic::Code::Unavailable);

    zookeeper.process.signal(Signal::SIGCONT);
    assert_eq!(a.process.ends_within(Duration::from_secs(15)).code(), Some(0));
    let log = a.process.log();
    let steps = [
        "leadership is handed over, and agents' streams are drained",
        "the gRPC port closes",
    ];
    let places: Vec<_> = steps.iter().map(|step| log.find(step).expect(step)).collect();
    assert!(places.is_sorted(), "{log}");
}

/// Standard error is a pipe that is full, as when the log daemon hangs.
#[tokio::test]
async fn a_log_that_nobody_reads_holds_nothing_up() {
    let sandbox = Sandbox::new();
    let log = sandbox.path("collector-a.log");
    let made = std::process::Command::new("mkfifo").arg(&log).status();
    assert!(made.unwrap().success());
    // Nobody reads from it; it keeps the pipe open, and tells whether something fits in.
    let pipe = File::options().read(true).write(true).open(&log).unwrap();
    // As small as the kernel allows, and a library that says what it does with each frame.
    fcntl(&pipe, FcntlArg::F_SETPIPE_SZ(4_096)).unwrap();
    let filter = "standalone = true\nsilent_after = \"60s\"\n[log]\nfilter = \"info,h2=trace\"\n";
    let mut a = sandbox.collector_with("a", filter).await;
    std::fs::remove_file(&log).unwrap();

    let instances = (1..=1_000).map(|n| report("db01", n, v1::Reason::Ok));
    let instances: Vec<_> = instances.collect();
    let _answers = a.hear("db01", &instances).await;

    let up = || async { a.metric("redkeeper_instances{state=\"UP\",reason=\"OK\"}") };
    eventually("all are UP", up, |n| *n == Some(1_000.0)).await;
    let full = || {
        let mut asked = [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)];
        std::future::ready(poll(&mut asked, PollTimeout::ZERO) == Ok(0))
    };
    eventually("the pipe is full", full, |full| *full).await;
    assert_eq!(a.state("db01:1000").await, "UP/OK");
    assert_eq!(a.metric("redkeeper_log_lines_lost_total"), Some(0.0));
    a.process.signal(Signal::SIGTERM);
    let status = a.process.ends_within(Duration::from_secs(10));
    assert_eq!(status.code(), Some(0));
}
