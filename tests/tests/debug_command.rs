//! `redkeeper debug` and `redkeeper-agent debug`, the archive for support, and many readers of the debug pages.
#![allow(clippy::unwrap_used)]

use std::{
    io::Write,
    net::TcpStream,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use redkeeper_tests::{
    Sandbox,
    daemons::{Usage, http, http_get, http_within},
    eventually,
    ports::port,
    servers::Flavour,
};

fn text(output: &Output) -> String {
    let (out, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{errors}")
}

/// Runs `PROGRAM debug WORDS` in the sandbox's folder.
fn debug(sandbox: &Sandbox, program: &str, words: &[&str]) -> Output {
    let mut command = sandbox.command(program);
    command.arg("debug").args(words).current_dir(sandbox.path(""));
    command.output().unwrap()
}

#[tokio::test]
async fn both_commands_show_the_pages_of_a_daemon() {
    let sandbox = Sandbox::new();
    let (_redis, a, agent, id) = sandbox.reported_redis(None).await;
    for port in [a.admin.number, agent.admin.number] {
        assert_eq!(http(port, "PUT", "/debug/pprof/heap", "on").unwrap().0, 200);
    }
    for (program, port, task) in [
        ("redkeeper", a.admin.number, "agent-stream"),
        ("redkeeper-agent", agent.admin.number, "probe-worker"),
    ] {
        let address = &format!("127.0.0.1:{port}");
        let ok = |words: &[&str]| {
            let output = debug(&sandbox, program, words);
            assert!(output.status.success(), "{program} {words:?}: {}", text(&output));
            text(&output)
        };
        assert!(ok(&["tasks", address]).contains(task));
        assert!(!ok(&["tasks", address, "--kind", "pulse"]).contains(task));
        assert!(ok(&["heap", address]).starts_with("memory in use: "));
        assert!(ok(&["heap", address, "--allocated"]).starts_with("memory allocated, freed included: "));
        assert!(ok(&["profile", address, "--seconds", "1"]).starts_with("CPU time: "));
        assert!(ok(&["log-level", address, "--set", "debug", "--for", "1h"]).contains("in force    debug"));
        assert!(!ok(&["log-level", address, "--reset"]).contains("in force"));
        assert!(ok(&["page", address]).contains("/debug/streams"));
        assert!(ok(&["page", address, "--name", &format!("instances/{id}")]).contains("UP"));

        let svg = format!("{program}.svg");
        ok(&["heap", address, "--save", &svg]);
        assert!(
            std::fs::read_to_string(sandbox.path(&svg))
                .unwrap()
                .contains("<svg")
        );
        let profile = format!("{program}.pb.gz");
        assert!(ok(&["heap", address, "--save", &profile]).contains("go tool pprof -top"));
        let again = debug(&sandbox, program, &["heap", address, "--save", &profile]);
        assert!(
            !again.status.success() && text(&again).contains("exists"),
            "{}",
            text(&again)
        );
    }
    // The agent finds its own address in its configuration.
    let mut command = sandbox.command("redkeeper-agent");
    command
        .arg("--config")
        .arg(&agent.config)
        .args(["debug", "tasks"]);
    let output = command.output().unwrap();
    assert!(text(&output).contains("probe-worker"), "{}", text(&output));
    // For programs.
    let mut command = sandbox.command("redkeeper");
    command.args([
        "-o",
        "json",
        "debug",
        "tasks",
        &format!("127.0.0.1:{}", a.admin.number),
    ]);
    let page: serde_json::Value = serde_json::from_slice(&command.output().unwrap().stdout).unwrap();
    assert!(page["supervised"].as_u64().unwrap() > 3, "{page}");
}

#[tokio::test]
async fn the_commands_tell_what_is_wrong() {
    let sandbox = Sandbox::new();
    let (_redis, a, _agent, _) = sandbox.reported_redis(None).await;
    let (nobody, address) = (port(), format!("127.0.0.1:{}", a.admin.number));
    for (words, says) in [
        (["tasks", &format!("127.0.0.1:{}", nobody.number)], "admin_listen"),
        (["tasks", "no-port"], "no-port"),
        (["tasks", &format!("127.0.0.1:{}", a.grpc.number)], "admin_listen"),
        // The port for everybody has no debug pages.
        (["tasks", &format!("127.0.0.1:{}", a.http.number)], "404"),
    ] {
        let output = debug(&sandbox, "redkeeper", &words);
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {text}");
        assert!(
            text.contains(says) && text.lines().count() <= 2,
            "{words:?}: {text}"
        );
    }
    let wrong = debug(&sandbox, "redkeeper", &["log-level", &address, "--set", "info,="]);
    assert!(text(&wrong).contains("no log filter"), "{}", text(&wrong));
}

/// Unpacks an archive and returns all that is in it.
fn unpacked(folder: &Path, archive: &Path) -> Vec<(String, String)> {
    let tar = Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .status();
    assert!(tar.unwrap().success());
    let (mut folders, mut found) = (vec![folder.join("redkeeper-debug")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).unwrap();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                found.push((name, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    found
}

#[tokio::test]
async fn the_archive_holds_everything_but_secrets() {
    let sandbox = Sandbox::new();
    let redis = sandbox.server(Flavour::Redis70, &["--requirepass", "hunter-2-of-the-test"]);
    let a = sandbox.collector("a", None).await;
    let password = sandbox.write("password", "hunter-2-of-the-test\n");
    let config = format!(
        "[[instances]]\naddress = \"127.0.0.1:{}\"\npassword_file = \"{}\"\nlabels = {{ api_token = \"token-of-the-test\" }}\n",
        redis.port.number,
        password.display()
    );
    let collectors = [format!("\"127.0.0.1:{}\"", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &config).await;
    let id = format!("db01:{}", redis.port.number);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;

    for port in [a.admin.number, agent.admin.number] {
        assert_eq!(http(port, "PUT", "/debug/pprof/heap", "on").unwrap().0, 200);
    }
    for (program, port, own) in [
        ("redkeeper", a.admin.number, "zookeeper.txt"),
        ("redkeeper-agent", agent.admin.number, "streams.json"),
    ] {
        let folder = sandbox.path(&format!("of-{program}"));
        std::fs::create_dir_all(&folder).unwrap();
        let archive = folder.join("bundle.tar.gz");
        let words = [
            "bundle",
            &format!("127.0.0.1:{port}"),
            "--save",
            archive.to_str().unwrap(),
        ];
        let output = debug(&sandbox, program, &words);
        assert!(output.status.success(), "{}", text(&output));
        let files = unpacked(&folder, &archive);
        let instance = format!("{id}.txt");
        for name in [
            "index.txt",
            "tasks.json",
            "runtime.txt",
            "memory.txt",
            "config.txt",
            "log.txt",
            "metrics.txt",
            "heap.pb.gz",
            "status.txt",
            own,
            &instance,
        ] {
            let file = files.iter().find(|(file, _)| file == name);
            assert!(
                file.is_some_and(|(_, text)| !text.is_empty()),
                "{program}: {name}"
            );
        }
        let log = &files.iter().find(|(name, _)| name == "log.txt").unwrap().1;
        assert!(log.contains("started"), "{log}");
        for (name, text) in &files {
            for secret in ["hunter-2-of-the-test", "token-of-the-test"] {
                // Labels are shown to everybody who may ask a collector, but not here.
                assert!(!text.contains(secret), "{program}: {name} holds {secret}");
            }
        }
    }
}

/// Reads all pages in turn until asked to stop. Returns how often that worked.
fn read_pages(port: u16, id: &str, stop: &AtomicBool) -> usize {
    let mut answered = 0;
    while !stop.load(Ordering::Relaxed) {
        for path in [
            "tasks",
            "runtime",
            "memory",
            "streams",
            "config",
            "log",
            &format!("instances/{id}"),
        ] {
            // Beyond the port's limit of connections it is refused, which is what the limit is for.
            let answer = http_within(
                Duration::from_secs(20),
                port,
                "GET",
                &format!("/debug/{path}"),
                "",
            );
            answered += usize::from(answer.is_ok_and(|(code, _)| code == 200));
        }
    }
    answered
}

#[tokio::test]
async fn many_readers_and_one_that_never_reads_do_no_harm() {
    let sandbox = Sandbox::new();
    let (mut redis, a, agent, id) = sandbox.reported_redis(None).await;
    let ports = [a.admin.number, agent.admin.number];
    let before = [Usage::of(&a.process), Usage::of(&agent.process)];
    // One that asks ten thousand times and never reads: more answers than all buffers hold.
    let silent = ports.map(|port| {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        for _ in 0..10_000 {
            if stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                .is_err()
            {
                break;
            }
        }
        stream
    });
    let stop = AtomicBool::new(false);
    let (answered, down) = std::thread::scope(|scope| {
        let (id, stop) = (&id, &stop);
        let readers: Vec<_> = (0..100)
            .map(|n| scope.spawn(move || read_pages(ports[n % 2], id, stop)))
            .collect();
        // Meanwhile both daemons do their work.
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                for _ in 0..3 {
                    redis.process.kill();
                    eventually("DOWN", || a.state(id), |s| s == "DOWN/CONNECTION_REFUSED").await;
                    sandbox.restart(&mut redis).await;
                    eventually("UP", || a.state(id), |s| s == "UP/OK").await;
                }
            });
            stop.store(true, Ordering::Relaxed);
        };
        let down = std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .unwrap()
            .join();
        stop.store(true, Ordering::Relaxed);
        let answered: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        (answered, down)
    });
    down.unwrap();
    assert!(answered.iter().sum::<usize>() > 200, "{answered:?}");
    for port in ports {
        let page = http_get(port, "/debug/runtime?format=json").unwrap();
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        assert!(page["pulse_age_seconds"].as_f64().unwrap() < 5.0, "{page}");
    }
    // Those that never read are closed after a time, so that they do not hold a place of the port for ever.
    let open = "redkeeper_connections{port=\"admin\"}";
    // The scrape itself takes one.
    let only_the_scrape = |n: &Option<f64>| *n == Some(1.0);
    eventually(
        "closed by the collector",
        || async { a.metric(open) },
        only_the_scrape,
    )
    .await;
    eventually(
        "closed by the agent",
        || async { agent.metric(open) },
        only_the_scrape,
    )
    .await;
    drop(silent);
    for (usage, process) in before.iter().zip([&a.process, &agent.process]) {
        usage.check(process, 48 << 20, "reading").await;
    }
}
