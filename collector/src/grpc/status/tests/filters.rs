//! Filters: which instances and changes they take, and what they refuse.

use redkeeper_core::status::State;

use super::*;
use crate::grpc::status::filter::Seen;

fn filter(wire: v1::InstanceFilter) -> Filter {
    Filter::new(Some(wire)).unwrap()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn refused(wire: v1::InstanceFilter) -> String {
    match Filter::new(Some(wire)) {
        Err(Failure::InvalidArgument(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn an_instance_must_match_one_value_of_each_field_that_is_set() {
    let status = known("i1", "blue", "db", Reason::Loading);
    let loading = v1::Reason::Loading as i32;
    let (degraded, up) = (v1::InstanceState::Degraded as i32, v1::InstanceState::Up as i32);
    let wire = |states: &[i32], reasons: &[i32], clusters: &[&str], agents: &[&str]| v1::InstanceFilter {
        states: states.to_vec(),
        reasons: reasons.to_vec(),
        clusters: names(clusters),
        agent_ids: names(agents),
    };
    for (wire, matches) in [
        (wire(&[], &[], &[], &[]), true),
        (
            wire(&[up, degraded], &[loading], &["", "blue"], &["x", "db"]),
            true,
        ),
        (wire(&[up], &[loading], &["blue"], &["db"]), false),
        (wire(&[degraded], &[loading + 1], &["blue"], &["db"]), false),
        (wire(&[degraded], &[loading], &["", "red"], &["db"]), false),
        (wire(&[degraded], &[loading], &["blue"], &["d"]), false),
    ] {
        let text = format!("{wire:?}");
        assert_eq!(filter(wire).matches(&status), matches, "{text}");
    }
    let without_cluster = known("i2", "", "db", Reason::Loading);
    assert!(filter(wire(&[], &[], &[""], &[])).matches(&without_cluster));
    assert!(!filter(wire(&[], &[], &["blue"], &[])).matches(&without_cluster));
}

/// Tools may be newer than the collector.
#[test]
fn a_reason_that_this_version_does_not_know_is_filtered_by_its_number() {
    let newer = known("i1", "", "db", Reason::Unrecognized(4_711, State::Down));
    let asks = |reason| {
        let reasons = vec![reason];
        filter(v1::InstanceFilter {
            reasons,
            ..Default::default()
        })
    };
    assert!(asks(4_711).matches(&newer));
    assert!(!asks(4_712).matches(&newer));
    let down = filter(v1::InstanceFilter {
        states: vec![v1::InstanceState::Down as i32],
        ..Default::default()
    });
    assert!(down.matches(&newer));
}

#[test]
fn what_cannot_match_anything_is_refused_with_its_field() {
    for states in [vec![0], vec![1, 99]] {
        let text = refused(v1::InstanceFilter {
            states,
            ..Default::default()
        });
        assert!(text.starts_with("filter.states: "), "{text}");
    }
    for reasons in [vec![0], vec![-1]] {
        let text = refused(v1::InstanceFilter {
            reasons,
            ..Default::default()
        });
        assert!(text.starts_with("filter.reasons: "), "{text}");
    }
    let text = refused(v1::InstanceFilter {
        clusters: names(&["blue", "a/b"]),
        ..Default::default()
    });
    assert!(text.starts_with("filter.clusters: \"a/b\" "), "{text}");
}

#[test]
fn a_change_concerns_a_filter_that_it_enters_stays_in_or_leaves() {
    let wanted = filter(v1::InstanceFilter {
        states: vec![v1::InstanceState::Down as i32],
        ..Default::default()
    });
    let status = |reason: Option<Reason>| reason.map(|reason| known("i1", "", "db", reason));
    let (up, down) = (Some(Reason::Ok), Some(Reason::ConnectionRefused));
    for (previous, now, removed, seen) in [
        (None, down, false, Some(Seen::Matches)),
        (up, down, false, Some(Seen::Matches)),
        (down, down, false, Some(Seen::Matches)),
        (down, up, false, Some(Seen::Left)),
        (down, down, true, Some(Seen::Left)),
        (None, up, false, None),
        (up, up, true, None),
    ] {
        let change = Change {
            revision: Revision(1),
            status: status(now).unwrap(),
            origin: Origin::default(),
            previous: status(previous),
            removed,
            time: WallMs(0),
        };
        assert_eq!(wanted.concerns(&change), seen, "{previous:?} {now:?} {removed}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_query_with_a_filter_refuses_a_wrong_one() {
    let rig = Rig::with_instances(1);
    let wrong = || {
        Some(v1::InstanceFilter {
            states: vec![99],
            ..Default::default()
        })
    };
    let list = v1::ListInstancesRequest {
        filter: wrong(),
        ..Default::default()
    };
    assert_eq!(
        told(rig.queries.list_instances(Request::new(list)).await),
        invalid()
    );
    let summary = v1::SummarizeInstancesRequest { filter: wrong() };
    let answer = rig.queries.summarize_instances(Request::new(summary)).await;
    assert_eq!(told(answer), invalid());
    let watch = v1::WatchInstancesRequest {
        filter: wrong(),
        ..Default::default()
    };
    let answer = rig.queries.watch_instances(Request::new(watch)).await;
    assert_eq!(told(answer.map(drop)), invalid());
}
