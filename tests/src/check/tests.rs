//! Each checker accepts a good history and sees one planted violation.

use super::*;

fn claim(at: u64, session: i64, epoch: u64) -> Txn {
    let json = format!("{{\"epoch\":{epoch},\"holder\":\"c{session}\"}}");
    txn(at, session, "/r/epoch", &json)
}

fn txn(at: u64, session: i64, path: &str, json: &str) -> Txn {
    Txn {
        session,
        at,
        ops: vec![
            Op::Check("/r/epoch".to_owned(), 1),
            Op::Set(path.to_owned(), json.into()),
        ],
    }
}

fn status(at: u64, session: i64, state: &str, reason: &str, epoch: u64, (boot, seq): (&str, u64)) -> Txn {
    let json = format!(
        "{{\"state\":\"{state}\",\"reason\":\"{reason}\",\"agent\":\"db\",\"boot\":\"{boot}\",\"seq\":{seq},\"epoch\":{epoch}}}"
    );
    txn(at, session, "/r/instances/aa/i", &json)
}

fn up(at: u64, session: i64, epoch: u64, origin: (&str, u64)) -> Txn {
    status(at, session, "UP", "OK", epoch, origin)
}

fn down(at: u64) -> Txn {
    status(at, 1, "DOWN", "CONNECTION_REFUSED", 1, ("a", 2))
}

fn truth(states: &[(u64, &str)]) -> Truth {
    let list = states
        .iter()
        .map(|(at, state)| (*at, (*state).to_owned()))
        .collect();
    [("i".to_owned(), list)].into()
}

#[test]
fn i1_a_write_of_a_former_leader_is_seen() {
    let none = BTreeSet::new();
    let good = [
        claim(0, 1, 1),
        up(1, 1, 1, ("a", 1)),
        claim(2, 2, 2),
        up(3, 2, 2, ("a", 2)),
    ];
    assert_eq!(sole_writer(&good, &none), Ok(()));
    let late = [&good[..], &[up(4, 1, 1, ("a", 1))]].concat();
    assert!(sole_writer(&late, &none).is_err());
    assert_eq!(
        sole_writer(&late[2..], &[1].into()),
        Ok(()),
        "the hand of the test"
    );
    assert!(sole_writer(&[claim(0, 1, 2), claim(1, 2, 2)], &none).is_err());
    assert!(
        sole_writer(&[claim(0, 1, 2), up(1, 1, 1, ("a", 1))], &none).is_err(),
        "the wrong epoch is told"
    );
}

#[test]
fn i2_an_older_message_after_a_newer_is_seen() {
    let none = BTreeSet::new();
    let good = [
        up(0, 1, 1, ("a", 1)),
        up(1, 1, 1, ("a", 5)),
        up(2, 1, 1, ("b", 1)),
    ];
    assert_eq!(no_stale_overwrite(&good, &none), Ok(()));
    assert_eq!(
        no_stale_overwrite(&[up(0, 1, 1, ("a", 5)), up(1, 2, 2, ("a", 4))], &none),
        Ok(()),
        "the same"
    );
    assert!(no_stale_overwrite(&[up(0, 1, 1, ("a", 5)), down(1)], &none).is_err());
    assert!(no_stale_overwrite(&[&good[..], &[up(3, 1, 1, ("a", 9))]].concat(), &none).is_err());
}

#[test]
fn i3_a_transition_that_is_not_published_is_seen() {
    let truth = truth(&[(0, "UP"), (100, "DOWN"), (110, "UP"), (500, "DOWN")]);
    let good = [up(5, 1, 1, ("a", 1)), down(520)];
    // The 10 ms of DOWN are shorter than the bound.
    assert_eq!(published_in_time(&good, &truth, &(0..1_000), 50), Ok(()));
    assert!(published_in_time(&good[..1], &truth, &(0..1_000), 50).is_err());
    assert!(
        published_in_time(&good, &truth, &(0..1_000), 10).is_err(),
        "too late"
    );
}

