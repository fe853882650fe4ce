//! Tests of what PING does not show.

use super::*;

#[test]
fn an_ending_process_is_down_before_its_connection_closes() {
    let mut bench = Bench::served();
    let last = bench.last_valid;
    // The next PING is not answered: the process is checked soon after.
    bench.run(last + 520 * MS, |_| {});
    assert_eq!(bench.inspected, 1);
    bench.input(Input::ProcessChecked(ProcessState::Running));
    assert_eq!(bench.reason(), Reason::Ok, "overdue_check is internal");
    bench.input(Input::ProcessChecked(ProcessState::Exiting));
    assert_eq!(bench.reason(), Reason::ProcessGone);
    assert!(bench.prober.verdict().evidence.contains("PF_EXITING"));
    bench.close();
    bench.refuse();
    assert_eq!(bench.reason(), Reason::ConnectionRefused);
    bench.up();
}

#[test]
fn a_large_process_is_looked_at_between_its_pings() {
    let mut bench = Bench::new();
    bench.info = "used_memory_rss:4831838208\r\n";
    bench.up();
    bench.run(bench.now + 11_000 * MS, Bench::serve);
    let before = bench.inspected;
    bench.run(bench.now + 1_000 * MS, Bench::answer);
    // 4 whole GB: one check each 30 ms.
    let looks = bench.inspected - before;
    assert!((30..=36).contains(&looks), "{looks}");
    bench.input(Input::ProcessChecked(ProcessState::Running));
    assert_eq!(bench.reason(), Reason::Ok);
    // A process that is not found proves nothing while no answer is awaited, and it is not checked any more.
    bench.input(Input::ProcessChecked(ProcessState::Gone));
    let before = bench.inspected;
    bench.run(bench.now + 1_000 * MS, Bench::answer);
    assert_eq!((bench.reason(), bench.inspected), (Reason::Ok, before));
    bench.run(bench.now + 11_000 * MS, Bench::answer);
    assert!(bench.inspected > before, "INFO tells of it again");
    bench.input(Input::ProcessChecked(ProcessState::Exiting));
    assert_eq!(bench.reason(), Reason::ProcessGone);
    assert!(bench.prober.verdict().evidence.contains("PF_EXITING"));
    // If the server answers all the same, the answer counts.
    bench.run(bench.now + 2_000 * MS, Bench::answer);
    assert_eq!(bench.reason(), Reason::Ok);
}

#[test]
fn looks_become_rarer_and_a_late_answer_ends_them() {
    let mut bench = Bench::served();
    let last = bench.last_valid;
    bench.run(last + 2900 * MS, |_| {});
    assert!((6..=12).contains(&bench.inspected), "{}", bench.inspected);
    bench.answer();
    let count = bench.inspected;
    bench.up();
    assert_eq!((bench.reason(), bench.inspected), (Reason::Ok, count));
}

#[test]
fn a_hung_server_is_looked_at_until_it_is_known_to_hang() {
    let mut bench = Bench::served();
    bench.run(bench.last_valid + 3_100 * MS, |b| {
        b.accept();
    });
    assert_eq!(bench.reason(), Reason::ReplyTimeout);
    let before = bench.inspected;
    assert!(before > 0);
    bench.run(bench.now + 30_000 * MS, |b| {
        b.accept();
    });
    // Twice, before a second connection would be asked again.
    assert_eq!(bench.inspected, before + 2);
}

#[test]
fn a_hang_names_what_the_kernel_shows() {
    for (state, words) in [
        (ProcessState::Stopped, "stopped (state T)"),
        (
            ProcessState::Uninterruptible,
            "waits uninterruptibly, mostly for a disk (state D)",
        ),
        (ProcessState::Running, "its process runs"),
        (ProcessState::NotLocal, "not on this host or cannot be seen"),
    ] {
        let mut bench = Bench::served();
        bench.run(bench.last_valid + 1000 * MS, |_| {});
        bench.input(Input::ProcessChecked(state));
        bench.run(bench.last_valid + 3000 * MS, |_| {});
        assert_eq!(bench.reason(), Reason::ReplyTimeout);
        let evidence = &bench.prober.verdict().evidence;
        assert!(evidence.contains(words), "{state:?}: {evidence}");
    }
}

