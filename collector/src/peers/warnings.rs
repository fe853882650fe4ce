//! Human-readable warnings of what is wrong with the cluster, as far as this collector knows. One list serves
//! `cluster`, `/readyz`, the metrics and the log.

use std::{collections::BTreeMap, time::Duration};

use redkeeper_core::time::{Mono, WallMs};
use redkeeper_runtime::clock::rfc3339;

use crate::{
    leader::leadership::Leadership,
    peers::{Peer, Peers},
};

/// Codes of all warnings, as tools see them.
pub const CODES: [&str; 9] = [
    ZOOKEEPER_AWAY,
    COLLECTOR_SILENT,
    COLLECTOR_MISTAKEN,
    COLLECTOR_NOT_LINKED,
    COLLECTOR_ID_SHARED,
    AGENT_RELAYED,
    AGENTS_HELD,
    AGENT_ID_SHARED,
    WRITES_REFUSED,
];
/// No session with ZooKeeper.
pub const ZOOKEEPER_AWAY: &str = "ZOOKEEPER_AWAY";
/// A registered collector does not answer.
pub const COLLECTOR_SILENT: &str = "COLLECTOR_SILENT";
/// Somebody else answers at the address of a collector.
pub const COLLECTOR_MISTAKEN: &str = "COLLECTOR_MISTAKEN";
/// A registered collector answers, and refuses the link.
pub const COLLECTOR_NOT_LINKED: &str = "COLLECTOR_NOT_LINKED";
/// Another collector has the id of this one.
pub const COLLECTOR_ID_SHARED: &str = "COLLECTOR_ID_SHARED";
/// An agent that the leader hears by way of another collector only.
pub const AGENT_RELAYED: &str = "AGENT_RELAYED";

/// So many agents are silent at once that their statuses are held.
pub const AGENTS_HELD: &str = "AGENTS_HELD";

/// Two agents claim one id.
pub const AGENT_ID_SHARED: &str = "AGENT_ID_SHARED";

/// ZooKeeper permanently refuses to let statuses be written.
pub const WRITES_REFUSED: &str = "WRITES_REFUSED";

/// Maximum agents named in one text.
const NAMED_MAX: usize = 5;
/// The loss of ZooKeeper is logged as an error once this many checks, one a second, have seen it: sessions break and
/// come back.
const AWAY_LOOKS: u32 = 3;

/// One warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Kind, one of [`CODES`].
    pub code: &'static str,
    /// What it is about, if there can be several of a kind.
    pub subject: String,
    /// What happened, where, and what to do.
    pub text: String,
    /// Since when it applies, if that is known.
    pub since: Option<WallMs>,
}

