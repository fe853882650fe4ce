//! One message of each kind, with every field set.

use redkeeper_proto::{
    Duration, Timestamp,
    v1::{self, report_status_request::Message as Request, report_status_response::Message as Answer},
};

use crate::Golden;

fn duration(seconds: i64, nanos: i32) -> Option<Duration> {
    Some(Duration { seconds, nanos })
}

fn time(seconds: i64) -> Option<Timestamp> {
    let nanos = 120_000_000;
    Some(Timestamp { seconds, nanos })
}

fn verdict() -> v1::Verdict {
    v1::Verdict {
        state: v1::InstanceState::Degraded.into(),
        reason: v1::Reason::Loading.into(),
        stage: v1::Stage::Reply.into(),
        reads: v1::Ability::No.into(),
        writes: v1::Ability::No.into(),
        role: v1::Role::Replica.into(),
        run_id: "1b671a64c0a94f6d9f1a9d1b3c7f0e5a2d4c6b8f".to_owned(),
        server_version: "7.4.1".to_owned(),
        master_address: "10.0.0.2:6379".to_owned(),
        evidence: "-LOADING Redis is loading the dataset in memory".to_owned(),
        since_time: time(1_763_878_282),
        restarts: 3,
        certificate_end_time: time(1_795_000_000),
        flapping: true,
        ..Default::default()
    }
}

fn report() -> v1::InstanceReport {
    v1::InstanceReport {
        handle: 7,
        id: "db01:6379".to_owned(),
        cluster: "orders".to_owned(),
        address: "10.0.0.1:6379".to_owned(),
        labels: [("rack".to_owned(), "r1".to_owned())].into(),
        verdict: Some(verdict()),
        probe_age: duration(0, 250_000_000),
        freshness_limit: duration(4, 500_000_000),
        ..Default::default()
    }
}

pub(crate) fn instance() -> v1::Instance {
    v1::Instance {
        id: "db01:6379".to_owned(),
        cluster: "orders".to_owned(),
        address: "10.0.0.1:6379".to_owned(),
        labels: [("rack".to_owned(), "r1".to_owned())].into(),
        agent_id: "db01".to_owned(),
        verdict: Some(verdict()),
        revision: 1 << 40,
        probe_age: duration(1, 0),
        ..Default::default()
    }
}

fn header() -> Option<v1::ResponseHeader> {
    Some(v1::ResponseHeader {
        served_by: "a".to_owned(),
        leader: "b".to_owned(),
        epoch: 42,
        revision: 1 << 41,
        data_age: duration(0, 5_000_000),
        ..Default::default()
    })
}

fn filter() -> Option<v1::InstanceFilter> {
    Some(v1::InstanceFilter {
        states: vec![v1::InstanceState::Down.into(), v1::InstanceState::Unknown.into()],
        reasons: vec![v1::Reason::AgentSilent.into()],
        clusters: vec!["orders".to_owned()],
        agent_ids: vec!["db01".to_owned()],
        ..Default::default()
    })
}

/// Does the same with each message of an agent's stream.
fn each_of_agents(with: &mut impl FnMut(&str, &dyn Golden)) {
    let request = |message| v1::ReportStatusRequest {
        sequence: 300,
        message: Some(message),
    };
    let hello = v1::Hello {
        agent_id: "db01".to_owned(),
        boot_id: "0123456789abcdef0123456789abcdef".to_owned(),
        version: "0.1.0".to_owned(),
        host: "db01.example".to_owned(),
        ..Default::default()
    };
    with("agent-hello", &request(Request::Hello(hello)));
    let instances = vec![report()];
    let snapshot = v1::Snapshot {
        instances: instances.clone(),
        last: true,
        ..Default::default()
    };
    with("agent-snapshot", &request(Request::Snapshot(snapshot)));
    with(
        "agent-changes",
        &request(Request::Changes(v1::Changes { instances })),
    );
    let heartbeat = v1::Heartbeat {
        handles: vec![1, 300],
        probe_ages_ms: vec![0, 70_000],
        ..Default::default()
    };
    with("agent-heartbeat", &request(Request::Heartbeat(heartbeat)));
    let gone = v1::Gone {
        handles: vec![1, 300],
    };
    with("agent-gone", &request(Request::Gone(gone)));
    let answer = |message| v1::ReportStatusResponse {
        message: Some(message),
    };
    let welcome = v1::Welcome {
        collector_id: "a".to_owned(),
        heartbeat_interval: duration(1, 0),
        silent_after: duration(3, 0),
        max_message_bytes: 262_144,
        max_instances: 5_000,
        ..Default::default()
    };
    with("collector-welcome", &answer(Answer::Welcome(welcome)));
    with("collector-ack", &answer(Answer::Ack(v1::Ack { sequence: 300 })));
    let drain = v1::Drain {
        reason: "shutting down".to_owned(),
        reconnect_after: duration(0, 100_000_000),
        ..Default::default()
    };
    with("collector-drain", &answer(Answer::Drain(drain)));
}

