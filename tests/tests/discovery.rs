//! Servers that nobody named: found by files and processes, each with a reason.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use redkeeper_tests::{Sandbox, eventually, holds_for, ports, process::Process, servers::Flavour};

/// The line of `discover --explain` about an address.
fn line<'a>(table: &'a str, address: &str) -> &'a str {
    table
        .lines()
        .find(|line| line.starts_with(address))
        .unwrap_or_else(|| panic!("no {address} in\n{table}"))
}

#[tokio::test]
async fn files_and_processes_are_found_and_each_is_explained() {
    let sandbox = Sandbox::new();
    let plain = sandbox.redis().await;
    let node = sandbox.server(Flavour::Redis70, &["--cluster-enabled", "yes"]);
    let by_file = ports::port();
    sandbox.write("common.inc", "port 6379\nbind 127.0.0.1\n");
    let own = format!(
        "include common.inc\n# port 1\nport {}\nsave \"\"\n",
        by_file.number
    );
    let conf = sandbox.write("one.conf", &own);
    let mut server = std::process::Command::new("redis-server");
    server.current_dir(sandbox.path("")).arg(&conf);
    let _server = Process::start(server, &sandbox.path("one.log"));
    sandbox.write("off.conf", "port 0\n");
    sandbox.write("sentinel.conf", "sentinel monitor m 127.0.0.1 6379 2\n");
    let nobody = ports::port();
    sandbox.write("dead.conf", &format!("port {}\n", nobody.number));

    let config = sandbox.write(
        "agent.toml",
        &format!(
            "id = 'db01'\n[discovery]\nconfig_files = ['{}']\nprocesses = true\n[[instances]]\naddress = '127.0.0.1:{}'\n",
            sandbox.path("*.conf").display(),
            plain.port.number
        ),
    );
    let explain = || async {
        let mut command = sandbox.command("redkeeper-agent");
        let output = command
            .arg("--config")
            .arg(&config)
            .args(["discover", "--explain"])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let file = format!("127.0.0.1:{}", by_file.number);
    let taken = |table: &String| line(table, &file).contains(" yes ");
    let table = eventually("the server of the file answers", explain, taken).await;
    assert!(line(&table, &file).contains("one.conf"), "{table}");
    let configured = format!("127.0.0.1:{}", plain.port.number);
    assert!(
        line(&table, &configured).contains("is configured by name"),
        "{table}"
    );
    let (port, bus) = (node.port.number, node.port.number + 10_000);
    assert!(
        line(&table, &format!("127.0.0.1:{port}")).contains(" yes "),
        "{table}"
    );
    let bus = line(&table, &format!("127.0.0.1:{bus}"));
    assert!(
        bus.contains(&format!("is the cluster bus of port {port}")),
        "{table}"
    );
    assert!(
        line(&table, &format!("127.0.0.1:{}", nobody.number)).contains("cannot be spoken to"),
        "{table}"
    );
    for why in ["listens nowhere", "is a Sentinel"] {
        assert!(table.contains(why), "{why}\n{table}");
    }
}

#[tokio::test]
async fn a_discovered_instance_is_watched_and_not_dropped_when_it_is_gone() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n[discovery]\nconfig_files = ['{}']\ninterval = '1s'\nforget_after = '6s'\n",
        sandbox.path("*.conf").display()
    );
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    // It comes after the agent.
    let mut redis = sandbox.redis().await;
    sandbox.write("late.conf", &format!("port {}\n", redis.port.number));
    let id = format!("db01:{}", redis.port.number);
    eventually("found", || a.state(&id), |s| s == "UP/OK").await;
    redis.process.kill();
    eventually("DOWN", || a.state(&id), |s| s == "DOWN/CONNECTION_REFUSED").await;
    // It is there for some scans more.
    let down = |s: &String| s == "DOWN/CONNECTION_REFUSED";
    holds_for("kept", Duration::from_secs(3), || a.state(&id), down).await;
    eventually("forgotten at last", || a.state(&id), |s| s == "-").await;
    drop(agent);
}
