//! The pages below `/debug/` of running daemons.
#![allow(clippy::unwrap_used)]

use redkeeper_proto::v1;
use redkeeper_tests::{
    Sandbox,
    daemons::{http, http_get},
    eventually, fake_agent,
};
use serde_json::Value;

fn json(port: u16, path: &str) -> Value {
    let text = http_get(port, path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
}

#[tokio::test]
async fn the_index_lists_all_pages_and_each_has_two_forms() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, id) = sandbox.reported_redis(None).await;
    for port in [a.admin.number, agent.admin.number] {
        let text = http_get(port, "/debug/").unwrap();
        let index = json(port, "/debug/?format=json");
        let pages = index["pages"].as_array().unwrap();
        assert!(pages.len() >= 6, "{index}");
        for page in pages {
            let (path, help) = (page["path"].as_str().unwrap(), page["help"].as_str().unwrap());
            assert!(text.contains(path) && text.contains(help), "{path}: {text}");
            let path = &path.replace("/ID", &format!("/{id}"));
            if path.starts_with("/debug/pprof/") || path == "/debug/bundle" {
                // tests/profiles and tests/debug_command read them.
                continue;
            }
            let (code, body) = http(port, "GET", path, "").unwrap();
            assert_eq!(code, 200, "{path}: {body}");
            if path.starts_with("/debug/") {
                json(port, &format!("{path}?format=json"));
            }
        }
        assert_eq!(http(port, "GET", "/debug/nothing", "").unwrap().0, 404);
    }
}

#[tokio::test]
async fn tasks_tell_how_long_they_wait_and_how_often_they_ran() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, _) = sandbox.reported_redis(None).await;
    let worker =
        || json(agent.admin.number, "/debug/tasks?kind=probe-worker&format=json")["tasks"][0].clone();
    let before = worker()["polls"].as_u64().unwrap();
    let polls = || async { worker()["polls"].as_u64().unwrap() };
    eventually("polled", polls, |polls| *polls > before + 5).await;
    // It probes twice a second, so it never waits long.
    let idle = worker()["idle_seconds"].as_f64().unwrap();
    assert!(idle < 10.0, "{idle}");
    let streams = json(a.admin.number, "/debug/tasks?kind=agent-stream&format=json");
    assert_eq!(streams["kinds"][0]["alive"], 1, "{streams}");
    assert_eq!(streams["tasks"].as_array().unwrap().len(), 1, "{streams}");
}

#[tokio::test]
async fn memory_and_runtime_are_told() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, _) = sandbox.reported_redis(None).await;
    for port in [a.admin.number, agent.admin.number] {
        let memory = json(port, "/debug/memory?format=json");
        let allocated = memory["allocated_bytes"].as_u64().unwrap();
        assert!(allocated > 100_000, "{memory}");
        assert!(
            memory["resident_bytes"].as_u64().unwrap() >= allocated,
            "{memory}"
        );
        let workers = || async { json(port, "/debug/runtime?format=json")["workers"].clone() };
        let is_a_share = |workers: &Value| {
            let share = workers[0]["busy_share"].as_f64().unwrap();
            share > 0.0 && share <= 1.0
        };
        eventually("a busy share", workers, is_a_share).await;
    }
}

#[tokio::test]
async fn the_log_filter_is_changed_for_a_time() {
    let sandbox = Sandbox::new();
    let (_redis, _a, agent, _) = sandbox.reported_redis(None).await;
    let port = agent.admin.number;
    let put = |path: &str, filter: &str| http(port, "PUT", path, filter).unwrap();
    for (path, filter) in [
        ("/debug/log-level", "info,="),
        ("/debug/log-level", ""),
        ("/debug/log-level?for=never", "debug"),
        ("/debug/log-level?for=25h", "debug"),
    ] {
        let (code, text) = put(path, filter);
        assert_eq!(code, 400, "{path} {filter}: {text}");
    }
    assert_eq!(json(port, "/debug/log-level?format=json")["changed"], Value::Null);

    let lines = || async { agent.process.log() };
    let (code, text) = put("/debug/log-level?for=1h", "debug");
    assert_eq!(code, 200, "{text}");
    assert!(text.contains("in force    debug, for 59m"), "{text}");
    eventually("lines of the new level", lines, |log| log.contains("DEBUG")).await;

    let (code, text) = put("/debug/log-level?for=1s", "info");
    assert_eq!(code, 200, "{text}");
    let back = |log: &String| log.contains("the log filter is the configured one again");
    eventually("the configured one", lines, back).await;
    assert_eq!(json(port, "/debug/log-level?format=json")["changed"], Value::Null);

    assert_eq!(put("/debug/log-level", "debug").0, 200);
    let (code, text) = http(port, "DELETE", "/debug/log-level", "").unwrap();
    assert!(code == 200 && !text.contains("in force"), "{code}: {text}");
}

