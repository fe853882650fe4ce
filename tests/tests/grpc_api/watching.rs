//! What a watcher is told: a snapshot, then each change that its filter lets through, and each with which an instance
//! leaves the filter.

use redkeeper_proto::v1::{
    Gone, InstanceFilter, InstanceState, Reason, Transition, WatchInstancesRequest, WatchInstancesResponse,
    report_status_request::Message, watch_instances_response::Event,
};
use redkeeper_tests::{Sandbox, wait};
use tonic::Streaming;

use crate::{Client, FLEET, PATIENT, filters, fleet, number, soon};

type Watch = Streaming<WatchInstancesResponse>;

async fn watch(client: &mut Client, filter: &InstanceFilter, token: &str) -> Watch {
    let request = WatchInstancesRequest {
        filter: Some(filter.clone()),
        resume_token: token.to_owned(),
    };
    soon(client.watch_instances(request)).await.unwrap()
}

async fn message(stream: &mut Watch) -> WatchInstancesResponse {
    let message = tokio::time::timeout(wait::LIMIT, stream.message()).await;
    message.expect("in time").unwrap().expect("not the end")
}

/// The next message that is no mark of progress.
async fn next(stream: &mut Watch) -> WatchInstancesResponse {
    loop {
        let message = message(stream).await;
        if !matches!(message.event, Some(Event::Progress(_))) {
            return message;
        }
    }
}

/// What a change says: which instance, why it is as it is, and how it stands to the filter.
type Told = (u32, Reason, &'static str);

fn told(change: &Transition) -> Told {
    let instance = change.instance.as_ref().unwrap();
    let how = match (change.left_filter, change.removed) {
        (false, false) => "matches",
        (true, false) => "left",
        (false, true) => "removed",
        (true, true) => panic!("{change:?} is told twice"),
    };
    (number(instance), instance.verdict.as_ref().unwrap().reason(), how)
}

async fn change(stream: &mut Watch) -> (Told, String) {
    let message = next(stream).await;
    match &message.event {
        Some(Event::Change(change)) => (told(change), message.resume_token),
        _ => panic!("no change: {message:?}"),
    }
}

/// The snapshot, and the token with which a watch goes on after it.
async fn snapshot(stream: &mut Watch) -> (Vec<u32>, String) {
    let mut shown = Vec::new();
    loop {
        let message = next(stream).await;
        match message.event {
            Some(Event::Instance(instance)) => shown.push(number(&instance)),
            Some(Event::SnapshotEnd(end)) => {
                assert_eq!(end.count as usize, shown.len());
                return (shown, message.resume_token);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// What a filter means, said once more and otherwise.
fn matches(filter: &InstanceFilter, agent: &str, (cluster, reason): (&str, Reason)) -> bool {
    let state = match reason {
        Reason::Ok => InstanceState::Up,
        Reason::ConnectionRefused | Reason::ConnectionReset => InstanceState::Down,
        Reason::Loading => InstanceState::Degraded,
        Reason::AuthFailed => InstanceState::Unknown,
        other => panic!("{other:?} is not in this test"),
    };
    let name = |names: &[String], name: &str| names.is_empty() || names.iter().any(|n| n == name);
    let value = |values: &[i32], value: i32| values.is_empty() || values.contains(&value);
    value(&filter.states, state.into())
        && value(&filter.reasons, reason.into())
        && name(&filter.clusters, cluster)
        && name(&filter.agent_ids, agent)
}

/// Goes and comes by state and by reason, changes its cluster, stays what it was for most, is gone.
const CHANGES: &[(u32, Option<(&str, Reason)>)] = &[
    (1, Some(("red", Reason::ConnectionRefused))),
    (1, Some(("red", Reason::ConnectionReset))),
    (1, Some(("red", Reason::Ok))),
    (6, Some(("red", Reason::AuthFailed))),
    (6, Some(("red", Reason::Ok))),
    (2, None),
    (5, Some(("", Reason::Loading))),
    (3, Some(("blue", Reason::Ok))),
    (3, Some(("blue", Reason::Loading))),
    (4, Some(("green", Reason::ConnectionReset))),
];

/// What a watcher with this filter must be told of the changes.
fn expected(filter: &InstanceFilter) -> Vec<Told> {
    let mut fleet: std::collections::BTreeMap<_, _> = FLEET
        .iter()
        .map(|(agent, number, cluster, reason)| (*number, (*agent, (*cluster, *reason))))
        .collect();
    let mut expected = Vec::new();
    for (number, now) in CHANGES {
        let (agent, before) = fleet[number];
        let did = matches(filter, agent, before);
        match now {
            Some(now) => {
                fleet.insert(*number, (agent, *now));
                match (did, matches(filter, agent, *now)) {
                    (_, true) => expected.push((*number, now.1, "matches")),
                    (true, false) => expected.push((*number, now.1, "left")),
                    (false, false) => {}
                }
            }
            None if did => expected.push((*number, before.1, "removed")),
            None => {}
        }
    }
    expected
}

#[tokio::test]
async fn a_watcher_is_told_what_its_filter_lets_through_and_what_leaves_it() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector_with("a", PATIENT).await;
    let (mut h1, mut h2) = fleet(&a).await;
    let mut client = a.client().await;
    let mut watchers = Vec::new();
    for (filter, wanted) in filters() {
        let mut stream = watch(&mut client, &filter, "").await;
        let (shown, token) = snapshot(&mut stream).await;
        assert_eq!(shown, wanted, "{filter:?}");
        watchers.push((filter, stream, token));
    }
    for (number, now) in CHANGES {
        let agent = if *number < 5 { &mut h1 } else { &mut h2 };
        match now {
            Some((cluster, reason)) => agent.change(*number, cluster, *reason),
            None => agent.say(Message::Gone(Gone {
                handles: vec![*number],
            })),
        }
        // Two agents are heard in any order.
        crate::seen(&a, *number, now.map(|(_, reason)| reason)).await;
    }
    let mut told = 0;
    for (filter, stream, token) in &mut watchers {
        let expected = expected(filter);
        // One that resumes where the snapshot ended is told the same.
        let mut resumed = watch(&mut client, filter, token).await;
        for (n, wanted) in expected.iter().enumerate() {
            let (seen, token) = change(stream).await;
            assert_eq!(seen, *wanted, "{filter:?}");
            assert_eq!(change(&mut resumed).await, (seen, token.clone()), "{filter:?}");
            // And one that resumes in the middle, the rest.
            if let Some(second) = expected.get(n + 1).filter(|_| n % 3 == 0) {
                let mut later = watch(&mut client, filter, &token).await;
                assert_eq!(change(&mut later).await.0, *second, "{filter:?}");
            }
        }
        told += expected.len();
    }
    assert!(told > 40, "only {told} changes were told");
    // Nobody is told more than that: what comes next is that nothing is missed.
    for (filter, stream, _) in &mut watchers {
        let last = message(stream).await;
        assert!(
            matches!(last.event, Some(Event::Progress(_))),
            "{filter:?}: {last:?}"
        );
    }
}
