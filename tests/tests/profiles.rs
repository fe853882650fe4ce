//! Leaks that are planted in a running agent are found through its debug pages alone.
#![allow(clippy::unwrap_used)]

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use redkeeper_tests::{
    Sandbox,
    daemons::{http, http_get, http_within},
    eventually,
};
use serde_json::Value;

/// Reading the debug information of an unoptimised program takes seconds on a busy machine.
const SLOW: Duration = Duration::from_secs(60);

fn slow(port: u16, path: &str) -> (u16, String) {
    http_within(SLOW, port, "GET", path, "").unwrap()
}

fn json(port: u16, path: &str) -> Value {
    let (code, text) = slow(port, path);
    assert_eq!(code, 200, "{path}: {text}");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
}

/// Where `go tool pprof` puts its files.
fn folder(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.path("go");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Runs `go tool pprof`, as an operator does.
fn go_pprof(folder: &Path, arguments: &[&str]) -> String {
    let go = Command::new("go")
        .args(["tool", "pprof"])
        .args(arguments)
        .env("PPROF_TMPDIR", folder)
        .env("GOPATH", folder)
        .env("GOCACHE", folder)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&go.stderr);
    assert!(go.status.success(), "go tool pprof {arguments:?}: {errors}");
    String::from_utf8(go.stdout).unwrap()
}

/// Saves the heap profile of a daemon through `go tool pprof`.
fn save_heap(folder: &Path, port: u16, name: &str) -> PathBuf {
    let file = folder.join(name);
    let output = format!("-output={}", file.display());
    let url = format!("http://127.0.0.1:{port}/debug/pprof/heap");
    go_pprof(folder, &["-proto", &output, &url]);
    file
}

