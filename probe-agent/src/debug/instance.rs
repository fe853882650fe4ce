//! `/debug/instances/ID`: why an instance has its state, what its prober saw and decided, and what is due.

use std::time::Duration;

use redkeeper_core::{
    probe::{
        Counters, Outlook, ProbeConfig, ProbeSnapshot,
        trail::{AnsweredProbe, Decision, Event, Totals},
    },
    status::Verdict,
    time::{Mono, WallMs},
};
use redkeeper_runtime::{
    admin::Content,
    clock::{Clock, rfc3339},
};
use serde_json::{Map, Value, json};

use super::times::{ago, duration, seconds_ago, seconds_until, until, wall_clock};
use crate::instances::InstanceRow;

/// The two clocks at the time at which the page is made.
#[derive(Clone, Copy)]
struct Now {
    mono: Mono,
    wall: WallMs,
}

/// A named value, as people and as programs read it.
type Named = (&'static str, String, Value);

/// The page of one instance.
pub(super) fn page(row: &InstanceRow, clock: Clock) -> Content {
    let now = Now {
        mono: clock.now(),
        wall: clock.wall(),
    };
    let identity = &row.identity;
    let mut page = Page::new(format!("{}  {}\n", identity.id, identity.address));
    page.insert("id", identity.id.as_str().into());
    page.insert("address", (*identity.address).into());
    let last_round = row.progress.last();
    page.insert(
        "last_round_seconds_ago",
        json!(last_round.map(|at| seconds_ago(now.mono, at))),
    );
    page.named("verdict", &verdict(&row.verdict, now));
    match row.progress.snapshot() {
        Some(snapshot) => page.prober(&snapshot, now),
        None => page.text.push_str("\nno worker has probed it yet\n"),
    }
    page.content()
}

/// A page that is being made.
struct Page {
    text: String,
    json: Map<String, Value>,
}

impl Page {
    fn new(text: String) -> Self {
        Self {
            text,
            json: Map::new(),
        }
    }

    fn content(self) -> Content {
        Content {
            text: self.text,
            json: Value::Object(self.json),
        }
    }

    fn insert(&mut self, name: &str, value: Value) {
        self.json.insert(name.to_owned(), value);
    }

    fn heading(&mut self, name: &str) {
        self.text
            .push_str(&format!("\n{}\n", name.replace('_', " ").to_uppercase()));
    }

    /// A section of named values.
    fn named(&mut self, section: &str, values: &[Named]) {
        self.heading(section);
        let mut object = Map::new();
        for (name, text, json) in values {
            let label = name.trim_end_matches("_seconds").replace('_', " ");
            let line = format!("  {label:<24}{text}");
            self.text.push_str(&format!("{}\n", line.trim_end()));
            object.insert((*name).to_owned(), json.clone());
        }
        self.insert(section, Value::Object(object));
    }

    /// A section of rows, each a line and a JSON object.
    fn rows(&mut self, section: &str, rows: impl Iterator<Item = (String, Value)>) {
        self.heading(section);
        let (lines, values): (Vec<_>, Vec<_>) = rows.unzip();
        if lines.is_empty() {
            self.text.push_str("  none\n");
        }
        for line in lines {
            self.text.push_str(&format!("  {}\n", line.trim_end()));
        }
        self.insert(section, Value::Array(values));
    }

    /// What the prober holds.
    fn prober(&mut self, snapshot: &ProbeSnapshot, now: Now) {
        let ProbeSnapshot {
            config,
            outlook,
            counters,
            trail,
            ..
        } = snapshot;
        self.named("thresholds", &thresholds(config));
        self.named("counters", &numbers(counters, trail.totals()));
        self.named("connection", &connection(snapshot, now));
        let awaited = outlook.awaited.iter().flatten().map(|(command, sent)| {
            let (name, sent_ago) = (command.as_str(), ago(now.mono, *sent));
            let json = json!({ "command": name, "sent_seconds_ago": seconds_ago(now.mono, *sent) });
            (format!("{name:<24}sent {sent_ago}"), json)
        });
        self.rows("awaited", awaited);
        self.rows("due", due(outlook, now));
        self.rows("last_probes", trail.probes().rev().map(|one| probe(one, now)));
        let decisions = trail.decisions().iter().rev();
        self.rows("last_decisions", decisions.map(|one| decision(one, now)));
    }
}

fn verdict(verdict: &Verdict, now: Now) -> Vec<Named> {
    let plain = |name, value: &str| (name, value.to_owned(), Value::from(value));
    let since = rfc3339(verdict.since);
    let age = Duration::from_millis(now.wall.0.saturating_sub(verdict.since.0));
    let bound = if verdict.since_is_bound { " or earlier" } else { "" };
    vec![
        plain("state", verdict.state().as_str()),
        plain("reason", verdict.reason.as_str()),
        plain("stage", verdict.stage.as_str()),
        plain("role", verdict.role.as_str()),
        (
            "since",
            format!("{since}{bound} ({} ago)", duration(age)),
            since.into(),
        ),
        plain("evidence", &verdict.evidence),
        plain("run_id", &verdict.run_id.to_string()),
        plain("server_version", &verdict.server_version),
        number("restarts", verdict.restarts.into()),
        ("flapping", verdict.flapping.to_string(), verdict.flapping.into()),
    ]
}

fn number(name: &'static str, value: u64) -> Named {
    (name, value.to_string(), value.into())
}

fn thresholds(config: &ProbeConfig) -> Vec<Named> {
    let time = |name, time: Duration| (name, duration(time), json!(time.as_secs_f64()));
    vec![
        time("interval_seconds", config.interval),
        time("connect_timeout_seconds", config.connect_timeout),
        time("hang_after_seconds", config.hang_after),
        time("info_interval_seconds", config.info_interval),
        time("connect_interval_seconds", config.connect_interval),
        number("successes_before_up", config.successes_before_up.into()),
        number("failures_before_down", config.failures_before_down.into()),
    ]
}

/// The counters on which decisions rest, and the totals since the worker was started.
fn numbers(counters: &Counters, totals: Totals) -> Vec<Named> {
    vec![
        number("successes_in_a_row", counters.successes.into()),
        number("failures_in_a_row", counters.failures.into()),
        number("closed_after_auth", counters.closed_after_auth.into()),
        number("new_connection_failures", counters.new_connection_failures.into()),
        number("silent_connections", counters.silent_connections.into()),
        number("unrequested_answers", counters.unasked.into()),
        number("total_answers", totals.answers),
        number("total_connections", totals.connections.into()),
        number("total_connect_failures", totals.connect_failures.into()),
        number("total_closed", totals.closed.into()),
        number("total_verdict_changes", totals.verdict_changes.into()),
    ]
}

fn connection(snapshot: &ProbeSnapshot, now: Now) -> Vec<Named> {
    let link = snapshot.outlook.link.as_str();
    let silence = now.mono.since(snapshot.silent_since);
    let usual = snapshot.usual_latency;
    vec![
        ("state", link.to_owned(), link.into()),
        (
            "silent_for_seconds",
            duration(silence),
            json!(silence.as_secs_f64()),
        ),
        ("usual_latency_seconds", millis(usual), json!(usual.as_secs_f64())),
    ]
}

fn due(outlook: &Outlook, now: Now) -> impl Iterator<Item = (String, Value)> {
    let due = outlook.due;
    let all = [
        ("connect", due.connect, ""),
        ("give_up_connecting", due.give_up, ""),
        ("ping", due.ping, "unless an answer is awaited"),
        ("info", due.info, "with the next PING"),
        (
            "new_connection_check",
            due.new_connection,
            "with the next PING, unless the state is UNKNOWN",
        ),
        ("process_check", due.process_check, ""),
        (
            "second_connection",
            due.second_connection,
            "unless something is answered",
        ),
        (
            "silence_verdict",
            due.silence_verdict,
            "unless something is answered",
        ),
        ("next_step", Some(outlook.next_step), "at the latest"),
    ];
    let due_at = |(what, at, note): (&'static str, Option<Mono>, &'static str)| Some((what, at?, note));
    all.into_iter().filter_map(due_at).map(move |(what, at, note)| {
        let json = json!({ "what": what, "in_seconds": seconds_until(now.mono, at) });
        let (name, when) = (what.replace('_', " "), until(now.mono, at));
        (format!("{name:<24}{when:<18}{note}"), json)
    })
}

fn probe(probe: &AnsweredProbe, now: Now) -> (String, Value) {
    let (command, meaning) = (probe.answer.command().as_str(), probe.answer.meaning());
    let (latency, age) = (probe.latency(), ago(now.mono, probe.at));
    let json = json!({
        "seconds_ago": seconds_ago(now.mono, probe.at),
        "command": command,
        "latency_seconds": latency.as_secs_f64(),
        "meaning": meaning,
    });
    let took = millis(latency);
    (format!("{age:<18}{command:<14}{took:<14}{meaning}"), json)
}

fn decision(decision: &Decision, now: Now) -> (String, Value) {
    let at = wall_clock(now.mono, now.wall, decision.last);
    let (event, details) = (decision.event, &*decision.text);
    let mut json = json!({
        "seconds_ago": seconds_ago(now.mono, decision.last),
        "at": at,
        "what": event.kind(),
        "says": event.to_string(),
        "details": details,
        "times": decision.times,
        "first_seconds_ago": seconds_ago(now.mono, decision.first),
    });
    if let (Event::Verdict { from, to }, Some(object)) = (event, json.as_object_mut()) {
        object.insert("from".to_owned(), from.as_str().into());
        object.insert("to".to_owned(), to.as_str().into());
    }
    let mut line = format!("{:<18}{at}  {event}", ago(now.mono, decision.last));
    if !details.is_empty() {
        line.push_str(&format!(": {details}"));
    }
    if decision.times > 1 {
        let first = ago(now.mono, decision.first);
        line.push_str(&format!(" ({} times, first {first})", decision.times));
    }
    (line, json)
}

fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1_000.0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redkeeper_core::{
        ids::InstanceId,
        probe::{Input, Prober, schedule::Spread},
        redis::reply::Reply,
        status::{Identity, Reason, Stage},
    };

    use super::*;
    use crate::instances::InstanceTable;
    use crate::instances::SharedProber;

    fn config() -> ProbeConfig {
        ProbeConfig {
            interval: Duration::from_millis(500),
            phase: Duration::ZERO,
            spread: Spread::default(),
            connect_timeout: Duration::from_secs(1),
            hang_after: Duration::from_secs(3),
            info_interval: Duration::from_secs(10),
            connect_interval: Duration::from_secs(60),
            successes_before_up: 1,
            failures_before_down: 3,
            authenticate: false,
            tls: false,
            vanished: false,
        }
    }

    /// An instance that was never probed.
    fn unprobed(clock: Clock) -> InstanceRow {
        let table = InstanceTable::new(clock);
        let identity = Identity {
            id: InstanceId::new("db01:6379").unwrap(),
            cluster: None,
            address: "127.0.0.1:6379".into(),
            labels: Arc::default(),
        };
        let verdict = Verdict::blank(Reason::NotProbed, Stage::Resolve, "not yet probed", clock.wall());
        table.add(identity, verdict, Duration::from_secs(1));
        table.find("db01:6379").unwrap()
    }

    #[test]
    fn an_instance_without_a_worker_has_a_page() {
        let clock = Clock::new();
        let Content { text, json } = page(&unprobed(clock), clock);
        assert!(
            text.contains("NOT_PROBED") && text.contains("no worker"),
            "{text}"
        );
        assert_eq!(json["verdict"]["reason"], "NOT_PROBED");
        assert_eq!(json["last_round_seconds_ago"], Value::Null);
    }

    #[test]
    fn a_page_tells_what_was_seen_and_what_is_due() {
        let clock = Clock::new();
        let row = unprobed(clock);
        let mut prober = Prober::new(clock.now(), clock.wall(), config());
        let mut effects = Vec::new();
        for input in [
            Input::Tick,
            Input::Connected,
            Input::Replied(Reply::Text("PONG".into())),
        ] {
            prober.step(clock.now(), clock.wall(), input, &mut effects);
        }
        row.progress.begins(&SharedProber::new(prober));
        let Content { text, json } = page(&row, clock);
        assert_eq!(json["thresholds"]["hang_after_seconds"], 3.0);
        assert_eq!(json["connection"]["state"], "open");
        assert_eq!(json["awaited"][0]["command"], "INFO");
        assert_eq!(json["last_probes"][0]["meaning"], "OK");
        assert_eq!(json["last_decisions"][0]["to"], "OK");
        assert_eq!(json["last_decisions"][1]["what"], "connected");
        let due = json["due"].as_array().unwrap();
        let silence = due.iter().find(|one| one["what"] == "silence_verdict").unwrap();
        assert!(silence["in_seconds"].as_f64().unwrap() > 1.0, "{silence}");
        for words in [
            "hang after              3.000 s",
            "INFO                    sent 0.0",
            "verdict changed from UNKNOWN/NOT_PROBED to UP/OK: PING answered \"PONG\"",
            "unless something is answered",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
