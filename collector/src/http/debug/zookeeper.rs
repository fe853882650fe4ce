//! `/debug/zookeeper`: the session with ZooKeeper and what passes through it. Makes no request to ZooKeeper.

use std::collections::BTreeMap;

use redkeeper_core::time::{Mono, WallMs};
use redkeeper_runtime::{
    admin::{Content, short},
    clock::rfc3339,
};
use serde_json::{Value, json};

use super::{Now, Sources, lines};
use crate::{
    leader::leadership::Leadership,
    store::{
        Connection,
        diagnostics::{Fault, Pending, Publishing, SessionState, Snapshot},
    },
};

/// The page.
pub(super) fn page(sources: &Sources) -> Content {
    if sources.standalone {
        return Content {
            text: "standalone: there is no ZooKeeper, statuses are kept in memory only\n".to_owned(),
            json: json!({ "standalone": true }),
        };
    }
    let leadership = sources.leadership.borrow().clone();
    let snapshot = sources.diagnostics.snapshot();
    let now = Now::of(sources.clock);
    Content {
        text: text(sources, &leadership, &snapshot, now),
        json: json(sources, &leadership, &snapshot, now),
    }
}

/// Who holds the registration of this collector's id.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Registration {
    /// The session with this id, which is the present one.
    Own(i64),
    /// Another session since then, with this address.
    Other(Mono, String),
    /// Nobody, or it is not known yet.
    NotSeen,
}

/// Decides it by what was last read of the members.
fn registration(id: &str, leadership: &Leadership, session: Option<SessionState>) -> Registration {
    match (session, &leadership.id_taken) {
        (Some(_), Some((since, address))) => Registration::Other(*since, address.clone()),
        (Some(session), None) if leadership.members.iter().any(|member| member.id == id) => {
            Registration::Own(session.id)
        }
        _ => Registration::NotSeen,
    }
}

/// Since when the oldest status waits, if any is pending: as told now if few are, or at the last reading of the members.
fn oldest_pending(leadership: &Leadership, publishing: Option<&Publishing>) -> Option<Mono> {
    let publishing = publishing.filter(|publishing| publishing.pending > 0)?;
    match &publishing.few_pending {
        Some((_, oldest)) => *oldest,
        None => leadership.oldest_pending,
    }
}

fn connection_name(connection: Connection) -> &'static str {
    match connection {
        Connection::Connected => "connected",
        Connection::Suspended => "suspended",
        Connection::Lost => "lost",
    }
}

/// A session's id as ZooKeeper's tools print it.
fn hex(session: i64) -> String {
    format!("{session:#x}")
}

fn text(sources: &Sources, leadership: &Leadership, snapshot: &Snapshot, now: Now) -> String {
    let none = || "none".to_owned();
    let connection = snapshot.connection.map_or_else(none, |(connection, since)| {
        format!("{} since {}", connection_name(connection), rfc3339(since))
    });
    let session = snapshot.session.map_or_else(none, |session| {
        let (id, timeout) = (hex(session.id), short(session.timeout));
        format!("{id}, time-out {timeout}, since {}", rfc3339(session.opened))
    });
    let leader = match leadership.leader(now.mono) {
        "" => "not known",
        leader => leader,
    };
    let lease = leadership.lease_ends();
    let members = leadership.members.iter();
    let members: Vec<_> = members
        .map(|member| format!("{} ({})", member.id, member.grpc))
        .collect();
    let election = snapshot.election.map_or_else(none, |(operation, since)| {
        format!("{operation}, since {}", short(now.mono.since(since)))
    });
    let rows = [
        ("servers", leadership.servers.clone()),
        ("connection", connection),
        ("session", session),
        ("sessions so far", snapshot.sessions.to_string()),
        ("phase", leadership.phase.to_owned()),
        ("leader", leader.to_owned()),
        ("epoch", leadership.epoch.to_string()),
        ("lease ends", lease.map_or_else(none, |at| now.relative(at))),
        (
            "registration",
            registration_text(sources, leadership, snapshot, now),
        ),
        ("members", members.join(", ")),
        ("election", election),
        ("publisher", publisher_text(snapshot.publishing.as_ref())),
        ("audit", audit_text(snapshot.publishing.as_ref())),
        ("oldest pending", {
            let oldest = oldest_pending(leadership, snapshot.publishing.as_ref());
            oldest.map_or_else(none, |at| now.relative(at))
        }),
        ("refused writes", {
            let refused = leadership.refused.as_ref();
            refused.map_or_else(none, |(first, count)| format!("{count}, the first: {first}"))
        }),
    ];
    let mut text = lines(&rows);
    text.push_str(&pending_text("REQUEST IN FLIGHT", &snapshot.requests, now));
    text.push_str(&pending_text("WATCH", &snapshot.watches, now));
    text.push_str("\nLAST ERRORS           TIMES  OPERATION   TEXT\n");
    // The newest first.
    for fault in snapshot.errors.iter().rev() {
        let Fault {
            time,
            operation,
            text: what,
            times,
        } = fault;
        text.push_str(&format!(
            "{:<22}{times:<7}{operation:<12}{what}\n",
            rfc3339(*time)
        ));
    }
    text
}

