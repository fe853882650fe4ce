//! What an agent sends after its Hello: order, content, and the way to the aggregator.

use super::*;

/// An open stream that has sent this, and the error that ends it.
async fn refused(messages: Vec<ReportStatusRequest>) -> (Rig, Status) {
    let mut rig = Rig::new();
    let mut agent = rig.connect().await;
    for message in messages {
        agent.messages.send(message).await.unwrap();
    }
    let status = agent.error().await;
    (rig, status)
}

fn report(id: &str) -> v1::InstanceReport {
    v1::InstanceReport {
        handle: 1,
        id: id.to_owned(),
        address: "127.0.0.1:6379".to_owned(),
        verdict: Some(v1::Verdict {
            reason: v1::Reason::Ok.into(),
            ..Default::default()
        }),
        freshness_limit: Some(convert::duration_to_wire(Duration::from_secs(5))),
        ..Default::default()
    }
}

#[tokio::test(start_paused = true)]
async fn messages_reach_the_aggregator_in_order_and_with_their_numbers() {
    let mut rig = Rig::new();
    let agent = rig.connect().await;
    let snapshot = v1::Snapshot {
        instances: vec![report("db:1")],
        last: true,
    };
    agent.send(2, Wire::Snapshot(snapshot)).await;
    // Other streams of the agent take the numbers between.
    agent.send(5, changes()).await;
    agent.send(6, Wire::Gone(v1::Gone { handles: vec![1] })).await;
    let (seq, message) = rig.message().await;
    let Message::Snapshot(reports, true) = message else {
        panic!("{message:?}")
    };
    assert_eq!((seq, reports[0].identity.id.as_str()), (Seq(2), "db:1"));
    let (seq, message) = rig.message().await;
    assert!(
        seq == Seq(5) && matches!(message, Message::Changes(_)),
        "{message:?}"
    );
    let (seq, message) = rig.message().await;
    assert!(
        seq == Seq(6) && matches!(message, Message::Gone(_)),
        "{message:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_number_that_does_not_grow_ends_the_stream_after_what_came_before() {
    for (before, sequence) in [(5, 5), (5, 4), (2, 1), (2, 0)] {
        let messages = vec![message(before, changes()), message(sequence, changes())];
        let (mut rig, status) = refused(messages).await;
        assert_eq!(told(&status), error(Code::InvalidArgument, "BAD_MESSAGE"));
        let text = format!("sequence {sequence} after {before}");
        assert!(status.message().contains(&text), "{status:?}");
        assert_eq!(rig.message().await.0, Seq(before));
        assert!(matches!(rig.command().await, Command::Bye(7)));
        assert_eq!((rig.reports("bad_message"), rig.streams()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn the_hello_counts_in_the_order_of_numbers() {
    let (_, status) = refused(vec![message(1, changes())]).await;
    assert!(status.message().contains("sequence 1 after 1"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_breaks_a_rule_is_refused_whole_and_names_the_field() {
    let with = |id: &str| {
        let instances = vec![report("db:1"), report(id)];
        Wire::Changes(v1::Changes { instances })
    };
    let mut no_verdict = report("db:1");
    no_verdict.verdict = None;
    let uneven = v1::Heartbeat {
        handles: vec![1],
        ..Default::default()
    };
    for (content, text) in [
        (Some(with("a/b")), "changes.instances[1].id"),
        (
            Some(Wire::Changes(v1::Changes {
                instances: vec![no_verdict],
            })),
            "changes.instances[0].verdict: is missing",
        ),
        (
            Some(Wire::Heartbeat(uneven)),
            "heartbeat: handles and probe_ages_ms differ",
        ),
        (Some(hello()), "hello: is only allowed as the first message"),
        (None, "message 2 is empty"),
    ] {
        let wrong = ReportStatusRequest {
            sequence: 2,
            message: content,
        };
        let (mut rig, status) = refused(vec![wrong]).await;
        assert_eq!(told(&status), error(Code::InvalidArgument, "BAD_MESSAGE"));
        assert!(status.message().contains(text), "{status:?}");
        assert!(
            matches!(rig.command().await, Command::Bye(7)),
            "nothing of it is used"
        );
    }
    let (_, status) = refused(vec![message((1 << 63) + 1, changes())]).await;
    assert_eq!(told(&status), error(Code::InvalidArgument, "BAD_MESSAGE"));
}

async fn queued(rig: &Rig) -> Vec<QueuedHeartbeat> {
    let taken = async {
        let mut taken = Vec::new();
        while taken.is_empty() {
            sleep(Duration::from_millis(1)).await;
            rig.heartbeats.take(&mut taken);
        }
        taken
    };
    timeout(LIMIT, taken).await.expect("no heartbeat")
}

/// A heartbeat that overtook the Hello, or a change, would count as late.
#[tokio::test(start_paused = true)]
async fn a_heartbeat_is_queued_only_when_everything_before_it_is_applied() {
    let mut rig = Rig::new();
    let agent = rig.connect().await;
    agent.send(2, heartbeat()).await;
    assert_eq!(rig.message().await.0, Seq(2), "the Hello may not be applied");
    agent.handle.applied(Seq(2));
    agent.send(3, heartbeat()).await;
    let beat = queued(&rig).await.remove(0);
    assert_eq!((beat.stream, beat.seq), (7, Seq(3)));
    agent.send(4, changes()).await;
    agent.send(5, heartbeat()).await;
    assert_eq!(rig.message().await.0, Seq(4));
    assert_eq!(rig.message().await.0, Seq(5), "the change is not applied");
    agent.handle.applied(Seq(5));
    agent.send(6, heartbeat()).await;
    assert_eq!(queued(&rig).await[0].seq, Seq(6));
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_that_finds_the_queue_full_goes_as_a_command() {
    let mut rig = Rig::new();
    let agent = rig.connect().await;
    agent.handle.applied(Seq(2));
    for n in 0..QUEUED_MAX {
        let beat = QueuedHeartbeat {
            stream: 1,
            seq: Seq(n as u64),
            message: Message::Heartbeat(Vec::new(), Default::default()),
            received: Default::default(),
        };
        rig.heartbeats.push(beat).unwrap();
    }
    agent.send(3, heartbeat()).await;
    assert_eq!(rig.message().await.0, Seq(3));
}

/// A stream that always has a next message still hears that it must end.
#[tokio::test(start_paused = true)]
async fn a_flood_of_messages_does_not_hide_the_request_to_end() {
    let mut rig = Rig::new();
    let flood = (2..).map(|sequence| message(sequence, heartbeat()));
    let messages = std::iter::once(message(1, hello())).chain(flood);
    let mut answers = rig.call(tokio_stream::iter(messages)).await.unwrap();
    let (_, mut handle) = rig.hello().await;
    handle.applied(Seq(u64::MAX));
    handle.accept();
    handle.end(End::Resend);
    let ended = async {
        loop {
            if let Err(status) = answers.message().await {
                return status;
            }
        }
    };
    let status = timeout(LIMIT, ended).await.unwrap();
    assert_eq!(told(&status), error(Code::Aborted, "RESEND"));
    let mut taken = Vec::new();
    rig.heartbeats.take(&mut taken);
    assert!(taken.len() <= 64, "{} messages", taken.len());
}
