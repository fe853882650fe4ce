//! The two failures of the old daemon: a worker that dies silently, and workers that leak.
#![allow(clippy::unwrap_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;
use redkeeper_proto::v1::{
    self, ReportStatusRequest, ReportStatusResponse,
    agent_service_server::{AgentService, AgentServiceServer},
    report_status_response::Message,
};
use redkeeper_tests::{
    Sandbox,
    daemons::{self, Usage},
    eventually, long, ports, servers,
};
use tonic::{Request, Response, Status, Streaming};

#[tokio::test]
async fn a_worker_that_panics_or_blocks_is_replaced_and_its_instance_stays_true() {
    let sandbox = Sandbox::new();
    let (mut first, second) = (sandbox.redis().await, sandbox.redis().await);
    let a = sandbox.collector("a", None).await;
    let agent = sandbox
        .agent("db01", &[first.port.number, second.port.number], &[&a])
        .await;
    let ids = [first.port.number, second.port.number].map(|port| format!("db01:{port}"));
    for id in &ids {
        eventually("UP", || a.state(id), |s| s == "UP/OK").await;
    }
    let before = a.instance(&ids[1]).await.unwrap().revision;
    let rounds = if long() { 50 } else { 1 };
    let faults = [("panic", "ended"), ("block", "made no progress")];
    for (round, (what, why)) in (1..=rounds).flat_map(|round| faults.map(|fault| (f64::from(round), fault))) {
        agent.hook(what, &ids[0]);
        let line = format!("redkeeper_workers_replaced_total{{why=\"{why}\"}}");
        eventually(
            "replaced and counted",
            || async { agent.metric(&line) },
            |n| *n == Some(round),
        )
        .await;
        // The replacement works: the instance's death is seen.
        first.process.kill();
        eventually("DOWN", || a.state(&ids[0]), |s| s == "DOWN/CONNECTION_REFUSED").await;
        sandbox.restart(&mut first).await;
        eventually("UP", || a.state(&ids[0]), |s| s == "UP/OK").await;
    }
    let page = daemons::http_get(agent.admin.number, "/debug/tasks").unwrap();
    let row = |kind: &str| {
        page.lines()
            .find(|line| line.starts_with(kind))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert!(row("probe-worker").starts_with("probe-worker 2 2 "), "{page}");
    assert!(
        page.contains("probe-worker        panicked") && page.contains("probe-worker        aborted"),
        "{page}"
    );
    assert_eq!(agent.metric("redkeeper_panics_total"), Some(f64::from(rounds)));
    assert_eq!(a.metric("redkeeper_panics_total"), Some(0.0));
    let other = a.instance(&ids[1]).await.unwrap();
    assert_eq!(other.revision, before, "the other instance was never touched");
}

/// Nothing replaces a worker that takes the only thread with it. Then nothing is told that is not true, and the process
/// ends, so that it is started anew.
#[tokio::test]
async fn a_worker_that_takes_the_thread_ends_the_agent() {
    let sandbox = Sandbox::new();
    let (_redis, a, mut agent, id) = sandbox.reported_redis(None).await;
    agent.hook("spin", &id);
    eventually("not known", || a.state(&id), |s| s == "UNKNOWN/AGENT_SILENT").await;
    let live = || async { daemons::http_get(agent.admin.number, "/livez").unwrap_or_default() };
    eventually("told", live, |page| page.contains("has not run for")).await;
    let status = agent.process.ends_within(Duration::from_secs(30));
    assert_eq!(status.code(), Some(1));
    let log = agent.process.log();
    assert!(log.contains("some task blocks its thread; exiting"), "{log}");
    sandbox.restart_agent(&mut agent);
    eventually("UP again", || a.state(&id), |s| s == "UP/OK").await;
    assert_eq!(
        a.metric("redkeeper_transitions_total{reason=\"REPLY_TIMEOUT\"}"),
        None
    );
}

#[tokio::test]
async fn rounds_against_dead_and_hung_instances_leave_nothing_behind() {
    let sandbox = Sandbox::new();
    let (mut flapping, hung, good) = (
        sandbox.redis().await,
        sandbox.redis().await,
        sandbox.redis().await,
    );
    let nobody = ports::port();
    let a = sandbox.collector("a", None).await;
    let ports = [
        flapping.port.number,
        hung.port.number,
        good.port.number,
        nobody.number,
    ];
    let agent = sandbox
        .agent_every(Duration::from_millis(10), "db01", &ports, &[a.grpc.number])
        .await;
    let state = async |redis: &servers::Redis| a.state(&format!("db01:{}", redis.port.number)).await;
    for redis in [&flapping, &hung, &good] {
        eventually("UP", || state(redis), |s| s == "UP/OK").await;
    }
    let rounds = || agent.metric("redkeeper_probe_rounds_total").unwrap();
    // Baseline after a warm-up, then 10,000 rounds with a flapping, a hung and a dead instance.
    hung.process.signal(Signal::SIGSTOP);
    eventually("hung", || state(&hung), |s| s == "DOWN/REPLY_TIMEOUT").await;
    let (tasks, usage) = (agent.tasks().unwrap(), Usage::of(&agent.process));
    let start = rounds();
    while rounds() < start + 10_000.0 {
        flapping.process.kill();
        eventually("flaps down", || state(&flapping), |s| s.starts_with("DOWN")).await;
        sandbox.restart(&mut flapping).await;
        eventually("flaps up", || state(&flapping), |s| s == "UP/OK").await;
    }
    eventually("tasks back", || async { agent.tasks().unwrap() }, |n| *n <= tasks).await;
    usage.check(&agent.process, 1024 * 1024, "10,000 rounds").await;
    hung.process.signal(Signal::SIGCONT);
    eventually("continued", || state(&hung), |s| s == "UP/OK").await;
}

/// A collector that welcomes each stream and asks at once to reconnect.
#[derive(Clone, Default)]
struct Turnstile {
    streams: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl AgentService for Turnstile {
    type ReportStatusStream = tokio_stream::Iter<std::vec::IntoIter<Result<ReportStatusResponse, Status>>>;

    async fn report_status(
        &self,
        mut request: Request<Streaming<ReportStatusRequest>>,
    ) -> Result<Response<Self::ReportStatusStream>, Status> {
        request.get_mut().message().await?;
        self.streams.fetch_add(1, Ordering::Relaxed);
        let span = |nanos| Some(redkeeper_proto::Duration { seconds: 0, nanos });
        let welcome = v1::Welcome {
            heartbeat_interval: span(100_000_000),
            silent_after: span(300_000_000),
            ..Default::default()
        };
        let drain = v1::Drain {
            reason: "test".to_owned(),
            reconnect_after: span(1_000_000),
        };
        let answers = [Message::Welcome(welcome), Message::Drain(drain)];
        let answers: Vec<_> = answers
            .into_iter()
            .map(|m| Ok(ReportStatusResponse { message: Some(m) }))
            .collect();
        Ok(Response::new(tokio_stream::iter(answers)))
    }
}

#[tokio::test]
async fn reconnections_leave_nothing_behind_in_the_agent() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    // An agent pauses for up to 100 ms between streams, so it reports to several collectors.
    let ports = [(); 8].map(|()| ports::port());
    let turnstile = Turnstile::default();
    for port in &ports {
        let service = AgentServiceServer::new(turnstile.clone());
        let address = ([127, 0, 0, 1], port.number).into();
        #[allow(clippy::disallowed_methods)] // Ends with the test's runtime.
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve(address),
        );
    }
    let collectors = ports.each_ref().map(|port| port.number);
    let agent = sandbox
        .agent_every(
            Duration::from_millis(100),
            "db01",
            &[redis.port.number],
            &collectors,
        )
        .await;
    let streams = || async { turnstile.streams.load(Ordering::Relaxed) };
    eventually("warm", streams, |n| *n >= 100).await;
    let (tasks, usage) = (agent.tasks().unwrap(), Usage::of(&agent.process));
    eventually("1,000 more", streams, |n| *n >= 1_100).await;
    // A stream is always coming or going here: as many as one more of each may be seen.
    eventually("tasks", || async { agent.tasks().unwrap() }, |n| *n <= tasks).await;
    let most = 2 * 1024 * 1024;
    usage.check(&agent.process, most, "1,000 reconnections").await;
}