#[test]
fn i4_a_false_down_is_seen() {
    let none = BTreeSet::new();
    let truth = truth(&[(0, "UP"), (100, "DOWN"), (200, "UP")]);
    assert_eq!(no_false_down(&[down(150), down(220)], &truth, &none, 50), Ok(()));
    assert!(
        no_false_down(&[down(90)], &truth, &none, 50).is_err(),
        "before it was true"
    );
    assert!(
        no_false_down(&[down(300)], &truth, &none, 50).is_err(),
        "long after"
    );
}

#[test]
fn i5_a_status_that_changes_in_a_failover_is_seen() {
    let good = [up(5, 1, 1, ("a", 1)), claim(50, 2, 2), up(60, 2, 2, ("a", 2))];
    assert_eq!(neutral(&good, &(40..100)), Ok(()));
    let bad = [
        &good[..],
        &[status(70, 2, "UNKNOWN", "AGENT_SILENT", 2, ("a", 2))],
    ]
    .concat();
    assert!(neutral(&bad, &(40..100)).is_err());
    assert_eq!(neutral(&bad, &(71..100)), Ok(()));
}

#[test]
fn i5_a_hasty_silence_after_a_claim_is_seen() {
    let silent = |at| status(at, 2, "UNKNOWN", "AGENT_SILENT", 2, ("a", 1));
    let good = [up(5, 1, 1, ("a", 1)), claim(50, 2, 2), silent(80)];
    let mut lost = Lost::new();
    assert_eq!(no_hasty_silence(&good, &lost, 30), Ok(()));
    assert!(no_hasty_silence(&good, &lost, 31).is_err());
    // Its agent was lost long enough before; or not.
    let agent = "i".to_owned();
    let at = [(5_000, 2_000, true), (5_000, 3_500, false)];
    for (silent_at, lost_at, is_right) in at {
        let txns = [up(5, 1, 1, ("a", 1)), claim(4_000, 2, 2), silent(silent_at)];
        lost.insert(agent.clone(), vec![lost_at]);
        assert_eq!(
            no_hasty_silence(&txns, &lost, 3_000).is_ok(),
            is_right,
            "{lost_at}"
        );
    }
}

#[test]
fn i6_silence_of_an_agent_that_could_be_heard_is_seen() {
    let silent = [status(5_000, 1, "UNKNOWN", "AGENT_SILENT", 1, ("a", 1))];
    let deaf = |range: Range<u64>| [("db".to_owned(), vec![range])].into();
    assert_eq!(silence_is_real(&silent, &deaf(1_000..6_000), 100), Ok(()));
    assert!(silence_is_real(&silent, &deaf(1_000..4_000), 100).is_err());
    assert!(silence_is_real(&silent, &BTreeMap::new(), 100).is_err());
}

#[test]
fn i7_lost_repeated_and_disordered_events_are_seen() {
    let event = |n: u64, before: &str, after: &str| (n, "i".to_owned(), before.to_owned(), after.to_owned());
    let good = [event(1, "", "UP"), event(2, "UP", "DOWN"), event(5, "DOWN", "UP")];
    assert_eq!(watch_history(&good), Ok(()));
    assert!(
        watch_history(&[good[0].clone(), good[2].clone()]).is_err(),
        "one is missing"
    );
    assert!(
        watch_history(&[good[0].clone(), good[1].clone(), good[1].clone()]).is_err(),
        "one comes twice"
    );
    assert!(
        watch_history(&[good[1].clone(), event(1, "DOWN", "UP")]).is_err(),
        "disordered"
    );
}

#[test]
fn i8_a_system_that_does_not_come_back_is_seen() {
    let live = txn(50, 1, "/r/publisher", "{\"phase\":\"live\"}");
    let truth = truth(&[(0, "UP"), (100, "DOWN")]);
    let good = [up(5, 1, 1, ("a", 1)), live.clone(), down(1_200)];
    assert_eq!(live_again(&good, &truth, 1_000, 500), Ok(()));
    assert!(live_again(&good, &truth, 1_000, 100).is_err(), "too late");
    assert!(live_again(&good[..2], &truth, 1_000, 500).is_err(), "never");
    let gone = Txn {
        session: 1,
        at: 1_300,
        ops: vec![Op::Delete("/r/publisher".to_owned())],
    };
    assert!(
        live_again(&[&good[..], &[gone]].concat(), &truth, 1_000, 500).is_err(),
        "nobody leads"
    );
}
