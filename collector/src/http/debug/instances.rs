//! `/debug/instances/ID`: what this collector knows of one instance, and why. Made from the view, so that the owner of
//! the fleet's state is not asked.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    fleet::silent_at,
    ids::{InstanceId, Revision},
    status::{Reason, State, Status},
    time::Mono,
};
use redkeeper_runtime::{
    admin::{Content, short},
    clock::rfc3339,
};
use serde_json::{Value, json};

use super::{Now, Sources, lines};
use crate::{
    fleet::{
        open_streams::OpenStream,
        view::{AgentEntry, Entry, View, ViewHandle},
    },
    store::diagnostics::{NAMED_MAX, Publishing},
};

/// A part of the page: its rows, and the same as JSON.
struct Section {
    rows: Vec<(&'static str, String)>,
    json: Value,
}

/// The page of an instance; `None` if it is not known.
pub(super) fn page(sources: &Sources, id: &str) -> Option<Content> {
    let id = InstanceId::new(id).ok()?;
    let view = sources.view.get();
    let entry = view.instances.get(&id)?;
    let now = Now::of(sources.clock);
    let agent = view.agents.get(&entry.status.agent).map(Arc::as_ref);
    let sections = [
        ("status", status(&view, entry)),
        ("agent", reporter(sources, &entry.status, agent, now)),
        ("times", times(sources, &view, entry, agent, now)),
        ("conflict", conflict(&view, entry, agent, now)),
        ("published", published(sources, entry)),
    ];
    let (mut text, mut json) = (format!("{id}\n"), json!({ "id": id.as_str() }));
    for (name, section) in sections {
        text.push('\n');
        text.push_str(&lines(&section.rows));
        json[name] = section.json;
    }
    Some(Content { text, json })
}

/// Ids listed for an archive.
const LISTED_MAX: usize = 100;

/// Ids of instances, those that are not UP first.
pub(super) fn worst_first(view: &ViewHandle) -> Vec<String> {
    let view = view.get();
    let is_up = |entry: &Entry| entry.status.verdict.state() == State::Up;
    let of = |up| view.instances.iter().filter(move |(_, entry)| is_up(entry) == up);
    of(false)
        .chain(of(true))
        .take(LISTED_MAX)
        .map(|(id, _)| id.to_string())
        .collect()
}

/// The wall-clock time of the last change of an instance, if that is still in the log of changes.
fn changed_at(view: &View, revision: Revision) -> Option<String> {
    let newest = view.log.before(revision.0.saturating_add(1)).next()?;
    (newest.revision == revision).then(|| rfc3339(newest.time))
}

/// The status in force.
fn status(view: &View, entry: &Entry) -> Section {
    let Status {
        identity, verdict, ..
    } = &*entry.status;
    let (state, reason) = (verdict.state().as_str(), verdict.reason.to_string());
    let (since, bound) = (rfc3339(verdict.since), verdict.since_is_bound);
    let cluster = identity.cluster.as_ref().map(|cluster| cluster.as_str());
    let changed = changed_at(view, entry.revision);
    let (revision, boot, seq) = (entry.revision.0, entry.origin.boot.0, entry.origin.seq.0);
    let boot = (boot != 0).then(|| format!("{boot:08x}"));
    let rows = vec![
        ("status", format!("{state}/{reason}")),
        (
            "since",
            format!("{since}{}", if bound { " or earlier" } else { "" }),
        ),
        ("evidence", verdict.evidence.to_string()),
        ("cluster", cluster.unwrap_or("-").to_owned()),
        ("address", identity.address.to_string()),
        ("revision", {
            let changed = changed
                .as_deref()
                .unwrap_or("before the oldest change that is kept");
            format!("{revision}, {changed}")
        }),
        ("message", {
            let boot = boot.as_deref().unwrap_or("not known");
            format!("{seq}, boot tag {boot}")
        }),
    ];
    let json = json!({
        "state": state,
        "reason": reason,
        "since": since,
        "since_is_bound": bound,
        "evidence": &*verdict.evidence,
        "cluster": cluster,
        "address": &*identity.address,
        "revision": revision,
        "changed": changed,
        "boot_tag": boot,
        "sequence": seq,
    });
    Section { rows, json }
}

/// The agent that reports it.
fn reporter(sources: &Sources, status: &Status, agent: Option<&AgentEntry>, now: Now) -> Section {
    let name = status.agent.as_str();
    let greeting = agent.and_then(|agent| agent.greeting.as_ref());
    let boot = greeting.map(|greeting| greeting.boot.as_str());
    let handle = agent.and_then(|agent| {
        let place = agent.place(&status.identity.id)?;
        Some(agent.reporting.get(place)?.handle()?.0)
    });
    let heard = agent
        .filter(|_| greeting.is_some())
        .map(|agent| agent.live.heard());
    let streams = sources.open_streams.all();
    let of_agent = streams.iter().filter(|stream| stream.agent == status.agent);
    let open: Vec<&OpenStream> = of_agent.map(Arc::as_ref).collect();
    let numbers: Vec<_> = open.iter().map(|stream| stream.number.to_string()).collect();
    let silent = agent.is_some_and(|agent| agent.silent);
    let or_none = |number: Option<u32>| number.map_or("none".to_owned(), |number| number.to_string());
    let rows = vec![
        ("agent", name.to_owned()),
        (
            "host",
            greeting.map_or_else(|| "never heard here".to_owned(), |g| g.place()),
        ),
        ("boot", boot.unwrap_or("not known").to_owned()),
        ("handle", or_none(handle)),
        (
            "open streams",
            match numbers.is_empty() {
                true => "none".to_owned(),
                false => numbers.join(", "),
            },
        ),
        (
            "last heard",
            heard.map_or_else(|| "never".to_owned(), |at| now.relative(at)),
        ),
        ("silent", if silent { "yes" } else { "no" }.to_owned()),
    ];
    let json = json!({
        "id": name,
        "host": greeting.map(|greeting| &greeting.host),
        "boot": boot,
        "handle": handle,
        "streams": open.iter().map(|stream| stream.number).collect::<Vec<_>>(),
        "heard_seconds_ago": heard.map(|at| now.seconds_since(at)),
        "silent": silent,
        "complete": agent.is_some_and(|agent| agent.complete),
        "clock_ahead_ms": agent.map_or(0, |agent| agent.clock_ahead_ms),
    });
    Section { rows, json }
}

/// The progress of an instance's probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct ProbeProgress {
    /// The last completed round.
    last: Mono,
    /// The probe is stalled after this long without a completed round.
    limit: Duration,
    /// The last heartbeat, which decides whether it is stalled.
    judged_at: Mono,
}