/// Does the same with each message of the tools.
fn each_of_tools(with: &mut impl FnMut(&str, &dyn Golden)) {
    let list = v1::ListInstancesRequest {
        page_size: 1_000,
        page_token: "db00:6379".to_owned(),
        filter: filter(),
    };
    with("list-request", &list);
    let listed = v1::ListInstancesResponse {
        instances: vec![instance()],
        next_page_token: "db01:6379".to_owned(),
        header: header(),
        total_size: 1_000_000,
    };
    with("list-response", &listed);
    let watch = v1::WatchInstancesRequest {
        filter: filter(),
        resume_token: "0123-77".to_owned(),
    };
    with("watch-request", &watch);
    let transition = v1::Transition {
        revision: 78,
        instance: Some(instance()),
        previous_state: v1::InstanceState::Up.into(),
        previous_reason: v1::Reason::Ok.into(),
        removed: true,
        time: time(1_763_878_283),
        left_filter: true,
        ..Default::default()
    };
    use v1::watch_instances_response::Event;
    let watched = |event| v1::WatchInstancesResponse {
        event: Some(event),
        resume_token: "0123-78".to_owned(),
    };
    with("watch-instance", &watched(Event::Instance(instance())));
    with("watch-change", &watched(Event::Change(transition)));
    let end = v1::SnapshotEnd {
        header: header(),
        count: 9,
        ..Default::default()
    };
    with("watch-snapshot-end", &watched(Event::SnapshotEnd(end)));
    let progress = v1::Progress { header: header() };
    with("watch-progress", &watched(Event::Progress(progress)));
    let rows = vec![v1::SummaryRow {
        state: v1::InstanceState::Up.into(),
        reason: v1::Reason::Ok.into(),
        cluster: "orders".to_owned(),
        agent_id: "db01".to_owned(),
        count: 12,
        ..Default::default()
    }];
    let header = header();
    with(
        "summary-response",
        &v1::SummarizeInstancesResponse { header, rows },
    );
}

/// Does the same with what is told of collectors and agents.
fn each_of_cluster(with: &mut impl FnMut(&str, &dyn Golden)) {
    let store = v1::StoreStatus {
        session: v1::store_status::Session::Suspended.into(),
        phase: "suspended".to_owned(),
        pending: 5,
        last_error: "connection lost".to_owned(),
        ..Default::default()
    };
    let member = v1::Member {
        id: "a".to_owned(),
        address: "a.example:7400".to_owned(),
        leader: true,
        version: "0.1.0".to_owned(),
        ..Default::default()
    };
    let cluster = v1::GetClusterStatusResponse {
        header: header(),
        members: vec![member],
        store: Some(store),
        agents_heard: 1,
        agents_silent: 2,
        up: 3,
        degraded: 4,
        down: 5,
        unknown: 6,
        ..Default::default()
    };
    with("cluster-response", &cluster);
    let agent = v1::Agent {
        id: "db01".to_owned(),
        boot_id: "0123456789abcdef0123456789abcdef".to_owned(),
        version: "0.1.0".to_owned(),
        host: "db01.example".to_owned(),
        silent: true,
        heard_age: duration(9, 0),
        sequence: 300,
        instances: 7,
        connected_time: time(1_763_800_000),
        ..Default::default()
    };
    let agents = v1::ListAgentsResponse {
        agents: vec![agent],
        next_page_token: "db01".to_owned(),
        header: header(),
    };
    with("agents-response", &agents);
}

/// Does the same with each message.
pub(crate) fn each_of_0_1_0(mut with: impl FnMut(&str, &dyn Golden)) {
    each_of_agents(&mut with);
    each_of_tools(&mut with);
    each_of_cluster(&mut with);
}
