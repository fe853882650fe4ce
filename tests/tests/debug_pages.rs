//! The pages below `/debug/` of running daemons.
#![allow(clippy::unwrap_used)]

use redkeeper_tests::{
    Sandbox,
    daemons::{http, http_get},
    eventually,
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
            if path.starts_with("/debug/pprof/") {
                // tests/profiles reads them.
                continue;
            }
            let (code, body) = http(port, "GET", path, "").unwrap();
            assert_eq!(code, 200, "{path}: {body}");
            if path.starts_with("/debug/") && !path.ends_with("count") {
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
