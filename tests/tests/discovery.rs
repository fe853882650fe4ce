//! Servers that nobody named: found by files and processes, each with a reason.
#![allow(clippy::unwrap_used)]

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
    time::Duration,
};

use redkeeper_tests::{
    Sandbox, eventually, holds_for, netns, ports,
    process::{Process, copy_program},
    servers::Flavour,
};

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
    let mut server = Command::new("redis-server");
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
    // A node of a cluster listens for its peers later than for clients.
    let bus = format!("127.0.0.1:{}", node.port.number + 10_000);
    let taken = |table: &String| {
        line(table, &file).contains(" yes ") && table.lines().any(|line| line.starts_with(&bus))
    };
    let table = eventually("all servers listen", explain, taken).await;
    assert!(line(&table, &file).contains("one.conf"), "{table}");
    let configured = format!("127.0.0.1:{}", plain.port.number);
    assert!(
        line(&table, &configured).contains("is configured by name"),
        "{table}"
    );
    let port = node.port.number;
    assert!(
        line(&table, &format!("127.0.0.1:{port}")).contains(" yes "),
        "{table}"
    );
    let bus = line(&table, &bus);
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
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n[discovery]\nconfig_files = ['{}']\ninterval = '1s'\n\
         forget_after = '8s'\nstate_file = '{}'\n",
        sandbox.path("*.conf").display(),
        sandbox.path("discovered.json").display()
    );
    let mut agent = sandbox.agent_with("db01", &collectors, &text).await;
    // It comes after the agent.
    let mut redis = sandbox.redis().await;
    let file = sandbox.write("late.conf", &format!("port {}\n", redis.port.number));
    let id = format!("db01:{}", redis.port.number);
    eventually("found", || a.state(&id), |s| s == "UP/OK").await;
    redis.process.kill();
    eventually("DOWN", || a.state(&id), |s| s == "DOWN/CONNECTION_REFUSED").await;
    std::fs::remove_file(file).unwrap();
    let gone = |s: &String| s == "DOWN/PROCESS_GONE";
    eventually("gone", || a.state(&id), gone).await;
    // An agent that starts now has never seen it, and knows it all the same.
    sandbox.restart_agent(&mut agent);
    let told = || async { agent.metric("redkeeper_verdicts_total{reason=\"PROCESS_GONE\"}") };
    eventually("remembered", told, |n| *n == Some(1.0)).await;
    holds_for("kept", Duration::from_secs(3), || a.state(&id), gone).await;
    eventually("forgotten at last", || a.state(&id), |s| s == "-").await;
    // A memory that is damaged is told, and costs nothing more.
    agent.process.kill();
    sandbox.write("discovered.json", "{\"discovered\":[1");
    sandbox.restart_agent(&mut agent);
    let told = || async { agent.process.log().contains("discovered.json") };
    eventually("told", told, |told| *told).await;
}

#[tokio::test]
async fn a_process_is_found_by_its_socket_and_watched_as_the_rules_say() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let secret = sandbox.write("password", "secret\n");
    let redis = sandbox.server(
        Flavour::Redis70,
        &["--requirepass", "secret", "--bind", "127.0.0.3"],
    );
    let (port, collectors) = (redis.port.number, [format!("'127.0.0.1:{}'", a.grpc.number)]);
    let text = |percent: u8| {
        format!(
            "reload_drop_max_percent = {percent}\n[probe]\ninterval = '100ms'\nhang_after = '1s'\n\
             [discovery]\nprocesses = true\ninterval = '1s'\n\
             [[access]]\naddresses = ['127.0.0.3:*']\npassword_file = '{}'\n",
            secret.display()
        )
    };
    let agent = sandbox.agent_with("db01", &collectors, &text(50)).await;
    let id = format!("db01:{port}");
    eventually(
        "UP with the password of the rule",
        || a.state(&id),
        |s| s == "UP/OK",
    )
    .await;
    assert_eq!(
        a.instance(&id).await.unwrap().address,
        format!("127.0.0.3:{port}")
    );
    // A hung one is not gone.
    redis.process.signal(nix::sys::signal::Signal::SIGSTOP);
    let hung = |s: &String| s == "DOWN/REPLY_TIMEOUT";
    eventually("hung", || a.state(&id), hung).await;
    holds_for(
        "found all the same",
        Duration::from_secs(3),
        || a.state(&id),
        hung,
    )
    .await;
    redis.process.signal(nix::sys::signal::Signal::SIGCONT);
    eventually("UP again", || a.state(&id), |s| s == "UP/OK").await;
    // Settings of a reload reach it at once, and its guard counts it.
    agent.write_config(&text(50).replace("processes = true", "processes = false"));
    agent.process.signal(nix::sys::signal::Signal::SIGHUP);
    let refused = || async { agent.metric("redkeeper_config_reloads_total{result=\"refused\"}") };
    eventually("refused", refused, |n| *n == Some(1.0)).await;
    assert_eq!(a.state(&id).await, "UP/OK");
}