impl ProbeProgress {
    fn of(agent: &AgentEntry, id: &InstanceId) -> Option<Self> {
        let place = agent.place(id)?;
        Some(Self {
            last: agent.live.progress(place)?,
            limit: agent.reporting.get(place)?.freshness_limit.get(),
            judged_at: agent.live.heartbeat_at(),
        })
    }

    /// When the probe is stalled if no further round is completed. The first heartbeat from then on finds it.
    fn stalls_at(self) -> Mono {
        self.last + self.limit
    }
}

/// What is due when.
fn times(sources: &Sources, view: &View, entry: &Entry, agent: Option<&AgentEntry>, now: Now) -> Section {
    let silent_after = sources.silent_after;
    let probe = agent.and_then(|agent| ProbeProgress::of(agent, &entry.status.identity.id));
    let heard = agent.filter(|agent| !agent.silent);
    let silent = heard.map(|agent| silent_at(agent.live.heard(), agent.live.heartbeat_at(), silent_after));
    // An agent that is known from ZooKeeper only, and is not silent yet, has no entry in the view.
    let granted = agent
        .is_none()
        .then(|| view.log.before(entry.revision.0.saturating_add(1)).next());
    let granted = granted
        .flatten()
        .filter(|change| change.revision == entry.revision);
    let grace_ends = granted.map(|change| {
        let passed = Duration::from_millis(now.wall.0.saturating_sub(change.time.0));
        now.mono.before(passed) + silent_after
    });
    let when = |at: Option<Mono>| at.map_or_else(|| "not due".to_owned(), |at| now.relative(at));
    let rows = vec![
        (
            "last probe",
            probe.map_or_else(|| "not known".to_owned(), |p| now.relative(p.last)),
        ),
        ("at last heartbeat", {
            let age = probe.map(|p| short(p.judged_at.since(p.last)));
            age.map_or_else(|| "not known".to_owned(), |age| format!("{age} old"))
        }),
        (
            "freshness limit",
            probe.map_or_else(|| "not known".to_owned(), |p| short(p.limit)),
        ),
        ("probe stalls", when(probe.map(ProbeProgress::stalls_at))),
        ("agent is silent", when(silent)),
        ("grace ends", when(grace_ends)),
    ];
    let until = |at: Option<Mono>| at.map(|at| now.seconds_until(at));
    let json = json!({
        "probe_age_seconds": probe.map(|p| now.seconds_since(p.last)),
        "probe_age_at_heartbeat_seconds": probe.map(|p| p.judged_at.since(p.last).as_secs_f64()),
        "freshness_limit_seconds": probe.map(|p| p.limit.as_secs_f64()),
        "probe_stalls_in_seconds": until(probe.map(ProbeProgress::stalls_at)),
        "agent_silent_in_seconds": until(silent),
        "grace_ends_in_seconds": until(grace_ends),
    });
    Section { rows, json }
}

