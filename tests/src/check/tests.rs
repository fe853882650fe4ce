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

fn silence(after: u64) -> Silence {
    Silence {
        after,
        heartbeat: 1_000,
        lag: 100,
    }
}

fn intervals(spell: Range<u64>) -> Intervals {
    let mut intervals = Intervals::default();
    intervals.begin(spell.start);
    intervals.end(spell.end);
    intervals
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
    let judge = |txns: &[Txn], bound| published_in_time(txns, &truth, &(0..1_000), bound);
    // The 10 ms of DOWN are shorter than the bound.
    assert_eq!(judge(&good, 50), Ok(3));
    assert!(judge(&good[..1], 50).is_err());
    assert!(judge(&good, 10).is_err(), "too late");
}

#[test]
fn i3_the_rate_limit_is_no_excuse_for_ever() {
    let truth = truth(&[(0, "UP"), (20_000, "DOWN")]);
    let judge = |last| {
        let writes = [0, 1, 2, 19_000, 19_001, 19_002, 19_003];
        let mut txns: Vec<_> = writes.into_iter().map(|at| up(at, 1, 1, ("a", 1))).collect();
        txns.push(down(last));
        published_in_time(&txns, &truth, &(0..60_000), 50)
    };
    // After a quiet time four writes are free again, and paid for 4 s after the first of them.
    assert_eq!(judge(23_040), Ok(1));
    assert!(judge(23_100).is_err());
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
    assert_eq!(no_hasty_silence(&good, &lost, silence(30)), Ok(()));
    assert!(no_hasty_silence(&good, &lost, silence(31)).is_err());
    // Cases in which the agent was lost long enough before and still is, and cases in which it was not.
    let spells = [
        (2_000..u64::MAX, true),
        (3_500..u64::MAX, false),
        (2_000..4_500, false),
    ];
    for (spell, is_right) in spells {
        let txns = [up(5, 1, 1, ("a", 1)), claim(4_000, 2, 2), silent(5_000)];
        lost.insert("db".to_owned(), intervals(spell.clone()));
        assert_eq!(
            no_hasty_silence(&txns, &lost, silence(3_000)).is_ok(),
            is_right,
            "{spell:?}"
        );
    }
}

#[test]
fn i6_silence_of_an_agent_that_could_be_heard_is_seen() {
    let silent = [
        claim(0, 1, 1),
        status(5_000, 1, "UNKNOWN", "AGENT_SILENT", 1, ("a", 1)),
    ];
    let deaf = |collector: &str, spell| [(("db".to_owned(), collector.to_owned()), intervals(spell))].into();
    let judge = |deaf| silence_is_real(&silent, &deaf, &BTreeSet::new(), silence(3_000));
    assert_eq!(judge(deaf("c1", 1_000..6_000)), Ok(()));
    assert_eq!(judge(deaf("c1", 3_000..4_950)), Ok(()), "just so long");
    assert!(judge(deaf("c1", 1_000..4_000)).is_err(), "it was back");
    assert!(judge(deaf("c1", 3_500..6_000)).is_err(), "too early");
    assert!(judge(deaf("c2", 1_000..6_000)).is_err(), "another collector");
    assert!(judge(Deaf::new()).is_err());
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