/// In a network namespace of its own, as in a container whose network this host can reach.
#[test]
fn a_server_in_another_network_namespace_is_found_by_its_address_there() {
    let sandbox = Sandbox::new();
    // The outer namespace is the host of this test.
    let script = "ip link set lo up\n\
        unshare --net sh -c 'ip link set lo up; echo $$ >\"$DIR/pid\"; exec redis-server --port 6399 --bind 0.0.0.0 \
        --protected-mode no --save \"\" --dir \"$DIR\" >\"$DIR/log\" 2>&1' &\n\
        for n in $(seq 150); do grep -q 'Ready to accept' \"$DIR/log\" && break; sleep 0.2; done\n\
        inner=$(cat \"$DIR/pid\")\n\
        ip link add outside type veth peer name inside netns $inner || exit 77\n\
        ip addr add 192.0.2.1/24 dev outside; ip link set outside up\n\
        nsenter --net=/proc/$inner/ns/net sh -c 'ip addr add 192.0.2.2/24 dev inside; ip link set inside up'\n\
        \"$AGENT\" discover --explain\n";
    let Some(output) = netns::run(&sandbox, script, &[]) else {
        return;
    };
    let [table, said] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    eprintln!("it said: {said}");
    assert!(line(&table, "192.0.2.2:6399").contains(" yes "), "{table}");
}

