//! What a stream answers, and how it ends.

use super::*;

fn millis(start: TokioInstant) -> u128 {
    start.elapsed().as_millis()
}

fn ack(sequence: u64) -> Answer {
    Answer::Ack(v1::Ack { sequence })
}

#[tokio::test(start_paused = true)]
async fn one_acknowledgement_covers_the_messages_of_four_seconds() {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    let start = TokioInstant::now();
    for sequence in 2..=4 {
        agent.send(sequence, changes()).await;
        rig.message().await;
        sleep(Duration::from_secs(1)).await;
    }
    agent.handle.applied(Seq(4));
    assert_eq!(agent.answer().await, ack(4));
    assert!((4_000..4_010).contains(&millis(start)), "{}", millis(start));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_applied_is_not_acknowledged() {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    agent.send(2, changes()).await;
    agent.send(3, changes()).await;
    agent.handle.applied(Seq(2));
    assert_eq!(agent.answer().await, ack(2));
    let early = timeout(Duration::from_secs(1), agent.answers.message()).await;
    assert!(early.is_err(), "{early:?}");
    let start = TokioInstant::now();
    agent.handle.applied(Seq(3));
    assert_eq!(agent.answer().await, ack(3));
    assert!(millis(start) < 100, "{}", millis(start));
}

/// An agent stops at 64 messages that are not acknowledged.
#[tokio::test(start_paused = true)]
async fn half_of_what_an_agent_may_send_is_acknowledged_as_soon_as_it_is_applied() {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    let start = TokioInstant::now();
    for sequence in 2..=33 {
        agent.send(sequence, changes()).await;
        assert_eq!(rig.message().await.0, Seq(sequence));
    }
    agent.handle.applied(Seq(33));
    assert_eq!(agent.answer().await, ack(33));
    assert!(millis(start) < 100, "{}", millis(start));
}

/// Acknowledgements leave the last place in the queue to the reason of the end.
#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_read_still_finds_the_reason_of_the_end() {
    let mut rig = Rig::new();
    let mut agent = rig.accepted().await;
    for sequence in 2..=9 {
        agent.send(sequence, changes()).await;
        assert_eq!(rig.message().await.0, Seq(sequence));
        agent.handle.applied(Seq(sequence));
        sleep(Duration::from_millis(4_500)).await;
    }
    agent.send(9, changes()).await;
    rig.until_bye().await;
    assert!(matches!(agent.answer().await, Answer::Welcome(_)));
    assert_eq!(agent.answer().await, ack(2));
    assert_eq!(agent.answer().await, ack(3));
    assert_eq!(
        told(&agent.error().await),
        error(Code::InvalidArgument, "BAD_MESSAGE")
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_on_which_nothing_is_heard_ends_after_twice_the_silence() {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    sleep(Duration::from_secs(5)).await;
    let start = TokioInstant::now();
    agent.send(2, heartbeat()).await;
    assert_eq!(agent.next().await.unwrap(), None, "nothing is wrong with it");
    assert!((6_000..6_010).contains(&millis(start)), "{}", millis(start));
    rig.until_bye().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_its_agent_closes_is_told_to_the_aggregator() {
    let mut rig = Rig::new();
    let Agent {
        messages,
        mut answers,
        handle: _handle,
    } = rig.connect().await;
    drop(messages);
    assert_eq!(answers.message().await.unwrap(), None);
    rig.until_bye().await;
    assert_eq!(rig.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_leaves_before_it_is_welcomed_is_told_to_the_aggregator() {
    let mut rig = Rig::new();
    let answers = rig.first(message(1, hello())).await.unwrap();
    let (_, mut handle) = rig.hello().await;
    drop(answers);
    handle.accept();
    rig.until_bye().await;
    rig.supervisor.all_ended(&[], LIMIT).await;
    assert_eq!(rig.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_aggregator_ends_an_open_stream_with_its_reason() {
    for (end, code, reason) in [
        (End::Superseded, Code::FailedPrecondition, "STREAM_SUPERSEDED"),
        (End::Resend, Code::Aborted, "RESEND"),
        (End::Full("instances"), Code::ResourceExhausted, "COLLECTOR_FULL"),
    ] {
        let mut rig = Rig::new();
        let mut agent = rig.connect().await;
        agent.handle.end(end);
        assert_eq!(told(&agent.error().await), error(code, reason));
        rig.until_bye().await;
    }
}

/// Otherwise an agent that comes back at once could meet its own former stream.
#[tokio::test(start_paused = true)]
async fn the_id_is_free_before_the_agent_learns_that_its_stream_has_ended() {
    let mut rig = Rig::with_room_for(1);
    let mut agent = rig.connect().await;
    agent.send(2, changes()).await;
    agent.send(2, changes()).await;
    let early = timeout(SILENT_AFTER, agent.answers.message()).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(rig.message().await.0, Seq(2));
    rig.until_bye().await;
    assert_eq!(
        told(&agent.error().await),
        error(Code::InvalidArgument, "BAD_MESSAGE")
    );
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_stops_drains_its_streams() {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    agent.send(2, changes()).await;
    rig.message().await;
    rig.supervisor.stop().cancel();
    let Answer::Drain(drain) = agent.answer().await else {
        panic!("not drained")
    };
    let soon = convert::duration_to_wire(Duration::from_millis(500));
    assert_eq!(drain.reconnect_after, Some(soon));
    assert_eq!(agent.next().await.unwrap(), None);
    rig.until_bye().await;
    assert!(rig.supervisor.kinds_ended(&[STREAM], LIMIT).await);
}

/// While the aggregator is busy, an agent waits; a stream that waits so is not cut.
#[tokio::test(start_paused = true)]
async fn a_busy_aggregator_slows_an_agent_down() {
    let mut rig = Rig::with_room_for(1);
    let agent = rig.connect().await;
    for sequence in 2..=20 {
        agent.send(sequence, changes()).await;
    }
    sleep(LIMIT).await;
    assert_eq!(rig.streams(), 1);
    for sequence in 2..=20 {
        assert_eq!(rig.message().await.0, Seq(sequence));
    }
}

/// What a stream shows on the debug page: received, applied, acknowledged, and the number of messages.
fn shown(rig: &Rig) -> (u64, u64, u64, u64) {
    let all = rig.open_streams.all();
    assert_eq!(all.len(), 1);
    let sequences = all[0].sequences();
    (
        sequences.received,
        sequences.applied,
        sequences.acknowledged,
        all[0].messages(),
    )
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_shows_how_far_it_is_until_it_ends() {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    assert_eq!(shown(&rig), (1, 1, 1, 1));
    agent.send(3, changes()).await;
    agent.send(7, changes()).await;
    for _ in 0..2 {
        rig.message().await;
    }
    assert_eq!(shown(&rig), (7, 1, 1, 3));
    agent.handle.applied(Seq(3));
    assert_eq!(shown(&rig), (7, 3, 1, 3));
    assert_eq!(agent.answer().await, ack(3));
    assert_eq!(shown(&rig), (7, 3, 3, 3));
    drop(agent);
    rig.until_bye().await;
    let ended = async {
        while !rig.open_streams.all().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, ended).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_waits_for_the_aggregator_is_shown_behind_by_its_hello() {
    let mut rig = Rig::new();
    let _answers = rig.first(message(1, hello())).await.unwrap();
    let _waits = rig.hello().await;
    assert_eq!(shown(&rig), (1, 0, 0, 1));
}