/// The fault of the daemon that redkeeper replaces: tasks that wait for ever on a full channel.
#[tokio::test]
async fn a_leak_of_tasks_is_found_by_kind_and_age() {
    let sandbox = Sandbox::new();
    let (_redis, _a, agent, _) = sandbox.reported_redis(None).await;
    let port = agent.admin.number;
    let kinds = || {
        let page = json(port, "/debug/tasks?format=json");
        let kinds = page["kinds"].as_array().unwrap().clone();
        let count = |kind: Value| {
            (
                kind["kind"].as_str().unwrap().to_owned(),
                kind["alive"].as_u64().unwrap(),
            )
        };
        kinds
            .into_iter()
            .map(count)
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = kinds();
    agent.leak("tasks");
    let grown = || async {
        let now = kinds();
        let of = |(kind, alive): (&String, &u64)| {
            (kind.clone(), alive - before.get(kind).unwrap_or(&0).min(alive))
        };
        let mut grown: Vec<_> = now.iter().map(of).filter(|(_, more)| *more > 0).collect();
        grown.sort_by_key(|(_, more)| std::cmp::Reverse(*more));
        grown
    };
    let leaks = |grown: &Vec<(String, u64)>| grown.first().is_some_and(|(_, more)| *more >= 30);
    let grown = eventually("tasks of one kind grow", grown, leaks).await;
    assert_eq!(grown.len(), 1, "nothing else grows: {grown:?}");
    let kind = &grown[0].0;
    assert_eq!(kind, "status-writer");
    // Each of them was polled once or twice and has waited since: the oldest ones stand first.
    let page = json(port, &format!("/debug/tasks?kind={kind}&format=json"));
    let tasks = page["tasks"].as_array().unwrap();
    let idle: Vec<_> = tasks
        .iter()
        .map(|task| task["idle_seconds"].as_f64().unwrap())
        .collect();
    assert!(idle.is_sorted_by(|a, b| a >= b), "{page}");
    let waits_for_ever = |task: &&Value| {
        let (age, idle) = (
            task["age_seconds"].as_f64().unwrap(),
            task["idle_seconds"].as_f64().unwrap(),
        );
        task["polls"].as_u64().unwrap() <= 2 && idle > age - 0.1
    };
    assert!(tasks.iter().filter(waits_for_ever).count() >= 30, "{page}");
}

#[tokio::test]
async fn a_leak_of_memory_is_found_by_the_difference_of_two_profiles() {
    let sandbox = Sandbox::new();
    let (_redis, _a, agent, _) = sandbox.reported_redis(None).await;
    let (port, folder) = (agent.admin.number, folder(&sandbox));
    assert_eq!(json(port, "/debug/memory?format=json")["heap_profile"], "off");
    assert_eq!(http(port, "PUT", "/debug/pprof/heap", "on").unwrap().0, 200);
    assert_eq!(json(port, "/debug/memory?format=json")["heap_profile"], "on");
    let allocated = || async {
        json(port, "/debug/memory?format=json")["allocated_bytes"]
            .as_u64()
            .unwrap()
    };
    let before = save_heap(&folder, port, "before.pb.gz");
    let start = allocated().await;
    agent.leak("memory");
    eventually("memory grows", allocated, |bytes| *bytes > start + (32 << 20)).await;
    let after = save_heap(&folder, port, "after.pb.gz");

    // What grew, with all that was called.
    let base = format!("-base={}", before.display());
    let top = go_pprof(&folder, &["-top", "-cum", &base, &after.display().to_string()]);
    let first_own = top.lines().find(|line| line.contains(" redkeeper_")).unwrap();
    assert!(
        top.contains("redkeeper_agent::test_hooks::remember_for_ever"),
        "{top}"
    );
    assert!(first_own.contains("redkeeper_"), "{top}");
    // The daemon's own table names it as well, without Go.
    let page = json(port, "/debug/pprof/heap?format=json");
    let largest = &page["by_innermost_own_function"][0];
    assert_eq!(
        largest["function"], "redkeeper_agent::test_hooks::remember_for_ever",
        "{page}"
    );
    assert!(largest["amount"].as_f64().unwrap() > 20e6, "{page}");
}

#[tokio::test]
async fn profiles_of_both_daemons_name_their_functions() {
    let sandbox = Sandbox::new();
    let on = "[debug]\nheap_profile = true\n";
    let a = sandbox
        .collector_with("a", &format!("standalone = true\n{on}"))
        .await;
    let collectors = [format!("\"127.0.0.1:{}\"", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, on).await;
    eventually("reports", || a.state("db01:6379"), |state| state != "-").await;
    for port in [a.admin.number, agent.admin.number] {
        let url = |path: &str| format!("http://127.0.0.1:{port}/debug/pprof/{path}");
        // Something for it to do meanwhile.
        let busy = std::thread::spawn(move || {
            let until = std::time::Instant::now() + Duration::from_secs(4);
            while std::time::Instant::now() < until {
                http_get(port, "/metrics").unwrap();
            }
        });
        let top = go_pprof(&folder(&sandbox), &["-top", "-cum", &url("profile?seconds=2")]);
        assert!(
            top.contains("Type: cpu") && top.contains("redkeeper_runtime::admin"),
            "{top}"
        );
        busy.join().unwrap();
        let top = go_pprof(&folder(&sandbox), &["-top", "-cum", &url("allocs")]);
        assert!(
            top.contains("Type: alloc_space") && top.contains("redkeeper_runtime::admin"),
            "{top}"
        );
        for path in ["/debug/pprof/heap?format=svg", "/debug/pprof/allocs?format=svg"] {
            let (code, svg) = slow(port, path);
            assert_eq!(code, 200, "{svg}");
            assert!(
                svg.contains("<svg") && svg.contains("redkeeper_"),
                "{path}: {svg}"
            );
        }
        let text = slow(port, "/debug/pprof/heap?format=text").1;
        assert!(text.starts_with("memory in use: "), "{text}");
    }
}

#[tokio::test]
async fn profiles_are_bounded_and_one_at_a_time() {
    let sandbox = Sandbox::new();
    let (_redis, _a, agent, _) = sandbox.reported_redis(None).await;
    let port = agent.admin.number;
    for path in [
        "profile?seconds=0",
        "profile?seconds=61",
        "profile?seconds=x",
        "profile?format=xml",
        "heap?format=xml",
    ] {
        let (code, text) = http(port, "GET", &format!("/debug/pprof/{path}"), "").unwrap();
        assert_eq!(code, 400, "{path}: {text}");
    }
    // The first one ends when its reader goes, long before its minute is over.
    let reader = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    std::io::Write::write_all(
        &mut &reader,
        b"GET /debug/pprof/profile?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n",
    )
    .unwrap();
    let second = || async { slow(port, "/debug/pprof/profile?seconds=1&format=text") };
    let (_, text) = eventually("the second is refused", second, |(code, _)| *code == 429).await;
    assert!(text.contains("another profile"), "{text}");
    // The agent works meanwhile.
    assert_eq!(http_get(port, "/livez").unwrap(), "ok\n");
    drop(reader);
    eventually("the first has ended", second, |(code, _)| *code == 200).await;

    // Without samples there is no heap profile, and the page says what to do.
    assert_eq!(http(port, "PUT", "/debug/pprof/heap", "maybe").unwrap().0, 400);
    let (code, text) = slow(port, "/debug/pprof/heap");
    assert!(
        code == 409 && text.contains("debug.heap_profile = true"),
        "{code}: {text}"
    );
    assert_eq!(json(port, "/debug/memory?format=json")["heap_profile"], "off");
    assert_eq!(http(port, "PUT", "/debug/pprof/heap", "on").unwrap().0, 200);
    assert_eq!(json(port, "/debug/memory?format=json")["heap_profile"], "on");
    assert_eq!(http(port, "PUT", "/debug/pprof/heap", "off").unwrap().0, 200);
    assert_eq!(slow(port, "/debug/pprof/heap").0, 409);
}
