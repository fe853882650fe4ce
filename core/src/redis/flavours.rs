//! Tests of servers that the other tests do not run: INFO as their releases write it (shortened, values changed), and
//! their replies in trouble. The tests cover what differs from Redis.

use super::{
    info::{self, Info},
    reply::{self, Reply},
    restrictions,
};
use crate::status::{Reason, Role};

const DRAGONFLY: &str = include_str!("flavours/dragonfly.txt");
const KEYDB: &str = include_str!("flavours/keydb.txt");
const KVROCKS: &str = include_str!("flavours/kvrocks.txt");
const GARNET: &str = include_str!("flavours/garnet.txt");

/// Parses INFO as it comes on the wire.
fn parse(text: &str) -> Info {
    info::parse(&text.replace('\n', "\r\n"))
}

fn reason(text: &str) -> Option<Reason> {
    restrictions::judge(&parse(text), None, restrictions::Refused::default()).map(|meaning| meaning.reason)
}

#[test]
fn each_is_known_by_its_info_and_healthy() {
    for (text, server, version, run_id, process) in [
        (DRAGONFLY, "dragonfly", "df-v2.0.0", false, None),
        (KEYDB, "keydb", "6.3.4", true, Some(78_054)),
        (KVROCKS, "kvrocks", "2.17.0", false, Some(1)),
        (GARNET, "garnet", "2.2.0", true, None),
    ] {
        let info = parse(text);
        assert_eq!((info.server, info.version.as_str()), (server, version));
        assert_eq!(!info.run_id.is_empty(), run_id, "{server}");
        assert_eq!(info.process_id, process, "{server}");
        assert_eq!(info.role, Some(Role::Master), "{server}");
        assert!(info.uptime_seconds.is_some() && !info.cluster_enabled, "{server}");
        assert_eq!(reason(text), None, "{server}");
    }
}

#[test]
fn restrictions_are_seen_in_their_words() {
    let with = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let replica = |link: &str, more: &str| {
        format!("role:slave\nmaster_host:10.0.0.1\nmaster_port:6379\nmaster_link_status:{link}\n{more}")
    };
    for (text, expected) in [
        // KeyDB answers PONG while it loads: only INFO shows it.
        (
            with(KEYDB, "loading:0", "loading:1\nloading_loaded_perc:12.50"),
            Some(Reason::Loading),
        ),
        // Kvrocks omits the section of its role while it loads.
        (
            with(KVROCKS, "loading:0", "loading:1").replace("role:master\n", ""),
            Some(Reason::Loading),
        ),
        (with(DRAGONFLY, "loading:0", "loading:1"), Some(Reason::Loading)),
        // An active replica of KeyDB takes reads and writes, whatever the state of its peer.
        (
            with(
                KEYDB,
                "role:master",
                &replica("down", "").replace("slave", "active-replica"),
            ),
            None,
        ),
        (
            with(KEYDB, "role:master", &replica("down", "")),
            Some(Reason::MasterLinkDown),
        ),
        (
            with(
                KEYDB,
                "role:master",
                &replica("down", "errorstat_MASTERDOWN:count=3\n"),
            ),
            Some(Reason::MasterLinkDown),
        ),
        // Kvrocks and Dragonfly would answer PING with MASTERDOWN if they did not serve stale data.
        (
            with(KVROCKS, "role:master", &replica("down", "")),
            Some(Reason::MasterLinkDown),
        ),
        (
            with(
                DRAGONFLY,
                "role:master",
                &replica("down", "").replace("slave", "replica"),
            ),
            Some(Reason::MasterLinkDown),
        ),
        (with(DRAGONFLY, "role:master", &replica("up", "")), None),
        (
            with(
                GARNET,
                "role:master",
                &replica("up", "master_sync_in_progress:True\n"),
            ),
            Some(Reason::ReplicaSyncing),
        ),
        (
            with(
                GARNET,
                "role:master",
                &replica("up", "master_sync_in_progress:False\n"),
            ),
            None,
        ),
        (
            with(KVROCKS, "role:master", &replica("up", ""))
                .replace("last_bgsave_status:ok", "last_bgsave_status:err"),
            Some(Reason::PersistenceFailed),
        ),
        (
            with(DRAGONFLY, "used_memory:6784704", "used_memory:48540578611"),
            Some(Reason::OutOfMemory),
        ),
    ] {
        assert_eq!(reason(&text), expected, "{text}");
    }
}

#[test]
fn replies_have_their_meaning_whoever_gives_them() {
    for (line, expected) in [
        (
            "LOADING Dragonfly is loading the dataset in memory",
            Reason::Loading,
        ),
        ("LOADING KeyDB is loading the dataset in memory", Reason::Loading),
        ("LOADING kvrocks is restoring the db from backup", Reason::Loading),
        (
            "MASTERDOWN Link with MASTER is down and slave-serve-stale-data is set to 'no'.",
            Reason::MasterLinkDown,
        ),
        (
            "MISCONF KeyDB is configured to save RDB snapshots",
            Reason::PersistenceFailed,
        ),
        ("BUSY KeyDB is busy running a script.", Reason::BusyScript),
        ("CLUSTERDOWN The cluster is not initialized", Reason::ClusterDown),
        ("NOAUTH Authentication required.", Reason::AuthRequired),
        (
            "ERR unknown command `PING`, with args beginning with: ",
            Reason::Ok,
        ),
    ] {
        assert_eq!(
            reply::ping(&Reply::Error(line.to_owned())).reason,
            expected,
            "{line}"
        );
    }
    // Kvrocks answers neither WRONGPASS nor the text of Redis 5.
    let wrong = reply::auth("ERR Invalid password").map(|meaning| meaning.reason);
    assert_eq!(wrong, Some(Reason::AuthFailed));
    // AUTH may be refused with an error that applies to every command.
    let dead = reply::auth("MASTERDOWN Link with MASTER is down").map(|meaning| meaning.reason);
    assert_eq!(dead, Some(Reason::MasterLinkDown));
}
