//! Tests of silence on one connection and the answers of a second one.

use super::*;

/// A served instance whose connection has become mute; nothing is answered on it any more.
fn silent() -> (Bench, Mono) {
    let bench = Bench::served();
    let last = bench.last_valid;
    (bench, last)
}

#[test]
fn a_second_connection_is_asked_before_silence_is_a_verdict() {
    let (mut bench, last) = silent();
    bench.run(last + 1_999 * MS, |_| {});
    assert_eq!(bench.asked, []);
    bench.run(last + 2_000 * MS, |_| {});
    // The second connection has exactly the time that is left.
    assert_eq!(bench.asked, [(last + 2_000 * MS, 1_000 * MS)]);
    bench.run(last + 2_500 * MS, |_| {});
    bench.second(Ok(pong()));
    assert_eq!((bench.reason(), bench.mute), (Reason::Ok, 1));
    let evidence = &bench.prober.verdict().evidence;
    assert!(
        evidence.contains("mute for") && evidence.contains("(1 so far)"),
        "{evidence}"
    );
    assert!(bench.connecting, "the mute connection is replaced at once");
    bench.up();
    assert!(
        bench.verdicts.iter().all(|(_, reason, _)| *reason == Reason::Ok),
        "{:?}",
        bench.verdicts
    );
}

/// The connection that replaced a mute one becomes mute too: it needs a second connection of its own.
#[test]
fn each_connection_needs_a_second_opinion() {
    let (mut bench, last) = silent();
    bench.run(last + 2_000 * MS, |_| {});
    bench.second(Ok(pong()));
    let replaced = bench.now;
    bench.accept();
    bench.run(replaced + 2_000 * MS, |_| {});
    assert_eq!(bench.asked.len(), 2, "asked again");
    bench.second(Ok(pong()));
    bench.run(replaced + 3_500 * MS, |_| {});
    assert_eq!((bench.reason(), bench.mute), (Reason::Ok, 2));
    // The same where the peer closes the silent connection while the second one is asked.
    let (mut bench, last) = silent();
    bench.run(last + 2_000 * MS, |_| {});
    bench.close();
    bench.accept();
    bench.run(last + 2_100 * MS, |_| {});
    assert_eq!(bench.asked.len(), 2);
    bench.second(Ok(pong()));
    bench.run(last + 3_500 * MS, |_| {});
    assert_eq!(bench.reason(), Reason::Ok);
}

#[test]
fn any_answer_of_the_second_connection_proves_life() {
    let loading = reply::ping(&Reply::Error("LOADING x".into()));
    for answer in [
        Ok(loading),
        Ok(reply::ping(&Reply::Error("NOAUTH x".into()))),
        Err(ConnectFailure::TlsCertificate("expired".into())),
        Err(ConnectFailure::NotRedis("HTTP".into())),
    ] {
        let (mut bench, last) = silent();
        bench.run(last + 2_900 * MS, |_| {});
        bench.second(answer.clone());
        bench.run(last + 3_500 * MS, |_| {});
        assert_ne!(bench.prober.verdict().state(), State::Down, "{answer:?}");
        assert_eq!(bench.mute, 1);
    }
}

#[test]
fn silence_on_both_connections_is_down_exactly_at_hang_after() {
    for failure in [
        ConnectFailure::TimedOut,
        ConnectFailure::TlsSilent,
        ConnectFailure::Reset,
        ConnectFailure::Unreachable,
    ] {
        let (mut bench, last) = silent();
        bench.run(last + 2_900 * MS, |_| {});
        bench.second(Err(failure));
        assert_eq!(bench.reason(), Reason::Ok);
        bench.run(last + 3_500 * MS, |_| {});
        assert_eq!(bench.verdicts.last().unwrap().0, last + 3_000 * MS);
        assert_eq!(bench.reason(), Reason::ReplyTimeout);
    }
}

#[test]
fn refused_beside_silence_is_believed_at_once() {
    let (mut bench, last) = silent();
    bench.run(last + 2_000 * MS, |_| {});
    bench.second(Err(ConnectFailure::Refused));
    assert_eq!(bench.reason(), Reason::ConnectionRefused);
}

#[test]
fn without_a_second_opinion_silence_is_no_verdict() {
    let (mut bench, last) = silent();
    bench.run(last + 2_000 * MS, |_| {});
    bench.second(Err(ConnectFailure::Own("too many open files".into())));
    bench.run(last + 3_000 * MS, |_| {});
    assert_eq!(bench.reason(), Reason::AgentFault);
    assert_eq!(bench.prober.verdict().state(), State::Unknown);
    // As soon as a second connection can be tried, it decides.
    bench.run(bench.now + 2_000 * MS, |_| {});
    bench.second(Err(ConnectFailure::TimedOut));
    bench.run(bench.now + 1_000 * MS, |_| {});
    assert_eq!(bench.reason(), Reason::ReplyTimeout);
}