/// Who else claims the instance, or the id of its agent.
fn conflict(view: &View, entry: &Entry, agent: Option<&AgentEntry>, now: Now) -> Section {
    let status = &entry.status;
    let claim = view.conflicts.of(&status.identity.id, &status.agent);
    let rival = agent.and_then(|agent| agent.refused(now.mono));
    let rows = vec![
        ("claimed by", {
            let text = claim.as_ref().map(|claim| {
                let (agent, times) = (&claim.agent, claim.times);
                format!("{agent} too, {times} times, last {}", now.relative(claim.last))
            });
            text.unwrap_or_else(|| "nobody else".to_owned())
        }),
        ("agent's id", {
            let text = rival.map(|rival| format!("claimed by {} too", rival.greeting.place()));
            text.unwrap_or_else(|| "claimed by nobody else".to_owned())
        }),
    ];
    let json = json!({
        "claim": claim.map(|claim| json!({
            "agent": claim.agent.as_str(),
            "times": claim.times,
            "last_seconds_ago": now.seconds_since(claim.last),
        })),
        "agent_id": rival.map(|rival| json!({
            "place": rival.greeting.place(),
            "boot": rival.greeting.boot.as_str(),
            "times": rival.times,
        })),
    });
    Section { rows, json }
}

/// What is known of the publication of a status by this collector.
fn publication(entry: &Entry, publishing: Option<&Publishing>) -> &'static str {
    let id = &entry.status.identity.id;
    let Some(publishing) = publishing else {
        return "not by this collector";
    };
    if publishing.stage == "reading" {
        return "not known: what is published is being read";
    }
    if entry.status.verdict.reason == Reason::NotProbed {
        return "nothing to write";
    }
    if publishing.seen < entry.revision {
        return "pending";
    }
    if publishing.refused.contains(id) {
        return "refused";
    }
    if publishing.refused.len() >= NAMED_MAX {
        return "not known: too many are refused";
    }
    match &publishing.few_pending {
        Some((ids, _)) if ids.contains(id) => "pending",
        Some(_) => "acknowledged",
        None => "not known: too many are pending",
    }
}

/// What is published of it, and where.
fn published(sources: &Sources, entry: &Entry) -> Section {
    let id = &entry.status.identity.id;
    // The snapshot is newer than the view, so that what it does not name as pending is written.
    let snapshot = sources.diagnostics.snapshot();
    let publication = publication(entry, snapshot.publishing.as_ref());
    let seen = snapshot.publishing.as_ref().map(|publishing| publishing.seen.0);
    let (path, bucket) = (sources.layout.instance(id), id.bucket().to_string());
    let rows = vec![
        ("publication", publication.to_owned()),
        ("publisher", {
            let text = seen.map(|seen| format!("has seen revision {seen}"));
            text.unwrap_or_else(|| "not here".to_owned())
        }),
        ("bucket", bucket.clone()),
        ("znode", path.clone()),
    ];
    let json = json!({
        "state": publication,
        "seen_revision": seen,
        "bucket": bucket,
        "znode": path,
    });
    Section { rows, json }
}

#[cfg(test)]
mod tests {
    use redkeeper_core::{
        fleet::message_order::Origin,
        ids::{AgentId, CollectorId},
        status::{Identity, Stage, Verdict},
        time::WallMs,
    };
    use redkeeper_runtime::clock::Clock;
    use tokio::sync::watch;