fn registration_text(sources: &Sources, leadership: &Leadership, snapshot: &Snapshot, now: Now) -> String {
    let id = sources.id.as_str();
    let path = sources.layout.member(id);
    match registration(id, leadership, snapshot.session) {
        Registration::Own(session) => format!("{path}, of session {}", hex(session)),
        Registration::Other(since, address) => {
            let since = short(now.mono.since(since));
            format!("{path}, of another session with the address {address}, since {since}")
        }
        Registration::NotSeen => format!("{path} was not seen"),
    }
}

fn publisher_text(publishing: Option<&Publishing>) -> String {
    let Some(publishing) = publishing else {
        return "does not publish".to_owned();
    };
    let Publishing {
        stage,
        seen,
        pending,
        writes_in_flight,
        ..
    } = publishing;
    let hold = if publishing.on_hold { ", on hold" } else { "" };
    let seen = seen.0;
    format!("{stage}{hold}, {pending} pending, {writes_in_flight} writes in flight, at revision {seen}")
}

fn audit_text(publishing: Option<&Publishing>) -> String {
    let Some((next, pass)) = publishing.and_then(|publishing| publishing.audit_position) else {
        return "none".to_owned();
    };
    let reading = publishing.and_then(|publishing| publishing.audit_reading);
    let reading = reading.map_or_else(String::new, |bucket| format!("reads bucket {bucket}, "));
    format!("{reading}bucket {next} is next, {pass} passes")
}

fn pending_text(title: &str, pending: &BTreeMap<u64, Pending>, now: Now) -> String {
    let mut text = format!("\n{title:<22}SINCE        SUBJECT\n");
    for Pending {
        operation,
        subject,
        since,
    } in pending.values()
    {
        let since = short(now.mono.since(*since));
        text.push_str(&format!("{operation:<22}{since:<13}{subject}\n"));
    }
    text
}

fn json(sources: &Sources, leadership: &Leadership, snapshot: &Snapshot, now: Now) -> Value {
    let members = leadership.members.iter();
    json!({
        "standalone": false,
        "servers": leadership.servers,
        "connection": snapshot.connection.map(|(connection, since)| json!({
            "state": connection_name(connection), "since": rfc3339(since),
        })),
        "session": snapshot.session.map(|session| json!({
            "id": hex(session.id),
            "timeout_seconds": session.timeout.as_secs_f64(),
            "since": rfc3339(session.opened),
        })),
        "sessions": snapshot.sessions,
        "phase": leadership.phase,
        "leader": leadership.leader(now.mono),
        "epoch": leadership.epoch,
        "lease_ends_in_seconds": leadership.lease_ends().map(|at| now.seconds_until(at)),
        "registration": registration_json(sources, leadership, snapshot, now),
        "members": members.map(|member| json!({
            "id": member.id, "grpc": member.grpc, "version": member.version,
        })).collect::<Vec<_>>(),
        "election": snapshot.election.map(|(operation, since)| json!({
            "waits_for": operation, "seconds": now.seconds_since(since),
        })),
        "publisher": snapshot.publishing.as_ref().map(publisher_json),
        "oldest_pending_seconds": oldest_pending(leadership, snapshot.publishing.as_ref())
            .map(|at| now.seconds_since(at)),
        "refused": leadership.refused.as_ref().map(|(first, count)| json!({
            "first": first, "count": count,
        })),
        "requests": pending_json(&snapshot.requests, now),
        "watches": pending_json(&snapshot.watches, now),
        "errors": snapshot.errors.iter().rev().map(fault_json).collect::<Vec<_>>(),
    })
}