#[test]
fn what_ping_does_not_show_info_does_and_it_ends_soon() {
    let mut bench = Bench::served();
    for (info, reason) in [
        (
            "maxmemory:1\r\nused_memory:2\r\nmaxmemory_policy:noeviction\r\n",
            Reason::OutOfMemory,
        ),
        ("min_slaves_good_slaves:0\r\n", Reason::NotEnoughReplicas),
    ] {
        bench.info = info;
        bench.run(bench.now + 11_000 * MS, Bench::serve);
        assert_eq!(bench.reason(), reason);
        let changes = bench.verdicts.len();
        bench.run(bench.now + 5_000 * MS, Bench::serve);
        assert_eq!(bench.verdicts.len(), changes, "it does not flicker");
        bench.info = "";
        bench.run(bench.now + 2_500 * MS, Bench::serve);
        assert_eq!(bench.reason(), Reason::Ok);
    }
    bench.info = "cluster_enabled:1\r\n";
    bench.run(bench.now + 22_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::ClusterDown);
}

#[test]
fn a_full_server_is_seen_by_a_new_connection_only() {
    let mut bench = Bench::served();
    bench.run(bench.now + 61_000 * MS, Bench::serve);
    assert_eq!(bench.new_connections, 1);
    let full = Reply::Error("ERR max number of clients reached".into());
    bench.input(Input::NewConnectionChecked(Ok(reply::ping(&full))));
    assert_eq!(bench.reason(), Reason::MaxClients);
    bench.run(bench.now + 6_000 * MS, Bench::serve);
    assert_eq!(
        (bench.new_connections, bench.reason()),
        (2, Reason::MaxClients),
        "asked again soon"
    );
    let pong = || Input::NewConnectionChecked(Ok(reply::ping(&Reply::Text("PONG".into()))));
    bench.input(pong());
    bench.run(bench.now + 2_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::Ok);
    // A new connection that fails for another reason changes no verdict, but the evidence says so.
    let expired = || ConnectFailure::TlsCertificate("the certificate has expired".into());
    for _ in 0..5 {
        bench.input(Input::NewConnectionChecked(Err(expired())));
    }
    assert_eq!(bench.reason(), Reason::Ok);
    let evidence = |bench: &Bench| bench.prober.verdict().evidence.to_string();
    assert!(evidence(&bench).ends_with("failed: TLS: the certificate has expired"));
    bench.input(pong());
    assert_eq!(evidence(&bench), "PING answered \"PONG\"");
}

#[test]
fn new_connections_that_fail_again_and_again_restrict() {
    let mut bench = Bench::served();
    bench.run(bench.now + 61_000 * MS, Bench::serve);
    assert_eq!(bench.new_connections, 1);
    for n in 1..=3 {
        assert_eq!((bench.reason(), bench.new_connections), (Reason::Ok, n));
        bench.input(Input::NewConnectionChecked(Err(ConnectFailure::TimedOut)));
        bench.run(bench.now + 5_500 * MS, Bench::serve);
    }
    assert_eq!(bench.reason(), Reason::NewConnectionsFail);
    assert_eq!(bench.prober.verdict().state(), State::Degraded);
    // A connection that replaces the lasting one is new as well.
    bench.close();
    bench.run(bench.now + 2_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::Ok);
}

#[test]
fn an_error_to_auth_is_told_by_its_first_word_only() {
    let mut bench = Bench::served();
    let told = "ERR unknown command 'AUTH', with args beginning with: 'secret'";
    bench.input(Input::NewConnectionChecked(Ok(reply::auth(told).unwrap())));
    let evidence = &*bench.prober.verdict().evidence;
    assert!(
        evidence.contains("AUTH answered -ERR") && !evidence.contains("secret"),
        "{evidence}"
    );
}

#[test]
fn a_full_server_that_speaks_tls_is_not_dead() {
    let mut bench = Bench::new();
    bench.prober.config.tls = true;
    bench.info = "connected_clients:99\r\nconnected_slaves:1\r\nmaxclients:100\r\n";
    bench.up();
    bench.input(Input::Certificate(WallMs(1)));
    let cut = || ConnectFailure::TlsEnded("the handshake ended: EOF".into());
    bench.input(Input::NewConnectionChecked(Err(cut())));
    assert_eq!(bench.reason(), Reason::MaxClients);
    bench.close();
    for _ in 0..FAST_RETRIES_MAX + 6 {
        bench.connecting = false;
        bench.input(Input::ConnectFailed(cut()));
        bench.now = bench.prober.next_deadline();
        bench.input(Input::Tick);
        assert_eq!(bench.prober.verdict().state(), State::Degraded);
    }
    // Long after the last INFO, the peer may be a proxy whose server is dead.
    bench.now = bench.now + 30_000 * MS;
    for _ in 0..4 {
        bench.connecting = false;
        bench.input(Input::ConnectFailed(cut()));
        bench.now = bench.prober.next_deadline();
        bench.input(Input::Tick);
    }
    assert_eq!(bench.reason(), Reason::ConnectionReset);
}