#[tokio::test]
async fn the_configuration_in_force_is_shown_with_its_origins() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, _) = sandbox.reported_redis(None).await;
    for (port, set, unset) in [
        (a.admin.number, "silent_after", "shutdown_grace"),
        (agent.admin.number, "instances.0.address", "debug.heap_profile"),
    ] {
        let page = json(port, "/debug/config?format=json");
        let origin = |key: &str| {
            let values = page["values"].as_array().unwrap();
            let value = values.iter().find(|value| value["key"] == key);
            value.unwrap_or_else(|| panic!("{key}: {page}"))["origin"].clone()
        };
        assert!(origin(set).as_str().unwrap().contains(".toml:"), "{page}");
        assert_eq!(origin(unset), "default", "{page}");
        let text = http_get(port, "/debug/config").unwrap();
        assert!(text.contains(set) && text.contains("ORIGIN"), "{text}");
    }
}

#[tokio::test]
async fn the_trail_of_an_instance_tells_why_it_is_down() {
    let sandbox = Sandbox::new();
    let (mut redis, a, agent, id) = sandbox.reported_redis(None).await;
    let port = agent.admin.number;
    let path = format!("/debug/instances/{id}");
    let page = || json(port, &format!("{path}?format=json"));
    let up = page();
    assert_eq!(up["verdict"]["state"], "UP", "{up}");
    let thresholds = &up["thresholds"];
    for (name, value) in [("interval", 0.1), ("hang_after", 1.0), ("connect_timeout", 0.5)] {
        assert_eq!(
            thresholds[format!("{name}_seconds")],
            value,
            "{name}: {thresholds}"
        );
    }
    let due = up["due"].as_array().unwrap();
    for what in ["ping", "info", "new_connection_check", "silence_verdict"] {
        let one = due.iter().find(|one| one["what"] == what);
        let seconds = one.and_then(|one| one["in_seconds"].as_f64());
        assert!(seconds.is_some(), "{what}: {up}");
    }
    let answered = &up["last_probes"][0];
    assert!(answered["latency_seconds"].as_f64().unwrap() > 0.0, "{up}");

    redis.process.kill();
    eventually("DOWN", || a.state(&id), |s| s == "DOWN/CONNECTION_REFUSED").await;
    let down = page();
    assert_eq!(down["verdict"]["reason"], "CONNECTION_REFUSED", "{down}");
    let decisions = down["last_decisions"].as_array().unwrap();
    let verdict = decisions.iter().position(|one| one["what"] == "verdict_changed");
    let verdict = verdict.unwrap_or_else(|| panic!("{down}"));
    assert_eq!(decisions[verdict]["from"], "OK", "{down}");
    assert_eq!(decisions[verdict]["to"], "CONNECTION_REFUSED", "{down}");
    // The newest stands first: before the verdict, the connection was closed and the next one refused.
    let before: Vec<_> = decisions[verdict..].iter().map(|one| &one["what"]).collect();
    assert_eq!(before[1..3], ["connect_failed", "connection_closed"], "{down}");
    let refusal = decisions[verdict + 1]["details"].as_str().unwrap();
    assert!(refusal.contains("connection refused"), "{refusal}");
    let text = http_get(port, &path).unwrap();
    let words = "verdict changed from UP/OK to DOWN/CONNECTION_REFUSED: connection refused";
    assert!(text.contains(words), "{text}");

    let (code, body) = http(port, "GET", "/debug/instances/db01:1", "").unwrap();
    assert_eq!(code, 404, "{body}");
}

