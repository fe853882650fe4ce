//! What INFO and CLUSTER INFO say of a server that answers PING with PONG: restrictions that PING does not show.
//! Rules: `reference/redis.md` sections 2 and 3.

use crate::{
    agent::{info::Info, reply::Meaning},
    status::{Reason, Role, Stage},
};

/// The gravest restriction; `None` where there is none. `writes_refused`: for too few replicas, of late.
pub fn judge(info: &Info, cluster_info: Option<&str>, writes_refused: bool) -> Option<Meaning> {
    let health = &info.health;
    let cluster_failed =
        cluster_info.is_some_and(|text| text.lines().any(|line| line.trim_end() == "cluster_state:fail"));
    let (reason, evidence) = if health.loading {
        (Reason::Loading, loading(info))
    } else if cluster_failed {
        (
            Reason::ClusterDown,
            "CLUSTER INFO says cluster_state:fail".to_owned(),
        )
    } else if info.role == Some(Role::Replica) && health.master_link_down && health.refused_for_master > 0 {
        // Only where stale data is forbidden are reads refused; from Redis 7 on PING says so by itself.
        let text = "INFO says that the link to the master is down, and that reads were refused for it";
        (Reason::MasterLinkDown, text.to_owned())
    } else if health.syncing {
        let text = "INFO says that the first synchronisation with the master is in progress";
        (Reason::ReplicaSyncing, text.to_owned())
    } else if health.async_loading {
        let text = "INFO says that what the master sent is loaded beside what is served";
        (Reason::ReplicaSyncing, text.to_owned())
    } else if health.master_link_down && info.role == Some(Role::Replica) {
        link_down(info)
    } else if health.persistence_failed && info.role == Some(Role::Replica) {
        // A master that refuses writes for it says so to PING; one that says PONG was told to go on.
        (
            Reason::PersistenceFailed,
            "INFO says that the last save or AOF write failed".to_owned(),
        )
    } else if info.role == Some(Role::Replica) {
        // A replica takes no writes of clients: neither its own limit of memory nor a minimum of replicas, which is
        // mostly configured on all alike, restricts it.
        return None;
    } else if health.noeviction && health.max_memory > 0 && health.counted_memory() >= health.max_memory {
        let text = format!(
            "INFO says used_memory {} of maxmemory {} with noeviction",
            health.used_memory, health.max_memory
        );
        (Reason::OutOfMemory, text)
    } else if let Some(good) = health.good_replicas.filter(|good| *good == 0 || writes_refused) {
        // The minimum itself is not shown, but where one is set it is at least 1.
        let text = match good {
            0 => "INFO says that no replica is good, and a minimum is configured".to_owned(),
            _ => format!("INFO says that writes were refused of late, with {good} good replicas"),
        };
        (Reason::NotEnoughReplicas, text)
    } else {
        return None;
    };
    Some(Meaning {
        reason,
        stage: Stage::Reply,
        evidence: evidence.into(),
    })
}

/// How far the loading is.
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

/// A replica without its master. From Redis 7 on PING says MASTERDOWN where stale reads are forbidden, so PONG
/// means that they are served, as with Kvrocks and Dragonfly. 6.2 counts the reads that it refused. Before, nothing
/// tells, and nothing better than no is known.
fn link_down(info: &Info) -> (Reason, String) {
    let since = info.health.master_link_down_seconds;
    let since = since.map(|s| format!(" for {s} s")).unwrap_or_default();
    let mut numbers = info.version.split('.').map(|text| text.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    let old = version.filter(|version| matches!(info.server, "redis" | "keydb") && *version < (7, 0));
    if old.is_some_and(|version| version < (6, 2)) {
        let text = format!(
            "INFO says that the link to the master is down{since}; this version does not show whether stale data is served"
        );
        (Reason::MasterLinkDown, text)
    } else if old.is_some() {
        let text =
            format!("INFO says that the link to the master is down{since}; no read was refused for it");
        (Reason::ReplicaSyncing, text)
    } else {
        let text = format!("INFO says that the link to the master is down{since}; stale data is served");
        (Reason::ReplicaSyncing, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::info::parse;

    fn reason(text: &str, cluster: Option<&str>) -> Option<Reason> {
        judge(&parse(text), cluster, false).map(|meaning| meaning.reason)
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
                Some(Reason::ReplicaSyncing),
            ),
            (
                &format!("redis_version:6.2.14\r\n{replica}"),
                Some(Reason::ReplicaSyncing),
            ),
            (
                &format!("redis_version:6.2.14\r\n{replica}errorstat_MASTERDOWN:count=1\r\n"),
                Some(Reason::MasterLinkDown),
            ),
            (
                &format!("redis_version:6.0.9\r\n{replica}"),
                Some(Reason::MasterLinkDown),
            ),
            (
                "role:slave\r\nmaster_link_status:up\r\nasync_loading:1\r\n",
                Some(Reason::ReplicaSyncing),
            ),
            (
                &format!("redis_version:7.2.4\r\nvalkey_version:8.1.8\r\n{replica}"),
                Some(Reason::ReplicaSyncing),
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
        let refused = |refused| judge(&one_of_two, None, refused).map(|meaning| meaning.reason);
        assert_eq!(
            [refused(true), refused(false)],
            [Some(Reason::NotEnoughReplicas), None]
        );
    }

    #[test]
    fn loading_tells_how_far() {
        let info = parse("loading:1\r\nloading_loaded_perc:43.70\r\nloading_eta_seconds:12\r\n");
        assert_eq!(loading(&info), "loading: 43.70 % done, 12 s left");
    }
}