    use super::*;
    use crate::{
        fleet::{change_log::Change, view},
        leader::leadership::Leadership,
        store::{diagnostics::Diagnostics, layout::Layout},
    };

    fn entry(reason: Reason, revision: u64) -> Entry {
        let identity = Identity {
            id: InstanceId::new("db:1").unwrap(),
            cluster: None,
            address: "x:1".into(),
            labels: Arc::default(),
        };
        Entry {
            status: Arc::new(Status {
                identity,
                agent: AgentId::new("db").unwrap(),
                verdict: Verdict::blank(reason, Stage::Reply, "", WallMs(0)),
            }),
            revision: Revision(revision),
            origin: Origin::default(),
        }
    }

    fn publishing(few_pending: Option<Vec<InstanceId>>) -> Publishing {
        Publishing {
            stage: "writing",
            on_hold: false,
            seen: Revision(7),
            pending: 0,
            few_pending: few_pending.map(|ids| (ids, None)),
            refused: Vec::new(),
            writes_in_flight: 0,
            audit_reading: None,
            audit_position: None,
        }
    }

    #[test]
    fn what_is_published_is_told_only_where_it_is_known() {
        let one = entry(Reason::Ok, 7);
        let id = one.status.identity.id.clone();
        let told = |entry: &Entry, publishing: &Publishing| publication(entry, Some(publishing));
        assert_eq!(publication(&one, None), "not by this collector");
        assert_eq!(told(&one, &publishing(Some(Vec::new()))), "acknowledged");
        assert_eq!(told(&one, &publishing(Some(vec![id.clone()]))), "pending");
        assert_eq!(
            told(&entry(Reason::Ok, 8), &publishing(Some(Vec::new()))),
            "pending"
        );
        let many = told(&one, &publishing(None));
        assert_eq!(many, "not known: too many are pending");
        let blank = entry(Reason::NotProbed, 7);
        assert_eq!(told(&blank, &publishing(Some(Vec::new()))), "nothing to write");
        let mut other = publishing(Some(Vec::new()));
        other.refused.push(id);
        assert_eq!(told(&one, &other), "refused");
        other.stage = "reading";
        assert!(told(&one, &other).starts_with("not known"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_known_from_zookeeper_only_has_a_grace_that_ends() {
        let (publisher, view) = view::channel();
        let clock = Clock::simulated();
        let sources = Sources {
            id: CollectorId::new("a").unwrap(),
            standalone: false,
            silent_after: Duration::from_secs(3),
            layout: Layout::new("/redkeeper"),
            clock,
            view,
            leadership: watch::channel(Leadership::default()).1,
            open_streams: Arc::default(),
            config: redkeeper_runtime::config::EffectiveConfig::default(),
            diagnostics: Arc::new(Diagnostics::new(clock)),
        };
        let mut fleet = View::default();
        let status = entry(Reason::Ok, 1).status;
        fleet.put(&status, Origin::default());
        fleet.log.push(Change {
            revision: fleet.revision,
            status,
            origin: Origin::default(),
            previous: None,
            removed: false,
            time: clock.wall(),
        });
        publisher.replace(fleet);
        tokio::time::advance(Duration::from_secs(2)).await;
        let Content { text, json } = page(&sources, "db:1").unwrap();
        assert_eq!(json["times"]["grace_ends_in_seconds"], 1.0, "{text}");
        assert_eq!(json["times"]["agent_silent_in_seconds"], Value::Null);
        assert_eq!(json["agent"]["heard_seconds_ago"], Value::Null);
        assert_eq!(json["published"]["state"], "not by this collector");
        assert!(text.contains("grace ends        in 1s\n"), "{text}");
        assert!(page(&sources, "db:2").is_none());
        assert!(page(&sources, "no/name").is_none());
    }

    #[test]
    fn a_probe_stalls_when_its_limit_has_passed_since_the_last_round() {
        let probe = ProbeProgress {
            last: Mono::from_millis(1_000),
            limit: Duration::from_millis(2_500),
            judged_at: Mono::from_millis(1_200),
        };
        assert_eq!(probe.stalls_at(), Mono::from_millis(3_500));
    }
}