/// All warnings that apply now.
pub fn warnings(leadership: &Leadership, peers: &Peers, now: Mono) -> Vec<Warning> {
    let leader = leadership.leader(now);
    let mut all = Vec::new();
    if let Some(away) = leadership.away() {
        // A collector that answers and knows a leader can see ZooKeeper.
        let published = peers
            .peers
            .values()
            .map(|peer| peer.leader.as_str())
            .find(|leader| !leader.is_empty());
        let text = match published {
            Some(other) => format!("{away}; collector {other} leads and publishes"),
            None => format!("statuses in ZooKeeper are frozen: {away}"),
        };
        all.push(Warning {
            code: ZOOKEEPER_AWAY,
            subject: String::new(),
            text,
            since: leadership.since,
        });
    }
    if let Some((first, count)) = &leadership.refused {
        all.push(Warning {
            code: WRITES_REFUSED,
            subject: String::new(),
            text: format!(
                "ZooKeeper refuses to let {count} status(es) be written, so that what is published of them is old: {first}"
            ),
            since: None,
        });
    }
    if let Some(text) = leadership.shares_id() {
        all.push(Warning {
            code: COLLECTOR_ID_SHARED,
            subject: String::new(),
            text,
            since: None,
        });
    }
    for member in &leadership.members {
        let Some(peer) = peers.peers.get(&member.id) else {
            continue;
        };
        let who = if member.id == leader {
            "the leader, collector"
        } else {
            "collector"
        };
        let (id, address) = (&member.id, &member.grpc);
        all.extend(about(peer, id, address, who));
    }
    if !peers.unheard.is_empty() {
        let named: Vec<_> = peers
            .unheard
            .iter()
            .take(NAMED_MAX)
            .map(|u| format!("{} (heard by {})", u.agent, u.by.join(", ")))
            .collect();
        let more = match peers.unheard.len().saturating_sub(NAMED_MAX) {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        all.push(Warning {
            code: AGENT_RELAYED,
            subject: String::new(),
            text: format!(
                "{} agent(s) reach the leader {leader} only by way of collectors that relay them: {}{more}; is a path cut, or do their `collectors` not name every collector, each by an address of its own?",
                peers.unheard.len(),
                named.join(", ")
            ),
            since: peers.unheard_since,
        });
    }
    if let Some(held) = peers.held {
        let age = humantime::format_duration(Duration::from_secs(now.since(held.since).as_secs()));
        all.push(Warning {
            code: AGENTS_HELD,
            subject: String::new(),
            text: format!(
                "{} of {} agents have been silent at once for {age}, so that the fault is likelier between them and the collectors: their statuses are held as they were; look at the network first",
                held.agents, held.of
            ),
            since: None,
        });
    }
    if let Some(first) = peers.shared_ids.first() {
        let more = match peers.shared_ids.len() - 1 {
            0 => String::new(),
            n => format!("; {n} more id(s) are shared so"),
        };
        all.push(Warning {
            code: AGENT_ID_SHARED,
            subject: String::new(),
            text: format!(
                "two agents have the id {}: the one on {} is heard, the one on {} is refused; give each agent its own `id`{more}",
                first.agent, first.holder, first.refused
            ),
            since: None,
        });
    }
    all
}

fn about(peer: &Peer, id: &str, address: &str, who: &str) -> Option<Warning> {
    let (code, text, since) = match peer.link.silent_since() {
        Some(since) => (
            COLLECTOR_SILENT,
            format!(
                "{who} {id} at {address} does not answer since {}: {}",
                rfc3339(since),
                peer.error
            ),
            Some(since),
        ),
        None if !peer.served_by.is_empty() && peer.served_by != id => (
            COLLECTOR_MISTAKEN,
            format!(
                "the address {address}, which {who} {id} tells others, is answered by {}; correct its `advertise`",
                peer.served_by
            ),
            None,
        ),
        None if !peer.refusal.is_empty() => (
            COLLECTOR_NOT_LINKED,
            format!(
                "{who} {id} at {address} answers, but refuses the link to it: {}",
                peer.refusal
            ),
            None,
        ),
        None => return None,
    };
    Some(Warning {
        code,
        subject: id.to_owned(),
        text,
        since,
    })
}

/// The warnings that were seen, so that each is logged once.
#[derive(Debug, Default)]
pub(crate) struct WarningLog {
    /// Number of checks that saw each warning.
    seen: BTreeMap<(&'static str, String), u32>,
}

impl WarningLog {
    /// Logs each new warning once, and each that is over.
    pub(crate) fn log(&mut self, leadership: &Leadership, peers: &Peers, now: Mono) {
        let found = warnings(leadership, peers, now);
        self.seen.retain(|(code, subject), looks| {
            let stays = found
                .iter()
                .any(|warning| warning.code == *code && warning.subject == *subject);
            if !stays && *looks >= looks_before(code) {
                tracing::info!(code, subject, "over");
            }
            stays
        });
        for Warning {
            code, subject, text, ..
        } in found
        {
            let looks = self.seen.entry((code, subject)).or_default();
            *looks = looks.saturating_add(1);
            if *looks == looks_before(code) {
                match code {
                    ZOOKEEPER_AWAY => tracing::error!(code, "{text}"),
                    _ => tracing::warn!(code, "{text}"),
                }
            }
        }
    }
}

fn looks_before(code: &str) -> u32 {
    if code == ZOOKEEPER_AWAY { AWAY_LOOKS } else { 1 }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use redkeeper_core::{fleet::unheard_agents::Unheard, ids::AgentId};

    use super::*;
    use crate::{
        peers::SharedId,
        store::{Connection, records::CollectorJson},
    };

    fn leadership() -> Leadership {
        let member = |id: &str| CollectorJson {
            id: id.to_owned(),
            grpc: format!("{id}:7400"),
            version: String::new(),
        };
        Leadership {
            leader_hint: "a".to_owned(),
            members: vec![member("a"), member("b")],
            connection: Some(Connection::Connected),
            since: Some(WallMs(60_000)),
            servers: "zk:2181".to_owned(),
            last_error: "nobody answers".to_owned(),
            ..Leadership::default()
        }
    }

    fn texts(leadership: &Leadership, peers: &Peers) -> Vec<(&'static str, String)> {
        let all = warnings(leadership, peers, Mono(0));
        all.into_iter()
            .map(|warning| (warning.code, warning.text))
            .collect()
    }

    #[test]
    fn nothing_is_wrong_where_all_answer() {
        assert_eq!(texts(&leadership(), &Peers::default()), []);
    }

    #[test]
    fn a_registration_that_outlives_a_session_is_another_collectors() {
        let (mut leadership, timeout) = (leadership(), Duration::from_secs(4));
        for (seconds, shared) in [(1, false), (6, false), (8, true)] {
            leadership.note_id(
                Some("c:7400".to_owned()),
                Mono::from_millis(seconds * 1_000),
                timeout,
            );
            let told = texts(&leadership, &Peers::default());
            assert_eq!(told.len(), usize::from(shared), "after {seconds} s: {told:?}");
        }
        assert!(
            texts(&leadership, &Peers::default())[0]
                .1
                .contains("which gives c:7400 as its address")
        );
        leadership.note_id(None, Mono::from_millis(9_000), timeout);
        assert_eq!(texts(&leadership, &Peers::default()), []);
    }

    #[test]
    fn a_lost_zookeeper_freezes_the_statuses_unless_another_leads() {
        let mut away = leadership();
        away.connection = Some(Connection::Suspended);
        let mut peers = Peers::default();
        let text = "statuses in ZooKeeper are frozen: no session since 1970-01-01T00:01:00Z, servers tried: zk:2181 (nobody answers)";
        assert_eq!(texts(&away, &peers), [(ZOOKEEPER_AWAY, text.to_owned())]);
        let peer = Peer {
            leader: "b".to_owned(),
            served_by: "b".to_owned(),
            ..Peer::default()
        };
        peers.peers.insert("b".to_owned(), peer);
        let told = texts(&away, &peers);
        assert!(
            told[0].1.ends_with("; collector b leads and publishes"),
            "{told:?}"
        );
    }

    #[test]
    fn silent_and_mistaken_collectors_and_unheard_agents_are_named() {
        let mut peers = Peers::default();
        let silent = Peer::silent(WallMs(1_000), "refused");
        let mistaken = Peer {
            served_by: "c".to_owned(),
            ..Peer::default()
        };
        peers.peers.insert("a".to_owned(), silent);
        peers.peers.insert("b".to_owned(), mistaken);
        let unheard = |n: usize| Unheard {
            agent: AgentId::new(&format!("db{n}")).unwrap(),
            by: vec!["b".to_owned()],
        };
        peers.unheard = (0..7).map(unheard).collect();
        peers.shared_ids = vec![SharedId {
            agent: AgentId::new("db9").unwrap(),
            holder: "host x (10.0.0.1)".to_owned(),
            refused: "host y (10.0.0.2)".to_owned(),
        }];
        let told = texts(&leadership(), &peers);
        let codes: Vec<_> = told.iter().map(|(code, _)| *code).collect();
        let all = [
            COLLECTOR_SILENT,
            COLLECTOR_MISTAKEN,
            AGENT_RELAYED,
            AGENT_ID_SHARED,
        ];
        assert_eq!(codes, all);
        let shared = "two agents have the id db9: the one on host x (10.0.0.1) is heard, the one on host y (10.0.0.2) is refused; give each agent its own `id`";
        assert_eq!(told[3].1, shared);
        assert!(
            told[0]
                .1
                .starts_with("the leader, collector a at a:7400 does not answer since 1970"),
            "{told:?}"
        );
        assert!(told[1].1.contains("b tells others, is answered by c"), "{told:?}");
        assert!(
            told[2].1.starts_with("7 agent(s)") && told[2].1.contains("db4 (heard by b) and 2 more"),
            "{told:?}"
        );
    }
}
