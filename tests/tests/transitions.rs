//! What counts as a transition, since when a state lasts, and whose clock says so.
#![allow(clippy::unwrap_used)]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redkeeper_proto::v1::{
    self, Changes, Heartbeat, ListAgentsRequest, ListTransitionsRequest, Snapshot,
    agent_service_client::AgentServiceClient, report_status_request::Message,
};
use redkeeper_tests::{
    Sandbox,
    daemons::Collector,
    eventually,
    fake_agent::{message, report},
    history, holds_for,
    servers::Flavour,
    txnlog,
};
use tokio_stream::StreamExt;

async fn agents(a: &Collector) -> Vec<v1::Agent> {
    let answer = a.client().await.list_agents(ListAgentsRequest::default()).await;
    answer.unwrap().into_inner().agents
}

async fn transitions(a: &Collector, id: &str) -> Vec<v1::Transition> {
    let request = ListTransitionsRequest {
        instance_id: id.to_owned(),
        ..Default::default()
    };
    let answer = a.client().await.list_transitions(request).await;
    answer.unwrap().into_inner().transitions
}

#[tokio::test]
async fn a_restart_of_the_agent_is_no_transition_and_moves_no_time() {
    let sandbox = Sandbox::new();
    let zookeeper = sandbox.zookeeper().await;
    let (_redis, a, mut agent, id) = sandbox.reported_redis(Some(&zookeeper)).await;
    let first = a.instance(&id).await.unwrap().verdict.unwrap();
    let seen = transitions(&a, &id).await.len();
    let boot = agents(&a).await[0].boot_id.clone();

    sandbox.restart_agent(&mut agent);
    let other_boot = |agents: &Vec<v1::Agent>| agents[0].boot_id != boot;
    eventually("the new agent is heard", || agents(&a), other_boot).await;
    // Its own first verdict comes within some PINGs.
    let rounds = || async { agent.metric("redkeeper_probe_rounds_total") };
    eventually("it probes", rounds, |n| n.is_some_and(|n| n > 10.0)).await;
    let now = a.instance(&id).await.unwrap().verdict.unwrap();
    assert_eq!((now.since_time, now.restarts), (first.since_time, first.restarts));
    let told = transitions(&a, &id).await;
    assert_eq!(told.len(), seen, "{told:#?}");

    // What is published says the same, though the collector is restarted too.
    let published = || {
        let txns = txnlog::read(&zookeeper.data);
        let of_id = history::status_writes(&txns).filter(|(_, name, _)| *name == id);
        of_id.map(|(_, _, op)| op.json()).last().unwrap()
    };
    let since = first.since_time.unwrap();
    let since = UNIX_EPOCH + Duration::new(since.seconds.unsigned_abs(), since.nanos.unsigned_abs());
    let wanted = humantime::format_rfc3339_millis(since).to_string();
    assert_eq!(published()["since"], wanted.as_str());
}

/// A server that loads tells how far it is, each second.
#[tokio::test]
async fn progress_of_loading_is_told_but_is_no_transition() {
    let sandbox = Sandbox::new();
    let often = "--loading-process-events-interval-bytes";
    let slow = ["--key-load-delay", "3000", often, "1024"];
    let mut redis = sandbox.server(Flavour::Redis70, &[]);
    eventually("Redis answers", || async { redis.ask("PING").is_ok() }, |is| *is).await;
    let keys: String = (0..3_000).map(|n| format!("SET key{n} value\r\n")).collect();
    redis.ask(&format!("{keys}SAVE")).unwrap();
    sandbox.restart_server(&mut redis, Flavour::Redis70, &slow);
    let a = sandbox.collector("a", None).await;
    let _agent = sandbox.agent("db01", &[redis.port.number], &[&a]).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("LOADING", || a.state(&id), |s| s == "DEGRADED/LOADING").await;
    let seen = RefCell::new(BTreeSet::new());
    let evidence = || async { a.instance(&id).await.unwrap().verdict.unwrap().evidence };
    let fourth = |evidence: &String| {
        let mut seen = seen.borrow_mut();
        seen.insert(evidence.clone());
        seen.len() >= 4
    };
    eventually("evidence changed three times", evidence, fourth).await;
    let loading = transitions(&a, &id).await;
    let loading: Vec<_> = loading
        .iter()
        .filter(|t| t.instance.as_ref().unwrap().verdict.as_ref().unwrap().reason() == v1::Reason::Loading)
        .map(|t| {
            (
                t.previous_reason(),
                t.instance.as_ref().unwrap().verdict.as_ref().unwrap().role(),
            )
        })
        .collect();
    assert!(
        loading.len() <= 2,
        "one, and one when the role becomes known: {loading:?}"
    );
    let counted = a.metric("redkeeper_transitions_total{reason=\"LOADING\"}");
    assert_eq!(counted, Some(loading.len() as f64));
}

fn wall(offset: i64) -> Option<pbjson_types::Timestamp> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Some(pbjson_types::Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap() + offset,
        nanos: 0,
    })
}

#[tokio::test]
async fn clocks_that_are_off_are_corrected_and_said() {
    let sandbox = Sandbox::new();
    // These agents send no heartbeats after the first, and the machine may be slow.
    let patient = "standalone = true\nheartbeat_interval = \"1s\"\nsilent_after = \"60s\"\n";
    let a = sandbox.collector_with("a", patient).await;
    for (n, (name, offset, word)) in [
        ("fast", 3_600, "1h0m ahead"),
        ("slow", -400 * 86_400, "400d0h behind"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut up = report(name, 1, v1::Reason::Ok);
        let verdict = up.verdict.as_mut().unwrap();
        // Ten seconds ago.
        verdict.since_time = wall(offset - 10);
        let hello = Message::Hello(v1::Hello {
            agent_id: name.to_owned(),
            boot_id: format!("{n:032x}"),
            agent_time: wall(offset),
            ..Default::default()
        });
        let messages = [
            hello,
            Message::Snapshot(Snapshot {
                instances: vec![up.clone()],
                last: true,
            }),
            Message::Heartbeat(Heartbeat {
                handles: vec![1],
                probe_ages_ms: vec![0],
                agent_time: wall(offset),
            }),
            // Said again, with the same time.
            Message::Changes(Changes { instances: vec![up] }),
        ];
        let messages: Vec<_> = (1..).zip(messages).map(|(n, m)| message(n, m)).collect();
        let stream = tokio_stream::iter(messages).chain(tokio_stream::pending());
        let mut client = AgentServiceClient::new(a.channel().await.unwrap());
        let _answers = client.report_status(stream).await.unwrap();
        let id = format!("{name}:1");
        eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
        let age = || async {
            let instance = a.instance(&id).await.unwrap();
            instance.state_age.map(|age| age.seconds)
        };
        assert!(matches!(age().await, Some(9..=15)), "{:?}", age().await);
        let mut redkeeper = sandbox.command("redkeeper");
        redkeeper.args(["--endpoints", &format!("127.0.0.1:{}", a.grpc.number), "agents"]);
        let output = redkeeper.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            text.contains(word),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(a.process.log().contains("clock is"), "{}", a.process.log());
        holds_for(
            "UP",
            Duration::from_millis(300),
            || a.state(&id),
            |s| s == "UP/OK",
        )
        .await;
    }
    assert_eq!(a.metric("redkeeper_agents_clock_off"), Some(2.0));
}