#[test]
fn an_answer_that_comes_late_is_believed_and_the_second_one_is_forgotten() {
    let (mut bench, last) = silent();
    bench.run(last + 2_500 * MS, |_| {});
    bench.answer();
    bench.second(Err(ConnectFailure::Refused));
    assert_eq!((bench.reason(), bench.open), (Reason::Ok, true));
}

/// Each connection stays in the queue of a server that does not run.
#[test]
fn a_hung_server_is_left_in_peace_and_its_outage_stays_one() {
    let (mut bench, last) = silent();
    let connects = bench.connects;
    let server = |b: &mut Bench| {
        b.accept();
        b.second(Err(ConnectFailure::TimedOut));
    };
    bench.run(last + 1_800_000 * MS, server);
    let since = bench.prober.verdict().since;
    assert_eq!(bench.reason(), Reason::ReplyTimeout);
    assert_eq!(since, WallMs((last + 3_000 * MS).0 / 1_000));
    assert_eq!(bench.connects, connects, "the mute connection is kept");
    assert_eq!(
        bench.asked.len(),
        1,
        "asked again, though its process was not looked at"
    );

    // The process runs: the server is asked, less and less often.
    let running = |b: &mut Bench| {
        if b.prober.second.check_process_first() {
            b.input(Input::ProcessChecked(ProcessState::Running));
            b.second(Err(ConnectFailure::TimedOut));
        }
    };
    let before = bench.asked.len();
    bench.run(bench.now + 3_600_000 * MS, running);
    let asked = bench.asked.len() - before;
    assert!((5..=7).contains(&asked), "{asked}");

    // The process is stopped and cannot answer, so nothing is put into its queue.
    let stopped = |b: &mut Bench| {
        if b.prober.second.check_process_first() {
            b.input(Input::ProcessChecked(ProcessState::Stopped));
        }
    };
    let before = bench.asked.len();
    bench.run(bench.now + 3_600_000 * MS, stopped);
    assert_eq!(bench.asked.len(), before);
    assert_eq!(
        (bench.reason(), bench.prober.verdict().since),
        (Reason::ReplyTimeout, since)
    );

    // The process continues, and answers on the connection that was kept.
    bench.answer();
    bench.up();
}

#[test]
fn a_full_queue_during_a_hang_is_the_same_outage() {
    let (mut bench, last) = silent();
    bench.run(last + 3_000 * MS, |_| {});
    let since = bench.prober.verdict().since;
    bench.close();
    // Each attempt takes its whole time-out.
    bench.run(bench.now + 60_000 * MS, |_| {});
    assert_eq!(
        (bench.reason(), bench.prober.verdict().since),
        (Reason::ReplyTimeout, since)
    );
}

#[test]
fn a_successor_on_the_port_is_found_at_once() {
    let (mut bench, last) = silent();
    bench.run(last + 520 * MS, |_| {});
    bench.input(Input::ProcessChecked(ProcessState::Gone));
    assert_eq!(bench.reason(), Reason::ProcessGone);
    assert_eq!(bench.asked.len(), 1);
    // No server serves the port yet: the outage keeps its reason over `hang_after`, and the port is asked again.
    bench.second(Err(ConnectFailure::TimedOut));
    let look = |b: &mut Bench| {
        if b.prober.second.check_process_first() {
            b.input(Input::ProcessChecked(ProcessState::Gone));
        }
    };
    bench.run(last + 7_000 * MS, look);
    assert_eq!((bench.reason(), bench.asked.len()), (Reason::ProcessGone, 2));
    bench.second(Ok(pong()));
    assert!(bench.connecting);
    bench.up();
}

/// A TLS server that hangs leaves no connection behind that could be answered.
#[test]
fn silent_handshakes_are_repeated_rarely() {
    let mut bench = Bench::served();
    bench.close();
    let server = |b: &mut Bench| {
        if b.connecting {
            b.connecting = false;
            b.input(Input::ConnectFailed(ConnectFailure::TlsSilent));
        }
    };
    bench.run(bench.now + 3_500 * MS, server);
    assert_eq!(bench.reason(), Reason::ReplyTimeout);
    let before = bench.connects;
    bench.run(bench.now + 600_000 * MS, server);
    let connects = bench.connects - before;
    assert!((19..=24).contains(&connects), "{connects}");
}

#[test]
fn a_name_that_moved_is_judged_at_its_new_address() {
    let mut bench = Bench::served();
    bench.input(Input::Moved);
    assert!(bench.connecting && bench.reason() == Reason::Ok);
    bench.refuse();
    assert_eq!(bench.reason(), Reason::ConnectionRefused);
    // Without a connection there is nothing to replace.
    bench.input(Input::Moved);
    assert!(!bench.connecting);
}
