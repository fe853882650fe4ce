//! Tests of a connection, with one in memory.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use redkeeper_core::redis::resp::REPLY_BYTES_MAX;
use tokio::{
    io::{AsyncReadExt, DuplexStream},
    time::timeout,
};

use super::*;

/// Several megabytes fit, so that a test never waits for its other end.
const ROOM: usize = 8 * 1024 * 1024;

fn pair(auth: Option<&str>, silent: Option<Silent>) -> (Connection, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(ROOM);
    let connection = Connection {
        stream: Box::new(ours),
        decoder: Decoder::default(),
        auth: auth.map(|text| text.as_bytes().to_vec()),
        silent,
        peer: None,
        certificate_ends: None,
        _permit: Permit::take().unwrap(),
    };
    (connection, theirs)
}

fn text(text: &str) -> Received {
    Received::Reply(Reply::Text(text.to_owned().into()))
}

/// Longer than anything takes in virtual time.
const LIMIT: Duration = Duration::from_secs(3_600);

async fn next(connection: &mut Connection) -> Received {
    timeout(LIMIT, connection.receive()).await.unwrap()
}

async fn is_silent(connection: &mut Connection) {
    let received = timeout(LIMIT, connection.receive()).await;
    assert!(received.is_err(), "{received:?}");
}

#[tokio::test(start_paused = true)]
async fn answers_end_and_garbage_are_told_apart() {
    let (mut connection, mut theirs) = pair(None, None);
    theirs
        .write_all(b"+PONG\r\n-LOADING x\r\n$3\r\nab")
        .await
        .unwrap();
    assert_eq!(
        next(&mut connection).await,
        Received::Reply(Reply::Text("PONG".into()))
    );
    assert_eq!(
        next(&mut connection).await,
        Received::Reply(Reply::Error("LOADING x".into()))
    );
    theirs.write_all(b"c\r\nHTTP/1.1 400\r\n").await.unwrap();
    assert_eq!(
        next(&mut connection).await,
        Received::Reply(Reply::Text("abc".into()))
    );
    assert!(matches!(next(&mut connection).await, Received::Garbage(_)));
    drop(theirs);
    assert!(matches!(next(&mut connection).await, Received::Closed(_)));
}

