//! Finds restrictions that PING does not show, in INFO and CLUSTER INFO of a server that answers PING with PONG.
//! `docs/replies.md` has the rules.

use crate::{
    redis::{info::Info, reply::Meaning},
    status::{Ability, Reason, Role, Stage},
};

/// What the server has refused recently, by its own counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refused {
    /// Commands, for lack of memory (OOM).
    pub memory: bool,
    /// Writes, because saving fails (MISCONF).
    pub persistence: bool,
    /// Writes, as a replica does (READONLY).
    pub read_only: bool,
    /// Writes, for too few replicas (NOREPLICAS).
    pub replicas: bool,
}

/// The gravest restriction; `None` if there is none.
pub fn judge(info: &Info, cluster_info: Option<&str>, refused: Refused) -> Option<Meaning> {
    let health = &info.health;
    let is_replica = info.role == Some(Role::Replica);
    // A master that replicates from others, as with KeyDB, serves all the same.
    let can_sync = info.role != Some(Role::Master);
    let mut abilities = None;
    let cluster_failed =
        cluster_info.is_some_and(|text| text.lines().any(|line| line.trim_end() == "cluster_state:fail"));
    let (reason, evidence) = if health.loading {
        (Reason::Loading, loading(info))
    } else if cluster_failed {
        (
            Reason::ClusterDown,
            "CLUSTER INFO says cluster_state:fail".to_owned(),
        )
    } else if is_replica
        && health.master_link_down
        && health.refused_for_master > 0
        && old_version(info).is_some()
    {
        // Reads are refused only where stale data is forbidden. From Redis 7 on, PING itself says so, and PONG means
        // that reads are served again.
        let text = "INFO says that the link to the master is down, and that reads were refused for it";
        (Reason::MasterLinkDown, text.to_owned())
    } else if health.syncing && can_sync {
        let text = "INFO says that the first synchronisation with the master is in progress";
        (Reason::ReplicaSyncing, text.to_owned())
    } else if health.async_loading && can_sync {
        let text = "INFO says that what the master sent is loaded beside what is served";
        (Reason::ReplicaSyncing, text.to_owned())
    } else if health.master_link_down && is_replica {
        let (reads, text) = link_down(info);
        abilities = Some((reads, Ability::No));
        (Reason::MasterLinkDown, text)
    } else if health.persistence_failed && is_replica {
        // A master that refuses writes because of this says so to PING; one that answers PONG is configured to
        // continue.
        (
            Reason::PersistenceFailed,
            "INFO says that the last save or AOF write failed".to_owned(),
        )
    } else if is_replica {
        // A replica takes no writes of clients, so it is restricted neither by its own memory limit nor by a minimum of
        // replicas, which is mostly configured on all servers alike.
        return None;
    } else if health.noeviction && health.max_memory > 0 && health.counted_memory() >= health.max_memory {
        let text = format!(
            "INFO says that used_memory has reached maxmemory {} with noeviction",
            health.max_memory
        );
        (Reason::OutOfMemory, text)
    } else if refused.memory && is_nearly_full(info) {
        let text = format!(
            "INFO counts commands that were refused with OOM of late: nothing can be evicted, with used_memory near \
             maxmemory {}",
            health.max_memory
        );
        (Reason::OutOfMemory, text)
    } else if refused.persistence {
        let text = "INFO counts writes that were refused with MISCONF of late: saving to the disk fails";
        (Reason::PersistenceFailed, text.to_owned())
    } else if health.writes_paused {
        let text = "INFO says that writes are paused (CLIENT PAUSE); CLIENT UNPAUSE ends it";
        (Reason::WritesBlocked, text.to_owned())
    } else if refused.read_only {
        let text = "INFO says role:master, but counts writes that were refused with READONLY of late";
        (Reason::WritesBlocked, text.to_owned())
    } else if let Some(good) = health.good_replicas.filter(|good| *good == 0 || refused.replicas) {
        // INFO does not show the minimum itself, but if one is configured it is at least 1.
        let text = match good {
            0 => "INFO says that no replica is good, and a minimum is configured".to_owned(),
            _ => "INFO counts writes that were refused of late for too few good replicas".to_owned(),
        };
        (Reason::NotEnoughReplicas, text)
    } else {
        return None;
    };
    Some(Meaning {
        reason,
        stage: Stage::Reply,
        evidence: evidence.into(),
        abilities,
    })
}

