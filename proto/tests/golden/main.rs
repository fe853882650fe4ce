//! Messages of every released version, kept as bytes: they stay readable and keep their meaning for ever. The files of a
//! version are written once and never changed; `cargo test -p redkeeper-proto --test golden -- --ignored` adds those that
//! are missing.
// Fields that come later are as they are in a message that does not have them.
#![allow(clippy::unwrap_used, clippy::needless_update)]

mod samples;

use std::{fmt::Debug, path::PathBuf};

use prost::Message;
use redkeeper_core::{
    fleet::Message as Heard,
    ids::AgentId,
    status::{Ability, Reason, Role, Stage},
};
use redkeeper_proto::{
    convert,
    v1::{self, report_status_request::Message as Request},
};
use samples::{each_of_0_1_0, instance};
use serde::Serialize;

fn file(version: &str, name: &str, ending: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    folder.join(version).join(format!("{name}.{ending}"))
}

/// What is done with a message whatever its type.
trait Golden {
    fn bytes(&self) -> Vec<u8>;
    fn json(&self) -> serde_json::Value;
    /// The kept bytes are read as this message, and written as they are.
    fn check(&self, name: &str, bytes: &[u8]);
}

impl<M: Message + Default + PartialEq + Serialize + Debug> Golden for M {
    fn bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap()
    }

    fn check(&self, name: &str, bytes: &[u8]) {
        assert_eq!(&M::decode(bytes).unwrap(), self, "{name}");
        assert_eq!(self.encode_to_vec(), bytes, "{name}");
    }
}

/// Every field of `kept` is in `now`, with the same value.
fn contains(now: &serde_json::Value, kept: &serde_json::Value, at: &str) {
    use serde_json::Value::{Array, Object};
    match (now, kept) {
        (Object(now), Object(kept)) => {
            for (key, value) in kept {
                let found = now.get(key).unwrap_or_else(|| panic!("{at}.{key} is gone"));
                contains(found, value, &format!("{at}.{key}"));
            }
        }
        (Array(now), Array(kept)) => {
            assert_eq!(now.len(), kept.len(), "{at}");
            now.iter()
                .zip(kept)
                .for_each(|(now, kept)| contains(now, kept, at));
        }
        (now, kept) => assert_eq!(now, kept, "{at}"),
    }
}

#[test]
fn messages_of_version_0_1_0_are_read_for_ever() {
    let mut count = 0;
    each_of_0_1_0(|name, message| {
        let kept = |ending| std::fs::read(file("0.1.0", name, ending)).unwrap();
        message.check(name, &kept("bin"));
        contains(
            &message.json(),
            &serde_json::from_slice(&kept("json")).unwrap(),
            name,
        );
        count += 2;
    });
    let folder = file("0.1.0", "any", "bin").parent().unwrap().to_owned();
    let files = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(files, count, "each file is looked at");
}

/// And they mean what they meant.
#[test]
fn reports_of_version_0_1_0_mean_what_they_meant() {
    let agent = AgentId::new("db01").unwrap();
    let read = |name: &str| {
        let bytes = std::fs::read(file("0.1.0", name, "bin")).unwrap();
        let request = v1::ReportStatusRequest::decode(&*bytes).unwrap();
        request.message.unwrap()
    };
    let Request::Hello(hello) = read("agent-hello") else {
        panic!("no Hello")
    };
    let greeting = convert::greeting_from_wire(&hello).unwrap();
    assert_eq!(greeting.agent, agent);
    assert_eq!(greeting.version, "0.1.0");
    for name in ["agent-snapshot", "agent-changes"] {
        let reports = match convert::message_from_wire(read(name), &agent).unwrap() {
            Heard::Snapshot(reports, true) | Heard::Changes(reports) => reports,
            other => panic!("{other:?}"),
        };
        let verdict = &reports[0].verdict;
        assert_eq!(reports.len(), 1);
        assert_eq!((verdict.reason, verdict.role), (Reason::Loading, Role::Replica));
        assert_eq!(verdict.stage, Stage::Reply);
        assert_eq!(verdict.abilities(), (Ability::No, Ability::No));
        assert_eq!(verdict.since.0, 1_763_878_282_120);
        assert_eq!((verdict.restarts, verdict.flapping), (3, true));
        assert_eq!(&*verdict.server_version, "7.4.1");
        assert_eq!(reports[0].freshness_limit.as_millis(), 4_500);
    }
    match convert::message_from_wire(read("agent-heartbeat"), &agent).unwrap() {
        Heard::Heartbeat(ages, _) => assert_eq!((ages.len(), ages[1].1.as_secs()), (2, 70)),
        other => panic!("{other:?}"),
    }
    match convert::message_from_wire(read("agent-gone"), &agent).unwrap() {
        Heard::Gone(handles) => assert_eq!(handles.len(), 2),
        other => panic!("{other:?}"),
    }
}

/// Values and fields of a newer version: neither bytes nor JSON are refused.
#[test]
fn unknown_values_are_shown_by_number() {
    let mut newer = instance();
    let verdict = newer.verdict.as_mut().unwrap();
    (verdict.reason, verdict.role, verdict.stage) = (4_711, 9, 8);
    let mut bytes = newer.encode_to_vec();
    // Field 99, a number.
    bytes.extend([0x98, 0x06, 0x01]);
    let read = v1::Instance::decode(&*bytes).unwrap();
    assert_eq!(read, newer);
    let json = serde_json::to_value(&read).unwrap();
    assert_eq!(json["verdict"]["reason"], 4_711);
    assert_eq!(json["verdict"]["role"], 9);
    assert_eq!(json["verdict"]["state"], "INSTANCE_STATE_DEGRADED");
    let filter = v1::InstanceFilter {
        states: vec![1, 77],
        ..Default::default()
    };
    let json = serde_json::to_value(&filter).unwrap();
    assert_eq!(json["states"], serde_json::json!(["INSTANCE_STATE_UP", 77]));
}

#[test]
#[ignore = "adds files of the present version that are missing"]
fn write_what_is_missing() {
    each_of_0_1_0(|name, message| {
        if !file("0.1.0", name, "bin").exists() {
            let text = serde_json::to_string_pretty(&message.json()).unwrap() + "\n";
            std::fs::write(file("0.1.0", name, "bin"), message.bytes()).unwrap();
            std::fs::write(file("0.1.0", name, "json"), text).unwrap();
        }
    });
}
