//! What an uplink tells of its stream.

use super::*;

const HEARTBEAT: Duration = Duration::from_secs(1);
const SILENT: Duration = Duration::from_secs(3);

#[tokio::test(start_paused = true)]
async fn the_state_of_a_stream_follows_the_stream() {
    let agent = Agent::with_instances(1);
    let mut collector = agent.uplink();
    let status = collector.status.clone();
    assert_eq!(status.get(), StreamState::default());
    let began = agent.clock.now();

    let (mut call, _) = collector.call().await;
    let connecting = status.get();
    assert_eq!(connecting.phase, Phase::Connecting(began));
    assert_eq!((connecting.attempts, connecting.welcomed), (1, None));
    assert_eq!(connecting.last_sent, Some((Seq(call.sequence), began)));

    call.welcome(HEARTBEAT, SILENT).await;
    while !matches!(call.next().await, Request::Snapshot(part) if part.last) {}
    let open = status.get();
    assert!(matches!(open.phase, Phase::Open(_)), "{open:?}");
    let welcomed = open.welcomed.unwrap();
    assert_eq!(
        (
            welcomed.collector_id.as_str(),
            welcomed.heartbeat_interval,
            welcomed.silent_after
        ),
        ("a", HEARTBEAT, SILENT)
    );
    let (seq, sent) = open.last_sent.unwrap();
    assert_eq!(seq, Seq(call.sequence));
    assert_eq!((open.unacked, open.oldest_unacked), (1, Some(sent)));
    assert_eq!(open.last_acked, None);

    tokio::time::sleep(HEARTBEAT / 2).await;
    call.ack(call.sequence).await;
    tokio::time::sleep(ROUNDING).await;
    let acked = status.get();
    assert_eq!((acked.last_acked, acked.unacked), (Some(seq), 0));
    assert_eq!(acked.oldest_unacked, None);
    assert!(acked.answered_at > open.answered_at);

    collector.becomes(Path::Dead);
    call.fail(tonic::Code::FailedPrecondition).await;
    tokio::time::sleep(ROUNDING).await;
    let ended = status.get();
    let end = ended.last_end.clone().unwrap();
    assert!(
        matches!(ended.phase, Phase::Waiting(at) if at > end.at),
        "{ended:?}"
    );
    assert_eq!((end.text.as_str(), end.is_refusal), ("refused: so it is", true));
    // The next attempt knows why the last one ended, and nothing else of it.
    tokio::time::sleep(RETRY.0).await;
    let again = status.get();
    assert!(matches!(again.phase, Phase::Connecting(_)), "{again:?}");
    assert_eq!((again.attempts, again.last_end), (2, Some(end)));
    assert_eq!((again.last_acked, again.welcomed), (None, None));
}