/// The version of a Redis or KeyDB whose PING does not say that stale reads are forbidden.
fn old_version(info: &Info) -> Option<(u32, u32)> {
    let mut numbers = info.version.split('.').map(|text| text.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    version.filter(|version| matches!(info.server, "redis" | "keydb") && *version < (7, 0))
}

/// Whether memory is so near its limit, within a twentieth, that recent refusals can still be due to it.
fn is_nearly_full(info: &Info) -> bool {
    let (used, max) = (info.health.counted_memory(), info.health.max_memory);
    max > 0 && used.saturating_add(max / 20) >= max
}

/// Human-readable progress of the loading.
pub fn loading(info: &Info) -> String {
    let health = &info.health;
    let eta = health
        .loading_eta_seconds
        .map(|s| format!(", {s} s left"))
        .unwrap_or_default();
    let percent = if health.loaded_percent.is_empty() {
        "the dataset".to_owned()
    } else {
        format!("{} % done", health.loaded_percent)
    };
    format!("loading: {percent}{eta}")
}

/// Whether a replica without its master serves reads, while no synchronisation is in progress. From Redis 7 on, PING
/// says MASTERDOWN where stale reads are forbidden, so PONG means that they are served, as with Kvrocks and Dragonfly.
/// Redis 6.2 counts the reads that it refused; earlier versions show nothing. The text omits the duration, which would
/// become outdated.
fn link_down(info: &Info) -> (Ability, String) {
    let (reads, served) = match old_version(info) {
        Some(version) if version < (6, 2) => (
            Ability::Unknown,
            "this version does not show whether stale data is served",
        ),
        Some(_) => (Ability::Yes, "no read was refused for it"),
        None => (Ability::Yes, "stale data is served"),
    };
    let never = if info.health.master_never_reached {
        "; it has not reached its master since it was started"
    } else {
        ""
    };
    (
        reads,
        format!("INFO says that the link to the master is down; {served}{never}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::info::parse;

    fn reason(text: &str, cluster: Option<&str>) -> Option<Reason> {
        judge(&parse(text), cluster, Refused::default()).map(|meaning| meaning.reason)
    }

    #[test]
    fn each_restriction_is_seen() {
        let replica = "role:slave\r\nmaster_link_status:down\r\n";
        for (text, expected) in [
            (
                "role:master\r\nloading:0\r\nmaxmemory:0\r\nused_memory:9\r\nmaxmemory_policy:noeviction\r\n",
                None,
            ),
            (
                "loading:1\r\nloading_loaded_perc:43.70\r\n",
                Some(Reason::Loading),
            ),
            (
                &format!("redis_version:7.0.15\r\n{replica}"),
                Some(Reason::MasterLinkDown),
            ),
            (
                &format!("redis_version:6.2.14\r\n{replica}"),
                Some(Reason::MasterLinkDown),
            ),
            (
                &format!("redis_version:6.2.14\r\n{replica}errorstat_MASTERDOWN:count=1\r\n"),
                Some(Reason::MasterLinkDown),
            ),
            (
                &format!("redis_version:6.0.9\r\n{replica}"),
                Some(Reason::MasterLinkDown),
            ),
            // The reads were refused before stale data was allowed: PONG says that it is served now.
            (
                &format!(
                    "redis_version:7.0.15\r\n{replica}master_sync_in_progress:1\r\nerrorstat_MASTERDOWN:count=1\r\n"
                ),
                Some(Reason::ReplicaSyncing),
            ),
            (
                "role:slave\r\nmaster_link_status:up\r\nasync_loading:1\r\n",
                Some(Reason::ReplicaSyncing),
            ),
            (
                &format!("redis_version:7.2.4\r\nvalkey_version:8.1.8\r\n{replica}"),
                Some(Reason::MasterLinkDown),
            ),
            (
                "role:slave\r\nmaster_sync_in_progress:1\r\nmaster_link_status:down\r\n",
                Some(Reason::ReplicaSyncing),
            ),
            (
                "role:slave\r\nrdb_last_bgsave_status:err\r\n",
                Some(Reason::PersistenceFailed),
            ),
            ("role:master\r\nrdb_last_bgsave_status:err\r\n", None),
            // KeyDB: an active replica says that it is a master, and serves while it synchronises.
            (
                "role:master\r\nmaster_sync_in_progress:1\r\nmaster_link_status:down\r\n",
                None,
            ),
            ("role:master\r\nasync_loading:1\r\n", None),
            (
                "role:master\r\npaused_actions:write\r\n",
                Some(Reason::WritesBlocked),
            ),
            ("role:master\r\npaused_actions:none\r\n", None),
            (
                "role:slave\r\nmaster_link_status:up\r\npaused_actions:write\r\n",
                None,
            ),
            (
                "maxmemory:1\r\nused_memory:9\r\nmaxmemory_policy:noeviction\r\n",
                Some(Reason::OutOfMemory),
            ),
            (
                "maxmemory:1\r\nused_memory:9\r\nmaxmemory_policy:allkeys-lru\r\n",
                None,
            ),
            ("min_slaves_good_slaves:0\r\n", Some(Reason::NotEnoughReplicas)),
            ("min_slaves_good_slaves:1\r\n", None),
            ("role:slave\r\nmin_slaves_good_slaves:0\r\n", None),
            (
                "role:slave\r\nmaxmemory:1\r\nused_memory:9\r\nmaxmemory_policy:noeviction\r\n",
                None,
            ),
            (
                "maxmemory:5\r\nused_memory:9\r\nmem_not_counted_for_evict:5\r\nmaxmemory_policy:noeviction\r\n",
                None,
            ),
        ] {
            assert_eq!(reason(text, None), expected, "{text}");
        }
        assert_eq!(
            reason("role:master\r\n", Some("cluster_state:fail\r\n")),
            Some(Reason::ClusterDown)
        );
        assert_eq!(reason("role:master\r\n", Some("cluster_state:ok\r\n")), None);
        let one_of_two = parse("min_slaves_good_slaves:1\r\nerrorstat_NOREPLICAS:count=4\r\n");
        let refused = |replicas| {
            let refused = Refused {
                replicas,
                ..Refused::default()
            };
            judge(&one_of_two, None, refused).map(|meaning| meaning.reason)
        };
        assert_eq!(
            [refused(true), refused(false)],
            [Some(Reason::NotEnoughReplicas), None]
        );
    }

    #[test]
    fn counted_refusals_restrict_a_master_whatever_its_policy() {
        let all = Refused {
            memory: true,
            persistence: true,
            read_only: true,
            replicas: true,
        };
        let only = |f: fn(&mut Refused)| {
            let mut refused = Refused::default();
            f(&mut refused);
            refused
        };
        let full = "role:master\r\nmaxmemory:1000\r\nused_memory:990\r\nmaxmemory_policy:allkeys-lru\r\n";
        for (text, refused, expected) in [
            (full, only(|r| r.memory = true), Some(Reason::OutOfMemory)),
            (
                "role:master\r\nmaxmemory:1000\r\nused_memory:900\r\n",
                only(|r| r.memory = true),
                None,
            ),
            (
                "role:master\r\nmaxmemory:0\r\nused_memory:900\r\n",
                only(|r| r.memory = true),
                None,
            ),
            (
                full,
                only(|r| r.persistence = true),
                Some(Reason::PersistenceFailed),
            ),
            (full, only(|r| r.read_only = true), Some(Reason::WritesBlocked)),
            (full, Refused::default(), None),
            ("role:slave\r\nmaster_link_status:up\r\n", all, None),
        ] {
            let judged = judge(&parse(text), None, refused).map(|meaning| meaning.reason);
            assert_eq!(judged, expected, "{text} {refused:?}");
        }
    }

    #[test]
    fn a_replica_without_a_master_serves_what_it_has() {
        let down = "role:slave\r\nmaster_link_status:down\r\nmaster_link_down_since_seconds:";
        for (version, since, reads, never) in [
            ("7.0.15", "10", Ability::Yes, false),
            ("7.0.15", "-1", Ability::Yes, true),
            ("6.2.14", "9000000000000000000", Ability::Yes, false),
            ("6.0.9", "1600947692", Ability::Unknown, false),
        ] {
            let info = parse(&format!("redis_version:{version}\r\n{down}{since}\r\n"));
            let meaning = judge(&info, None, Refused::default()).unwrap();
            assert_eq!(
                (meaning.reason, meaning.abilities),
                (Reason::MasterLinkDown, Some((reads, Ability::No)))
            );
            assert_eq!(meaning.evidence.contains("has not reached its master"), never);
            assert!(
                !meaning.evidence.contains(since.trim_start_matches('-')),
                "{}",
                meaning.evidence
            );
        }
    }

    #[test]
    fn durations_that_cannot_be_are_left_out() {
        for eta in ["-1", "1600947692", "18446744073709551615", "x"] {
            let info = parse(&format!(
                "loading:1\r\nloading_loaded_perc:1.00\r\nloading_eta_seconds:{eta}\r\nuptime_in_seconds:{eta}\r\n"
            ));
            assert_eq!(
                (loading(&info).as_str(), info.uptime_seconds),
                ("loading: 1.00 % done", None),
                "{eta}"
            );
        }
    }

    #[test]
    fn loading_tells_how_far() {
        let info = parse("loading:1\r\nloading_loaded_perc:43.70\r\nloading_eta_seconds:12\r\n");
        assert_eq!(loading(&info), "loading: 43.70 % done, 12 s left");
    }
}
