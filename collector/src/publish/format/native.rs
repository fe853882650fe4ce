//! redkeeper's own format of a status znode: one JSON object. Consumers rely on it; fields are only ever added.

use std::{fmt, sync::Arc};

use redkeeper_core::{
    fleet::message_order::Origin,
    ids::{AgentId, BootTag, ClusterName, Epoch, InstanceId, Seq},
    limits::STATUS_JSON_BYTES_MAX,
    publish::{Record, StoredStatus},
    status::{Ability, Reason, Role, Stage, State, Status, Verdict, run_id::RunId},
    time::WallMs,
};
use serde::{Deserialize, Serialize};

/// Version of the status format.
const STATUS_VERSION: u32 = 1;

#[derive(Serialize)]
struct StatusOut<'a> {
    v: u32,
    id: &'a str,
    cluster: &'a str,
    addr: &'a str,
    state: &'a str,
    reason: Text<Reason>,
    reads: &'a str,
    writes: &'a str,
    role: Text<Role>,
    since: Text<humantime::Rfc3339Timestamp>,
    run_id: Text<&'a RunId>,
    agent: &'a str,
    boot: Text<fmt::Arguments<'a>>,
    seq: u64,
    epoch: u64,
    rev: u64,
}

/// Serialized as a string, without allocating one first.
struct Text<T>(T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[derive(Deserialize)]
struct StatusIn {
    /// Version of the format. Grows with a change that readers of this version would misunderstand; added fields do not
    /// count.
    v: u32,
    id: String,
    #[serde(default)]
    cluster: String,
    addr: String,
    #[serde(default)]
    state: String,
    reason: String,
    #[serde(default)]
    reads: String,
    #[serde(default)]
    writes: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    run_id: String,
    agent: String,
    #[serde(default)]
    boot: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    epoch: u64,
    #[serde(default)]
    rev: u64,
}

/// Status JSON, at most [`STATUS_JSON_BYTES_MAX`] bytes.
pub fn status(record: &Record) -> Vec<u8> {
    let Status {
        identity,
        agent,
        verdict,
    } = &*record.status;
    let (reads, writes) = verdict.abilities();
    let since = std::time::UNIX_EPOCH + std::time::Duration::from_millis(verdict.since.0);
    let out = StatusOut {
        boot: Text(format_args!("{:08x}", record.origin.boot.0)),
        v: STATUS_VERSION,
        id: identity.id.as_str(),
        cluster: identity.cluster.as_ref().map_or("", ClusterName::as_str),
        addr: &identity.address,
        state: verdict.state().as_str(),
        reason: Text(verdict.reason),
        reads: reads.as_str(),
        writes: writes.as_str(),
        role: Text(verdict.role),
        since: Text(humantime::format_rfc3339_millis(since)),
        run_id: Text(&verdict.run_id),
        agent: agent.as_str(),
        seq: record.origin.seq.0,
        epoch: record.epoch.0,
        rev: record.rev,
    };
    // Strings and numbers only: this cannot fail.
    let mut bytes = Vec::with_capacity(STATUS_JSON_BYTES_MAX);
    if serde_json::to_writer(&mut bytes, &out).is_err() {
        bytes.clear();
    }
    debug_assert!(bytes.len() <= STATUS_JSON_BYTES_MAX);
    bytes
}

/// Reads the status znode named `id`. Damaged content is [`StoredStatus::Unreadable`], never an error: it is written
/// anew.
pub fn read_status(id: &InstanceId, bytes: &[u8]) -> StoredStatus {
    match parse(id, bytes) {
        Some(record) if says(bytes, &record) => StoredStatus::Record(record),
        Some(record) => StoredStatus::Altered(record),
        None => StoredStatus::Unreadable,
    }
}

/// Fields of the first release: a status without one of them was not written by any version.
const FIRST_FIELDS: &[&str] = &[
    "v", "id", "cluster", "addr", "state", "reason", "reads", "writes", "role", "since", "run_id", "agent",
    "boot", "seq", "epoch", "rev",
];

/// True if a znode holds what this version writes of a record. A newer version may have written more fields, an older
/// one fewer: no leader writes every znode anew only because it knows another number of fields.
fn says(bytes: &[u8], record: &Record) -> bool {
    type Fields = serde_json::Map<String, serde_json::Value>;
    let own = status(record);
    if own == bytes {
        return true;
    }
    let (Ok(found), Ok(own)) = (
        serde_json::from_slice::<Fields>(bytes),
        serde_json::from_slice::<Fields>(&own),
    ) else {
        return false;
    };
    let unrecognized = matches!(record.reason(), Reason::Unrecognized(..));
    own.iter()
        .all(|(name, value)| match (name.as_str(), found.get(name)) {
            ("v", Some(found)) => found.as_u64() >= value.as_u64(),
            // This version has no name for the reason.
            ("reason", Some(_)) if unrecognized => true,
            (_, Some(found)) => found == value,
            (name, None) => !FIRST_FIELDS.contains(&name),
        })
}

/// A reason by its name, or by the number that an older version wrote because it had no name for it.
fn reason(wire: &StatusIn) -> Option<Reason> {
    if let Some(known) = Reason::parse(&wire.reason) {
        return Some(known);
    }
    let state = State::parse(&wire.state)?;
    let number = Reason::number(&wire.reason).unwrap_or(0);
    let known = redkeeper_proto::convert::reason_from_wire(number.into());
    Some(known.unwrap_or(Reason::Unrecognized(number, state)))
}

fn role(text: &str) -> Role {
    let number = || Role::number(text).map(Role::Unrecognized);
    Role::parse(text).or_else(number).unwrap_or(Role::Unknown)
}

fn parse(id: &InstanceId, bytes: &[u8]) -> Option<Record> {
    let wire: StatusIn = serde_json::from_slice(bytes).ok()?;
    if wire.id != id.as_str() || wire.v < STATUS_VERSION {
        return None;
    }
    let since = humantime::parse_rfc3339(&wire.since)
        .ok()?
        .duration_since(std::time::UNIX_EPOCH)
        .ok()?;
    let checked = redkeeper_proto::convert::identity(
        &wire.id,
        &wire.cluster,
        &wire.addr,
        &Default::default(),
        &wire.agent,
    );
    let since = WallMs(u64::try_from(since.as_millis()).ok()?);
    let mut verdict = Verdict::blank(reason(&wire)?, Stage::Resolve, "as published before", since);
    verdict.role = role(&wire.role);
    let told = Ability::parse(&wire.reads).zip(Ability::parse(&wire.writes));
    let usual = verdict.reason.abilities(verdict.role);
    verdict.known_abilities = told.filter(|told| verdict.state() == State::Degraded && *told != usual);
    verdict.run_id = RunId::new(&wire.run_id);
    let status = Status {
        identity: checked.ok()?,
        agent: AgentId::new(&wire.agent).ok()?,
        verdict,
    };
    Some(Record {
        status: Arc::new(status),
        origin: Origin {
            boot: BootTag(u32::from_str_radix(&wire.boot, 16).unwrap_or(0)),
            seq: Seq(wire.seq),
        },
        epoch: Epoch(wire.epoch),
        rev: wire.rev,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use redkeeper_core::limits::{NAME_BYTES_MAX, NAMES_TOTAL_BYTES_MAX, RUN_ID_BYTES_MAX};
    use redkeeper_core::status::Identity;

    fn record(id: &str, address: &str, agent: &str) -> Record {
        let mut verdict = Verdict::blank(Reason::Ok, Stage::Reply, "", WallMs(1_763_878_282_103));
        verdict.role = Role::Master;
        verdict.run_id = "r".repeat(RUN_ID_BYTES_MAX).as_str().into();
        let identity = Identity {
            id: InstanceId::new(id).unwrap(),
            cluster: None,
            address: address.into(),
            labels: Arc::default(),
        };
        let status = Status {
            identity,
            agent: AgentId::new(agent).unwrap(),
            verdict,
        };
        Record {
            status: Arc::new(status),
            origin: Origin {
                boot: BootTag(u32::MAX),
                seq: Seq(u64::MAX),
            },
            epoch: Epoch(u64::MAX),
            rev: u64::MAX,
        }
    }

    #[test]
    fn the_longest_status_fits() {
        let agent = "a".repeat(NAME_BYTES_MAX);
        let id = "i".repeat(NAMES_TOTAL_BYTES_MAX - agent.len() - 20);
        for reason in Reason::ALL {
            for role in Role::ALL {
                let mut record = record(&id, &"x".repeat(20), &agent);
                let verdict = &mut Arc::make_mut(&mut record.status).verdict;
                (verdict.reason, verdict.role) = (*reason, *role);
                let bytes = status(&record);
                assert!(bytes.len() <= STATUS_JSON_BYTES_MAX, "{} bytes", bytes.len());
                assert_eq!(read_status(record.id(), &bytes), StoredStatus::Record(record));
            }
        }
    }

    #[test]
    fn the_format_is_what_consumers_were_promised() {
        let text = String::from_utf8(status(&record("db01:6379", "10.0.0.1:6379", "db01"))).unwrap();
        assert!(
            text.starts_with(
                "{\"v\":1,\"id\":\"db01:6379\",\"cluster\":\"\",\"addr\":\"10.0.0.1:6379\",\"state\":\"UP\",\"reason\":\"OK\",\
                 \"reads\":\"yes\",\"writes\":\"yes\",\"role\":\"master\",\"since\":\"2025-11-23T06:11:22.103Z\",\"run_id\":"
            ),
            "{text}"
        );
    }

    fn changed(text: &str, from: &str, to: &str) -> Vec<u8> {
        assert!(text.contains(from), "{from} not in {text}");
        text.replacen(from, to, 1).into_bytes()
    }

    #[test]
    fn what_another_version_wrote_is_kept_as_it_is() {
        let record = record("db01:6379", "10.0.0.1:6379", "db01");
        let text = String::from_utf8(status(&record)).unwrap();
        let read = |bytes: &[u8]| read_status(record.id(), bytes);
        for (from, to) in [
            ("{", "{ \"more\": [1], "),
            ("\"v\":1", "\"v\":2"),
            (",\"agent\"", ",\"more\":{\"a\":null},\"agent\""),
        ] {
            assert_eq!(
                read(&changed(&text, from, to)),
                StoredStatus::Record(record.clone()),
                "{to}"
            );
        }
        // Edited by hand, or of no version: written anew.
        for (from, to) in [
            ("\"state\":\"UP\"", "\"state\":\"DOWN\""),
            ("\"writes\":\"yes\"", "\"writes\":\"no\""),
            ("\"reads\":\"yes\",", ""),
            ("23T06:11:22.103Z", "23T06:11:22.1030Z"),
        ] {
            let bytes = changed(&text, from, to);
            assert_eq!(read(&bytes), StoredStatus::Altered(record.clone()), "{to}");
        }
        for (from, to) in [
            ("\"v\":1,", ""),
            ("\"v\":1", "\"v\":0"),
            ("\"v\":1", "\"v\":\"1\""),
        ] {
            assert_eq!(read(&changed(&text, from, to)), StoredStatus::Unreadable, "{to}");
        }
    }

    #[test]
    fn reasons_of_newer_versions_are_judged_by_their_state() {
        let mut known = record("db01:6379", "10.0.0.1:6379", "db01");
        let verdict = &mut Arc::make_mut(&mut known.status).verdict;
        (verdict.reason, verdict.role) = (Reason::Unrecognized(77, State::Degraded), Role::Unrecognized(9));
        verdict.known_abilities = Some((Ability::Yes, Ability::No));
        let text = String::from_utf8(status(&known)).unwrap();
        assert!(text.contains("\"state\":\"DEGRADED\",\"reason\":\"REASON_77\",\"reads\":\"yes\",\"writes\":\"no\",\"role\":\"role_9\""), "{text}");
        assert_eq!(
            read_status(known.id(), text.as_bytes()),
            StoredStatus::Record(known.clone())
        );
        // By a name that this version does not have: the state counts, and the znode is not overwritten.
        let held = read_status(known.id(), &changed(&text, "REASON_77", "SHINY"));
        let StoredStatus::Record(record) = held else {
            panic!("{held:?}")
        };
        assert_eq!(record.reason(), Reason::Unrecognized(0, State::Degraded));
        // By a number for which this version has a name.
        let held = read_status(known.id(), &changed(&text, "REASON_77", "REASON_10"));
        assert_eq!(held.record().unwrap().reason(), Reason::Loading);
        assert_eq!(
            read_status(known.id(), &changed(&text, "DEGRADED", "GREAT")),
            StoredStatus::Unreadable
        );
    }

    #[test]
    fn damaged_content_is_unreadable() {
        let id = InstanceId::new("db01:6379").unwrap();
        for bytes in [&b""[..], b"{}", b"null", b"\xff", b"{\"id\":\"other\"}"] {
            assert_eq!(read_status(&id, bytes), StoredStatus::Unreadable);
        }
    }
}