fn registration_json(sources: &Sources, leadership: &Leadership, snapshot: &Snapshot, now: Now) -> Value {
    let id = sources.id.as_str();
    let path = sources.layout.member(id);
    match registration(id, leadership, snapshot.session) {
        Registration::Own(session) => json!({ "path": path, "owner": "own", "session": hex(session) }),
        Registration::Other(since, address) => json!({
            "path": path, "owner": "other", "address": address, "seconds": now.seconds_since(since),
        }),
        Registration::NotSeen => json!({ "path": path, "owner": null }),
    }
}

fn publisher_json(publishing: &Publishing) -> Value {
    let position = publishing.audit_position;
    json!({
        "stage": publishing.stage,
        "on_hold": publishing.on_hold,
        "seen_revision": publishing.seen.0,
        "pending": publishing.pending,
        "writes_in_flight": publishing.writes_in_flight,
        "audit_reads": publishing.audit_reading.map(|bucket| bucket.to_string()),
        "audit_next": position.map(|(next, _)| next.to_string()),
        "audit_passes": position.map(|(_, passes)| passes),
    })
}

fn pending_json(pending: &BTreeMap<u64, Pending>, now: Now) -> Vec<Value> {
    let one = |pending: &Pending| {
        json!({
            "operation": pending.operation,
            "subject": pending.subject,
            "seconds": now.seconds_since(pending.since),
        })
    };
    pending.values().map(one).collect()
}

fn fault_json(fault: &Fault) -> Value {
    let WallMs(unix_ms) = fault.time;
    json!({
        "time": rfc3339(fault.time),
        "unix_ms": unix_ms,
        "operation": fault.operation,
        "text": fault.text,
        "times": fault.times,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redkeeper_core::ids::Revision;

    use super::*;
    use crate::store::records::CollectorJson;

    #[test]
    fn a_registration_is_the_own_ones_only_in_a_session_and_while_nobody_else_holds_it() {
        let session = Some(SessionState {
            id: -1,
            timeout: Duration::from_secs(2),
            opened: WallMs(0),
        });
        let member = |id: &str| CollectorJson {
            id: id.to_owned(),
            ..CollectorJson::default()
        };
        let mut leadership = Leadership {
            members: vec![member("b")],
            ..Leadership::default()
        };
        assert_eq!(registration("a", &leadership, session), Registration::NotSeen);
        leadership.members.push(member("a"));
        assert_eq!(registration("a", &leadership, session), Registration::Own(-1));
        assert_eq!(registration("a", &leadership, None), Registration::NotSeen);
        leadership.id_taken = Some((Mono(7), "x:1".to_owned()));
        let other = Registration::Other(Mono(7), "x:1".to_owned());
        assert_eq!(registration("a", &leadership, session), other);
        assert_eq!(hex(-1), "0xffffffffffffffff");
    }

    #[test]
    fn the_oldest_pending_status_is_as_new_as_is_known() {
        let leadership = Leadership {
            oldest_pending: Some(Mono(1)),
            ..Leadership::default()
        };
        let publishing = |pending, few_pending| Publishing {
            stage: "writing",
            on_hold: false,
            seen: Revision(0),
            pending,
            few_pending,
            refused: Vec::new(),
            writes_in_flight: 0,
            audit_reading: None,
            audit_position: None,
        };
        let few = Some((Vec::new(), Some(Mono(2))));
        let oldest = |publishing: Option<&Publishing>| oldest_pending(&leadership, publishing);
        assert_eq!(oldest(None), None, "a follower has nothing to write");
        assert_eq!(oldest(Some(&publishing(0, few.clone()))), None);
        assert_eq!(oldest(Some(&publishing(2, few))), Some(Mono(2)));
        assert_eq!(oldest(Some(&publishing(900, None))), Some(Mono(1)));
    }
}
