//! Watch streams: the snapshot, changes, and resumption.

use futures_util::StreamExt;
use redkeeper_proto::v1::watch_instances_response::Event;

use super::*;

async fn watch(rig: &Rig, states: &[v1::InstanceState], token: &str) -> Result<WatchStream, Status> {
    let filter = v1::InstanceFilter {
        states: states.iter().map(|state| *state as i32).collect(),
        ..Default::default()
    };
    let request = v1::WatchInstancesRequest {
        filter: Some(filter),
        resume_token: token.to_owned(),
    };
    let answer = rig.queries.watch_instances(Request::new(request)).await;
    answer.map(Response::into_inner)
}

async fn next(stream: &mut WatchStream) -> Result<(Event, String), Status> {
    let next = timeout(LIMIT, stream.next()).await.expect("no answer");
    let answer = next.expect("the end")?;
    Ok((answer.event.unwrap(), answer.resume_token))
}

async fn change(stream: &mut WatchStream) -> (v1::Transition, String) {
    match next(stream).await.unwrap() {
        (Event::Change(change), token) => (change, token),
        other => panic!("{other:?}"),
    }
}

/// A watcher of the instances that are up, after its snapshot.
async fn watcher(rig: &Rig, snapshot: usize) -> (WatchStream, String) {
    let mut stream = watch(rig, &[v1::InstanceState::Up], "").await.unwrap();
    for _ in 0..snapshot {
        let (event, token) = next(&mut stream).await.unwrap();
        assert!(
            matches!(event, Event::Instance(_)) && token.is_empty(),
            "{event:?}"
        );
    }
    match next(&mut stream).await.unwrap() {
        (Event::SnapshotEnd(end), token) => {
            assert_eq!(usize::try_from(end.count), Ok(snapshot));
            (stream, token)
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_gets_what_matches_and_then_each_change_that_concerns_it() {
    let mut rig = Rig::with_instances(2);
    rig.put(&known("down", "", "db", Reason::ConnectionRefused));
    let (mut stream, token) = watcher(&rig, 2).await;
    assert_eq!(token, "boot-3");
    assert_eq!(rig.queries.metrics.watchers.get(), 1);
    rig.put(&known("down", "", "db", Reason::ProcessGone));
    rig.put(&known("i0000", "", "db", Reason::Loading));
    rig.remove("i0001");
    rig.put(&known("down", "", "db", Reason::Ok));
    let (left, token) = change(&mut stream).await;
    assert_eq!((left.revision, left.left_filter, left.removed), (5, true, false));
    assert_eq!(token, "boot-5");
    let (gone, _) = change(&mut stream).await;
    assert_eq!((gone.revision, gone.left_filter, gone.removed), (6, false, true));
    let (came, _) = change(&mut stream).await;
    assert_eq!((came.revision, came.left_filter, came.removed), (7, false, false));
    drop(stream);
    assert_eq!(rig.queries.metrics.watchers.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_watcher_is_told_every_five_seconds_that_it_misses_nothing() {
    let rig = Rig::with_instances(1);
    let (mut stream, _) = watcher(&rig, 1).await;
    let start = tokio::time::Instant::now();
    for n in 1..=2 {
        let (event, token) = next(&mut stream).await.unwrap();
        assert!(matches!(event, Event::Progress(_)), "{event:?}");
        assert_eq!((token.as_str(), start.elapsed().as_secs()), ("boot-1", n * 5));
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_resumes_after_what_it_has_seen() {
    let mut rig = Rig::with_instances(3);
    let mut stream = watch(&rig, &[], "boot-2").await.unwrap();
    assert_eq!(change(&mut stream).await.0.revision, 3);
    rig.put(&known("i9", "", "db", Reason::Ok));
    assert_eq!(change(&mut stream).await.0.revision, 4);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_whose_changes_are_no_longer_kept_must_begin_again() {
    let mut rig = Rig::with_instances(3);
    rig.view.log = ChangeLog::default();
    rig.publish();
    let compacted = (Code::OutOfRange, "REVISION_COMPACTED".to_owned());
    // No longer kept, not yet reached, and of another process.
    for token in ["boot-2", "boot-4"] {
        let mut stream = watch(&rig, &[], token).await.unwrap();
        assert_eq!(told(next(&mut stream).await), compacted, "{token}");
        assert!(stream.next().await.is_none());
    }
    for token in ["other-3", "boot-x", "boot-"] {
        let refused = watch(&rig, &[], token).await.map(drop);
        assert_eq!(told(refused), compacted, "{token}");
    }
    assert_eq!(told(watch(&rig, &[], "nonsense").await.map(drop)), invalid());
    assert_eq!(rig.queries.metrics.watch_lagged.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn watch_streams_end_when_the_collector_stops_or_its_aggregator_is_gone() {
    let ends = (Code::Unavailable, "SHUTTING_DOWN".to_owned());
    let rig = Rig::with_instances(1);
    let (mut stream, _) = watcher(&rig, 1).await;
    rig.queries.supervisor.stop().cancel();
    assert_eq!(told(next(&mut stream).await), ends);
    assert!(stream.next().await.is_none());

    let Rig {
        queries, publisher, ..
    } = Rig::new();
    let mut stream = WatchStream::new(&queries, Filter::default(), Some(Revision(0)), String::new());
    drop(publisher);
    assert_eq!(told(next(&mut stream).await), ends);
}