#[tokio::test]
async fn streams_of_an_agent_are_shown() {
    let sandbox = Sandbox::new();
    let (_redis, mut a, agent, _) = sandbox.reported_redis(None).await;
    let port = agent.admin.number;
    let stream = || async { json(port, "/debug/streams?format=json")["streams"][0].clone() };
    let is_acknowledged = |stream: &Value| stream["last_acknowledged"].as_u64() > Some(1);
    let open = eventually("an acknowledgement", stream, is_acknowledged).await;
    assert_eq!(open["address"], format!("127.0.0.1:{}", a.grpc.number), "{open}");
    assert_eq!(open["state"], "open", "{open}");
    assert_eq!(open["collector_id"], "a", "{open}");
    assert_eq!(open["heartbeat_interval_seconds"], 0.2, "{open}");
    assert_eq!(open["silent_after_seconds"], 1.0, "{open}");
    assert!(
        open["last_sent"].as_u64() >= open["last_acknowledged"].as_u64(),
        "{open}"
    );
    assert!(open["last_answer_seconds_ago"].as_f64().unwrap() < 10.0, "{open}");
    let text = http_get(port, "/debug/streams").unwrap();
    assert!(text.contains("open, since"), "{text}");

    a.process.kill();
    let is_refused = |stream: &Value| {
        let text = stream["last_end"]["text"].as_str();
        text.is_some_and(|text| text.contains("connection refused"))
    };
    let ended = eventually("the end of the stream", stream, is_refused).await;
    assert_ne!(ended["state"], "open", "{ended}");
    assert!(ended["attempts"].as_u64() >= Some(2), "{ended}");
    assert_eq!(ended["collector_id"], Value::Null, "{ended}");
}

#[tokio::test]
async fn streams_are_shown_with_what_is_acknowledged() {
    let sandbox = Sandbox::new();
    let (_redis, a, mut agent, _) = sandbox.reported_redis(None).await;
    let streams = || async { json(a.admin.number, "/debug/streams?format=json") };
    // The Welcome acknowledges the Hello; later acknowledgements come with the messages.
    let acknowledged = |page: &Value| {
        let stream = &page["streams"][0];
        let number = |key: &str| stream[key].as_u64().unwrap_or(0);
        number("messages") > 5 && number("acknowledged") > 1 && number("applied") >= number("acknowledged")
    };
    let page = eventually("acknowledged messages", streams, acknowledged).await;
    let stream = &page["streams"][0];
    assert_eq!(page["streams"].as_array().unwrap().len(), 1, "{page}");
    assert_eq!(page["agents_without_stream"], Value::Array(Vec::new()), "{page}");
    assert_eq!(stream["agent"], "db01");
    assert!(
        stream["peer"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{stream}"
    );
    let [received, applied] = ["received", "applied"].map(|key| stream[key].as_u64().unwrap());
    assert_eq!(stream["lag"], received - applied, "{stream}");
    assert!(
        stream["last_frame_seconds_ago"].as_f64().unwrap() < 10.0,
        "{stream}"
    );
    let text = http_get(a.admin.number, "/debug/streams").unwrap();
    assert!(
        text.starts_with("1 open streams of 1 agents, 0 agents without a stream"),
        "{text}"
    );

    agent.process.kill();
    let silent = |page: &Value| page["agents_without_stream"][0]["silent"] == true;
    let page = eventually("the agent is silent", streams, silent).await;
    assert_eq!(page["streams"], Value::Array(Vec::new()), "{page}");
    assert_eq!(page["agents_without_stream"][0]["agent"], "db01", "{page}");
    assert!(
        page["agents_without_stream"][0]["silent_since"].is_string(),
        "{page}"
    );
}

#[tokio::test]
async fn the_page_of_zookeeper_tells_the_session() {
    let sandbox = Sandbox::new();
    let mut zookeeper = sandbox.zookeeper().await;
    let (_redis, a, _agent, id) = sandbox.reported_redis(Some(&zookeeper)).await;
    a.leads().await;
    let page = || async { json(a.admin.number, "/debug/zookeeper?format=json") };
    let registered = |page: &Value| page["registration"]["owner"] == "own" && page["phase"] == "leader";
    let told = eventually("registered", page, registered).await;
    let reader = zookeeper.client().await;
    let (_, stat) = reader.get_data("/redkeeper/collectors/a").await.unwrap();
    assert_eq!(
        told["session"]["id"],
        format!("{:#x}", stat.ephemeral_owner),
        "{told}"
    );
    assert_eq!(told["registration"]["session"], told["session"]["id"], "{told}");
    assert_eq!(told["session"]["timeout_seconds"], 2.0, "{told}");
    assert_eq!(told["connection"]["state"], "connected", "{told}");
    assert_eq!(
        (&told["sessions"], &told["epoch"]),
        (&1.into(), &1.into()),
        "{told}"
    );
    assert_eq!(told["publisher"]["stage"], "writing", "{told}");
    let audited = |page: &Value| page["publisher"]["audit_passes"].as_u64() >= Some(1);
    eventually("a pass of the audit", page, audited).await;
    let published =
        || async { json(a.admin.number, &format!("/debug/instances/{id}?format=json"))["published"].clone() };
    eventually("acknowledged", published, |p| p["state"] == "acknowledged").await;

    // Its loss is told without asking it.
    zookeeper.process.kill();
    let failed = |page: &Value| {
        let errors = page["errors"].as_array().unwrap();
        let of = |operation: &str| errors.iter().any(|error| error["operation"] == operation);
        of("connection") && of("connect") && page["session"].is_null()
    };
    let told = eventually("the loss is told", page, failed).await;
    assert_eq!(told["connection"]["state"], "lost", "{told}");
    sandbox.restart_zookeeper(&mut zookeeper).await;
    let again = |page: &Value| page["sessions"].as_u64() >= Some(2) && page["phase"] == "leader";
    eventually("another session", page, again).await;
}

#[tokio::test]
async fn a_collector_without_zookeeper_says_so() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let told = json(a.admin.number, "/debug/zookeeper?format=json");
    assert_eq!(told["standalone"], true, "{told}");
    let text = http_get(a.admin.number, "/debug/zookeeper").unwrap();
    assert!(text.starts_with("standalone"), "{text}");
}

