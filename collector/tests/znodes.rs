//! Znodes of every released version, kept as they were written: each is read for ever, and never written anew only
//! because it is of another version. The files of a version are never changed.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use redkeeper_collector::{
    publish::format::native,
    store::records::{self, CollectorJson, EpochJson, MetaJson, PublisherJson},
};
use redkeeper_core::{
    ids::InstanceId,
    publish::StoredStatus,
    status::{Ability, Reason, Role, State},
};

fn kept(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/0.1.0");
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn statuses_of_version_0_1_0_are_read_for_ever() {
    let yes_yes = (Ability::Yes, Ability::Yes);
    for (name, id, cluster, reason, role, abilities) in [
        (
            "status-up.json",
            "db01:6379",
            Some("orders"),
            Reason::Ok,
            Role::Master,
            yes_yes,
        ),
        (
            "status-down.json",
            "cache.eu",
            None,
            Reason::ConnectionRefused,
            Role::Replica,
            (Ability::No, Ability::No),
        ),
        (
            "status-unknown.json",
            "db02:6379",
            None,
            Reason::AgentSilent,
            Role::Unknown,
            (Ability::Unknown, Ability::Unknown),
        ),
    ] {
        let held = native::read_status(&InstanceId::new(id).unwrap(), &kept(name));
        let StoredStatus::Record(record) = held else {
            panic!("{name}: {held:?}")
        };
        let verdict = &record.status.verdict;
        assert_eq!(
            (record.reason(), verdict.role, verdict.abilities()),
            (reason, role, abilities),
            "{name}"
        );
        let found = record.status.identity.cluster.as_ref().map(|name| name.as_str());
        assert_eq!(found, cluster);
        assert_eq!(
            (record.epoch.0, record.rev, record.origin.seq.0),
            (42, 7, 1_000),
            "{name}"
        );
        assert_eq!(verdict.since.0, 1_763_878_282_103, "{name}");
        // Whatever else this version writes, what consumers rely on stays.
        let now: serde_json::Value = serde_json::from_slice(&native::status(&record)).unwrap();
        let then: serde_json::Value = serde_json::from_slice(&kept(name)).unwrap();
        for (key, value) in then.as_object().unwrap() {
            assert_eq!(&now[key], value, "{name}: {key}");
        }
    }
}

/// What a version to come may write: more fields, a reason and a role without a word here, a greater `v`.
#[test]
fn statuses_of_a_newer_version_are_read_and_left_as_they_are() {
    let id = InstanceId::new("db01:6379").unwrap();
    let held = native::read_status(&id, &kept("status-newer.json"));
    let StoredStatus::Record(record) = held else {
        panic!("{held:?}")
    };
    assert_eq!(record.reason(), Reason::Unrecognized(0, State::Degraded));
    assert_eq!(record.status.verdict.abilities(), (Ability::Yes, Ability::No));
}

#[test]
fn the_other_znodes_of_version_0_1_0_are_read_for_ever() {
    let bucket = records::read_bucket(&kept("bucket.json"));
    assert_eq!((bucket.generation, bucket.count), (9, 3));
    let epoch: EpochJson = serde_json::from_slice(&kept("epoch.json")).unwrap();
    assert_eq!(
        (epoch.epoch, epoch.holder.as_str(), epoch.claim.as_str()),
        (42, "a", "0123abcd")
    );
    let publisher: PublisherJson = serde_json::from_slice(&kept("publisher.json")).unwrap();
    assert_eq!((publisher.epoch, publisher.phase.as_str()), (42, "live"));
    let member: CollectorJson = serde_json::from_slice(&kept("collector.json")).unwrap();
    assert_eq!(
        (member.id.as_str(), member.grpc.as_str()),
        ("a", "a.example:7400")
    );
    let meta: MetaJson = serde_json::from_slice(&kept("meta.json")).unwrap();
    assert_eq!(meta, MetaJson::default());
}