#[test]
fn a_silent_handshake_is_silence() {
    let mut bench = Bench::new();
    bench.prober.config.tls = true;
    bench.up();
    let last = bench.last_valid;
    let silent = |b: &mut Bench| {
        if b.connecting {
            b.connecting = false;
            b.now = b.now + 500 * MS;
            b.input(Input::ConnectFailed(ConnectFailure::TlsSilent));
        }
    };
    bench.run(last + 20_000 * MS, silent);
    let reasons: Vec<_> = bench.verdicts.iter().map(|(_, reason, _)| *reason).collect();
    assert_eq!(reasons, [Reason::Ok, Reason::ReplyTimeout]);
    assert_eq!(bench.verdicts[1].0, last + 3_000 * MS);
    // A server that never answered hangs too, though there was no reply to count from.
    let mut bench = Bench::new();
    bench.run(bench.now + 6_000 * MS, silent);
    assert_eq!(bench.reason(), Reason::ReplyTimeout);
    assert_eq!(bench.prober.verdict().stage, Stage::Tls);
}

#[test]
fn a_large_process_is_looked_at_while_its_answer_is_awaited_too() {
    let mut bench = Bench::new();
    bench.info = "used_memory_rss:4831838208\r\n";
    bench.up();
    // After a slow answer, the next late one is overdue later.
    bench.run(bench.now + 10_500 * MS, Bench::answer);
    bench.run(bench.last_valid + 900 * MS, |_| {});
    bench.answer();
    let before = (bench.inspected, bench.last_valid);
    bench.run(before.1 + 800 * MS, |_| {});
    assert!(!bench.pending.is_empty());
    let looks = bench.inspected - before.0;
    assert!((20..=30).contains(&looks), "{looks} in 800 ms, each 30 ms");
}

#[test]
fn writes_refused_for_too_few_replicas_restrict_for_a_minute() {
    let mut bench = Bench::new();
    bench.info = "min_slaves_good_slaves:1\r\nerrorstat_NOREPLICAS:count=4\r\n";
    bench.up();
    bench.run(bench.now + 11_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::Ok, "those may be of long ago");
    bench.info = "min_slaves_good_slaves:1\r\nerrorstat_NOREPLICAS:count=5\r\n";
    bench.run(bench.now + 11_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::NotEnoughReplicas);
    bench.run(bench.now + 50_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::NotEnoughReplicas);
    bench.run(bench.now + 12_000 * MS, Bench::serve);
    assert_eq!(bench.reason(), Reason::Ok);
}

#[test]
fn a_handshake_that_ends_is_a_mismatch_only_where_tls_was_never_spoken() {
    let ended = || Input::ConnectFailed(ConnectFailure::TlsEnded("EOF".into()));
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.input(Input::Tick);
        bench.input(ended());
        bench.now = bench.prober.next_deadline();
    }
    assert_eq!(bench.reason(), Reason::TlsMismatch);
    let mut bench = Bench::served();
    bench.input(Input::Certificate(WallMs(1)));
    bench.input(Input::Closed("EOF".into()));
    for _ in 0..FAST_RETRIES_MAX + 3 {
        assert_eq!(bench.reason(), Reason::Ok);
        bench.input(ended());
        bench.now = bench.prober.next_deadline();
        bench.input(Input::Tick);
    }
    assert_eq!(bench.reason(), Reason::ConnectionReset);
}

#[test]
fn refused_means_gone_where_no_process_is_found() {
    let config = ProbeConfig {
        vanished: true,
        ..config()
    };
    let mut bench = Bench::new();
    bench.prober = Prober::new(bench.now, WallMs(0), config);
    bench.input(Input::Tick);
    bench.input(Input::ConnectFailed(ConnectFailure::Refused));
    assert_eq!(bench.reason(), Reason::ProcessGone);
}