#[tokio::test]
async fn an_instance_page_tells_who_says_so() {
    let sandbox = Sandbox::new();
    let (redis, a, mut agent, id) = sandbox.reported_redis(None).await;
    let path = format!("/debug/instances/{id}?format=json");
    let page = || async { json(a.admin.number, &path) };
    let probed = |page: &Value| page["times"]["agent_silent_in_seconds"].as_f64() > Some(0.0);
    let told = eventually("a live agent", page, probed).await;
    assert_eq!(
        (&told["status"]["state"], &told["status"]["reason"]),
        (&"UP".into(), &"OK".into())
    );
    assert_eq!(
        told["status"]["address"],
        format!("127.0.0.1:{}", redis.port.number)
    );
    assert_eq!(told["status"]["cluster"], "test");
    assert_eq!(
        (&told["agent"]["id"], &told["agent"]["silent"]),
        (&"db01".into(), &false.into())
    );
    assert_eq!(told["agent"]["streams"].as_array().unwrap().len(), 1, "{told}");
    assert!(told["agent"]["handle"].is_u64(), "{told}");
    let seconds = |key: &str| told["times"][key].as_f64().unwrap();
    assert!(seconds("agent_silent_in_seconds") <= 1.0, "{told}");
    assert!(seconds("freshness_limit_seconds") > 0.0, "{told}");
    assert!(
        seconds("probe_stalls_in_seconds") <= seconds("freshness_limit_seconds"),
        "{told}"
    );
    assert_eq!(
        (&told["conflict"]["claim"], &told["conflict"]["agent_id"]),
        (&Value::Null, &Value::Null)
    );
    assert!(
        told["published"]["znode"].as_str().unwrap().ends_with(&id),
        "{told}"
    );
    assert_eq!(
        http(a.admin.number, "GET", "/debug/instances/db01:1", "")
            .unwrap()
            .0,
        404
    );
    assert_eq!(
        http(a.admin.number, "GET", "/debug/instances/a/b", "").unwrap().0,
        404
    );

    // Another agent claims the instance, which its first agent keeps.
    let report = fake_agent::report("db01", redis.port.number.into(), v1::Reason::Loading);
    let _answers = a.hear("other", &[report]).await;
    let claimed = |page: &Value| page["conflict"]["claim"]["agent"] == "other";
    eventually("a conflict", page, claimed).await;

    agent.process.kill();
    let silent = |page: &Value| page["agent"]["streams"].as_array().is_some_and(Vec::is_empty);
    eventually("no stream", page, silent).await;
}