#[tokio::test(start_paused = true)]
async fn answers_that_come_together_are_received_one_by_one_and_in_their_order() {
    let (mut connection, mut theirs) = pair(None, None);
    let answers = b"+OK\r\n+PONG\r\n$4\r\na\r\nb\r\n*2\r\n:1\r\n$-1\r\n-ERR x\r\n+PO";
    theirs.write_all(answers).await.unwrap();
    for wanted in [text("OK"), text("PONG"), text("a\r\nb")] {
        assert_eq!(next(&mut connection).await, wanted);
    }
    assert_eq!(next(&mut connection).await, Received::Reply(Reply::Other));
    assert_eq!(
        next(&mut connection).await,
        Received::Reply(Reply::Error("ERR x".into()))
    );
    is_silent(&mut connection).await;
    theirs.write_all(b"NG\r\n").await.unwrap();
    assert_eq!(next(&mut connection).await, text("PONG"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_pieces_is_received_when_it_is_whole_although_the_wait_was_given_up() {
    let (mut connection, mut theirs) = pair(None, None);
    let answer = b"$11\r\nrole:master\r\n";
    for byte in &answer[..answer.len() - 1] {
        theirs.write_all(&[*byte]).await.unwrap();
        is_silent(&mut connection).await;
    }
    theirs.write_all(b"\n+PONG\r\n").await.unwrap();
    assert_eq!(next(&mut connection).await, text("role:master"));
    assert_eq!(next(&mut connection).await, text("PONG"));
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_after_all_that_came_before_it_but_half_an_answer_is_none() {
    let (mut connection, mut theirs) = pair(None, None);
    theirs.write_all(b"+PONG\r\n$9\r\nrole:").await.unwrap();
    drop(theirs);
    assert_eq!(next(&mut connection).await, text("PONG"));
    let closed = Received::Closed("closed by the peer".to_owned());
    assert_eq!(next(&mut connection).await, closed);
    assert!(connection.send(&[Command::Ping]).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn of_an_answer_that_is_too_long_the_beginning_is_received_and_the_rest_skipped() {
    let (mut connection, mut theirs) = pair(None, None);
    let line = "cmdstat_get:calls=1\r\n";
    let body = line.repeat(3 * REPLY_BYTES_MAX / line.len());
    let answer = format!("${}\r\n{body}\r\n+PONG\r\n", body.len());
    theirs.write_all(answer.as_bytes()).await.unwrap();
    let Received::Reply(Reply::Long(beginning)) = next(&mut connection).await else {
        panic!("a long answer is not told as one");
    };
    assert!(body.starts_with(&beginning) && beginning.ends_with(line));
    assert!(beginning.len() <= REPLY_BYTES_MAX && beginning.len() + line.len() > REPLY_BYTES_MAX);
    assert_eq!(next(&mut connection).await, text("PONG"));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_no_server_would_give_is_not_waited_for() {
    for answer in ["$99999999999\r\n", "*99999999999\r\n"] {
        let (mut connection, mut theirs) = pair(None, None);
        theirs.write_all(answer.as_bytes()).await.unwrap();
        let received = next(&mut connection).await;
        assert!(matches!(received, Received::Garbage(_)), "{received:?}");
    }
    // A line without an end.
    let (mut connection, mut theirs) = pair(None, None);
    theirs.write_all(&[b'+'; 128 * 1024]).await.unwrap();
    assert!(matches!(next(&mut connection).await, Received::Garbage(_)));
}

#[tokio::test(start_paused = true)]
async fn what_is_no_answer_is_shown_unless_it_may_repeat_the_password() {
    let echo = "AUTH hunter2\r\n";
    let (mut connection, mut theirs) = pair(None, None);
    theirs.write_all(echo.as_bytes()).await.unwrap();
    let shown = Received::Garbage("\"AUTH hunter2\\r\\n\"".to_owned());
    assert_eq!(next(&mut connection).await, shown);

    let (mut connection, mut theirs) = pair(Some("*2\r\n$4\r\nAUTH\r\n$7\r\nhunter2\r\n"), None);
    theirs.write_all(echo.as_bytes()).await.unwrap();
    let hidden = Received::Garbage("not shown".to_owned());
    assert_eq!(next(&mut connection).await, hidden);
}

#[tokio::test(start_paused = true)]
async fn commands_are_sent_together_and_in_their_order() {
    let auth = "*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n";
    let (mut connection, mut theirs) = pair(Some(auth), None);
    let commands = [Command::Auth, Command::Ping, Command::Info, Command::ClusterInfo];
    connection.send(&commands).await.unwrap();
    connection.send(&[Command::Ping]).await.unwrap();
    drop(connection);
    let mut sent = String::new();
    theirs.read_to_string(&mut sent).await.unwrap();
    let ping = "*1\r\n$4\r\nPING\r\n";
    let rest = "*1\r\n$4\r\nINFO\r\n*2\r\n$7\r\nCLUSTER\r\n$4\r\nINFO\r\n";
    assert_eq!(sent, format!("{auth}{ping}{rest}{ping}"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_a_connection_without_a_word_may_want_tls_or_a_certificate() {
    let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 6379));
    for (silent, speaks_first) in [
        (Silent::Plain(peer), false),
        (Silent::Plain(peer), true),
        (Silent::Anonymous, false),
        (Silent::Anonymous, true),
    ] {
        let (mut connection, mut theirs) = pair(None, Some(silent));
        if speaks_first {
            // Even half an answer shows that the server understood.
            theirs.write_all(b"+PO").await.unwrap();
        }
        drop(theirs);
        let end = next(&mut connection).await;
        match (silent, speaks_first) {
            (Silent::Anonymous, false) => {
                assert!(
                    matches!(&end, Received::Refused(ConnectFailure::TlsCertificate(_))),
                    "{end:?}"
                );
            }
            _ => assert!(matches!(&end, Received::Closed(_)), "{end:?}"),
        }
        let tls_is_tried = matches!(silent, Silent::Plain(_)) && !speaks_first;
        assert_eq!(connection.silent_peer(), Some(peer).filter(|_| tls_is_tried));
    }
}