/// `discover --explain` with this configuration.
fn explain(sandbox: &Sandbox, text: &str) -> String {
    let config = sandbox.write("explain.toml", &format!("id = 'db01'\n{text}"));
    let mut command = sandbox.command("redkeeper-agent");
    command
        .arg("--config")
        .arg(config)
        .args(["discover", "--explain"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn sentinels_and_forwarders_are_explained_and_the_ignored_is_left() {
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    let (watch, titled) = (ports::port(), ports::port());
    let sentinel = |port: u16, more: &str| {
        let text = format!("port {port}\n{more}sentinel monitor m 127.0.0.1 1 1\n");
        let config = sandbox.write(&format!("sentinel-{port}.conf"), &text);
        let mut command = Command::new("redis-server");
        command.arg(config).arg("--sentinel");
        Process::start(command, &sandbox.path(&format!("sentinel-{port}.log")))
    };
    let _one = sentinel(watch.number, "");
    // It can be told by what it says only.
    let _other = sentinel(titled.number, "set-proc-title no\n");
    let forwarder = sandbox.path("docker-proxy");
    copy_program(Path::new("/usr/bin/tail"), &forwarder);
    let mut command = Command::new(&forwarder);
    command.args(["-f", "--", "/dev/null", "-host-port", "6380", "-container-ip"]);
    command.args(["172.17.0.2", "-container-port", "6379"]);
    let _forwarder = Process::start(command, &sandbox.path("docker-proxy.log"));

    let text = format!(
        "[discovery]\nprocesses = true\nignore = ['127.0.0.1:{}']\n",
        redis.port.number
    );
    let told = format!("127.0.0.1:{}", titled.number);
    let look = || async { explain(&sandbox, &text) };
    let complete = |table: &String| {
        let explained = |address: &str| {
            let mut lines = table.lines().filter(|line| line.starts_with(address));
            lines.any(|line| line.ends_with("is a Sentinel, which holds no data"))
        };
        explained(&told) && explained("- ")
    };
    let table = eventually("both Sentinels", look, complete).await;
    let forwards = line(&table, "127.0.0.1:6380");
    assert!(
        forwards.contains("forwards to 172.17.0.2:6379 in a container"),
        "{table}"
    );
    let ignored = line(&table, &format!("127.0.0.1:{}", redis.port.number));
    assert!(
        ignored.contains(" no ") && ignored.contains("discovery.ignore says so"),
        "{table}"
    );
}

/// By its socket as configured, and by its process: one server is one instance, from the first look on.
#[tokio::test]
async fn a_server_that_is_configured_otherwise_is_watched_once() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let path = sandbox.path("redis.sock").display().to_string();
    let redis = sandbox.server(Flavour::Redis70, &["--unixsocket", &path]);
    let ready = || async { std::path::Path::new(&path).exists() && redis.ask("PING").is_ok() };
    eventually("it serves", ready, |ready| *ready).await;
    let text = format!(
        "[probe]\ninterval = '100ms'\n[discovery]\nprocesses = true\ninterval = '1s'\n\
         [[instances]]\nname = 'named'\naddress = '{path}'\n"
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    eventually("UP", || a.state("named"), |s| s == "UP/OK").await;
    let twin = format!("db01:{}", redis.port.number);
    holds_for("once", Duration::from_secs(3), || a.state(&twin), |s| s == "-").await;
    let table = explain(&sandbox, &text);
    let line = line(&table, &format!("127.0.0.1:{}", redis.port.number));
    assert!(line.contains(&format!("is configured as {path}")), "{table}");
    // Named by its address later, it is not there twice either.
    let later = text.replace(&path, &format!("127.0.0.1:{}", redis.port.number));
    agent.write_config(&later);
    agent.process.signal(nix::sys::signal::Signal::SIGHUP);
    let address = format!("127.0.0.1:{}", redis.port.number);
    let now = || async { a.instance("named").await.map(|i| i.address) };
    eventually("reached by the address", now, |now| {
        now.as_ref() == Some(&address)
    })
    .await;
    holds_for("once", Duration::from_secs(2), || a.state(&twin), |s| s == "-").await;
}

#[tokio::test]
async fn servers_with_the_same_port_have_ids_of_their_own_and_keep_them() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let first = sandbox.server(Flavour::Redis70, &["--bind", "127.0.0.2"]);
    let port = first.port.number;
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.3", "--save", ""]);
    command.current_dir(sandbox.path(""));
    let _second = Process::start(command, &sandbox.path("second.log"));
    let text = format!(
        "[probe]\ninterval = '100ms'\n[discovery]\nprocesses = true\ninterval = '1s'\nignore = ['*:26379']\n\
         state_file = '{}'\n",
        sandbox.path("discovered.json").display()
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let mut agent = sandbox.agent_with("db01", &collectors, &text).await;
    let both = || async {
        let ids = [
            format!("db01:{port}"),
            format!("db01:127.0.0.2:{port}"),
            format!("db01:127.0.0.3:{port}"),
        ];
        let mut found = Vec::new();
        for id in ids {
            found.extend(a.instance(&id).await.map(|i| (i.id, i.address)));
        }
        found
    };
    let before = eventually("both", both, |found| found.len() == 2).await;
    let addresses: std::collections::BTreeSet<_> =
        before.iter().map(|(_, address)| address.clone()).collect();
    assert_eq!(addresses.len(), 2, "{before:?}");
    for (id, _) in &before {
        eventually("UP", || a.state(id), |s| s == "UP/OK").await;
    }
    sandbox.restart_agent(&mut agent);
    let rounds = || async { agent.metric("redkeeper_probe_rounds_total") };
    eventually("rounds", rounds, |n| n.is_some_and(|n| n > 20.0)).await;
    assert_eq!(both().await, before, "the same after a restart");
}

/// Without rights it takes what titles tell, and says what it could not see.
#[tokio::test]
async fn an_unprivileged_look_finds_what_it_can_and_says_what_it_cannot() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        redkeeper_tests::skipped!("becoming another user needs root");
        return;
    }
    let sandbox = Sandbox::new();
    let redis = sandbox.redis().await;
    // A copy, because the folder of the build may be closed to others.
    let agent = sandbox.path("redkeeper-agent");
    copy_program(
        Path::new(sandbox.command("redkeeper-agent").get_program()),
        &agent,
    );
    let closed = sandbox.path("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    std::fs::set_permissions(sandbox.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let config = sandbox.write(
        "agent.toml",
        &format!(
            "id = 'db01'\n[discovery]\nconfig_files = ['{}/*.conf']\nprocesses = true\n",
            closed.display()
        ),
    );
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(&agent)
        .arg("--config")
        .arg(&config)
        .args(["discover", "--explain"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let found = line(&table, &format!("127.0.0.1:{}", redis.port.number));
    assert!(
        found.contains(" yes ") && found.contains("by its title"),
        "{table}{said}"
    );
    let folder = format!("folder {}", closed.display());
    let unseen = table.lines().find(|line| line.contains(&folder));
    assert!(
        unseen.is_some_and(|line| line.contains("cannot be read")),
        "{table}{said}"
    );
}
