//! Tests of the answers to INFO.

use super::*;

/// Sends one PING and INFO, and answers PONG and `answer`.
fn informed(bench: &mut Bench, answer: Reply) {
    bench.run(bench.now + 11_000 * MS, |b| {
        b.accept();
        if b.pending.contains(&Command::Info) {
            while let Some(command) = b.pending.pop_front() {
                let reply = match command {
                    Command::Ping => Reply::Text("PONG".into()),
                    _ => answer.clone(),
                };
                b.input(Input::Replied(reply));
            }
        } else {
            b.answer();
        }
    });
}

#[test]
fn an_odd_answer_to_info_condemns_nobody_and_is_said() {
    for (answer, words) in [
        (Reply::Other, "INFO answered something that is no text"),
        (
            Reply::Error("NOPERM this user has no permissions".into()),
            "INFO answered -NOPERM",
        ),
        (Reply::Long("role:master\r\n".into()), "INFO is longer than 1 MiB"),
    ] {
        let mut bench = Bench::served();
        informed(&mut bench, answer);
        let verdict = bench.prober.verdict();
        assert_eq!(verdict.reason, Reason::Ok);
        assert!(
            verdict.evidence.contains(words) && verdict.evidence.contains("not known"),
            "{}",
            verdict.evidence
        );
        informed(&mut bench, Reply::Text("role:master\r\n".into()));
        assert_eq!(&*bench.prober.verdict().evidence, "PING answered \"PONG\"");
    }
}

#[test]
fn what_is_no_resp_after_a_pong_is_asked_for_no_more_for_a_while() {
    let mut bench = Bench::served();
    let mut asked = 0;
    let until = bench.now + 40_000 * MS;
    bench.run(until, |b| {
        b.accept();
        if b.pending.contains(&Command::Info) {
            asked += 1;
            b.pending.clear();
            b.last_valid = b.now;
            b.input(Input::Replied(Reply::Text("PONG".into())));
            b.input(Input::Garbage("HTTP".into()));
        } else {
            b.answer();
        }
    });
    assert_eq!(bench.reason(), Reason::Ok);
    assert!(bench.prober.verdict().evidence.contains("not RESP"));
    assert!((3..=5).contains(&asked), "{asked}");
}

#[test]
fn an_error_to_info_that_tells_of_the_server_is_its_state() {
    for (line, reason) in [
        ("CLUSTERDOWN The cluster is not initialized", Reason::ClusterDown),
        ("BUSY Redis is busy running a script.", Reason::BusyScript),
    ] {
        let mut bench = Bench::served();
        informed(&mut bench, Reply::Error(line.into()));
        assert_eq!(bench.reason(), reason);
        bench.run(bench.now + 2_000 * MS, Bench::serve);
        assert_eq!(bench.reason(), Reason::Ok);
    }
}

#[test]
fn refusals_that_go_on_restrict_and_end() {
    let mut bench = Bench::new();
    let full = |count| -> &'static str {
        match count {
            1 => {
                "maxmemory:100\r\nused_memory:99\r\nmaxmemory_policy:volatile-lru\r\nerrorstat_OOM:count=1\r\n"
            }
            2 => {
                "maxmemory:100\r\nused_memory:99\r\nmaxmemory_policy:volatile-lru\r\nerrorstat_OOM:count=2\r\n"
            }
            _ => {
                "maxmemory:100\r\nused_memory:99\r\nmaxmemory_policy:volatile-lru\r\nerrorstat_OOM:count=3\r\n"
            }
        }
    };
    // Earlier counts prove nothing, and neither does a single rise.
    bench.info = full(1);
    bench.up();
    bench.run(bench.now + 11_000 * MS, Bench::serve);
    bench.info = full(2);
    bench.run(bench.now + 11_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::Ok);
    bench.info = full(3);
    bench.run(bench.now + 1_600 * MS, Bench::serve);
    assert_eq!(
        bench.reason(),
        Reason::OutOfMemory,
        "asked each second after the first refusal"
    );
    bench.run(bench.now + 55_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::OutOfMemory);
    bench.run(bench.now + 10_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::Ok);
}

/// Writers that hit a replica just before it becomes the master were refused by a replica, not by a master.
#[test]
fn what_a_replica_refused_is_not_held_against_the_master_that_it_becomes() {
    let mut bench = Bench::served();
    for count in [0, 5, 9] {
        let text = format!(
            "run_id:r1\r\nrole:slave\r\nmaster_link_status:up\r\nerrorstat_READONLY:count={count}\r\n"
        );
        informed(&mut bench, Reply::Text(text.into()));
    }
    let master = "run_id:r1\r\nrole:master\r\nerrorstat_READONLY:count=9\r\n";
    for _ in 0..3 {
        informed(&mut bench, Reply::Text(master.into()));
        assert_eq!(bench.reason(), Reason::Ok);
    }
}

#[test]
fn an_uptime_that_is_left_out_is_no_restart() {
    let mut bench = Bench::served();
    let restarts = |bench: &Bench| bench.prober.verdict().restarts;
    for (uptime, restarted) in [
        ("100", 0),
        ("-1", 0),
        ("120", 0),
        ("5", 1),
        ("99999999999999", 1),
        ("25", 1),
    ] {
        let text = format!("role:master\r\nuptime_in_seconds:{uptime}\r\n");
        informed(&mut bench, Reply::Text(text.into()));
        assert_eq!(restarts(&bench), restarted, "{uptime}");
    }
}
