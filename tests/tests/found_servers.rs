//! What discovery does with servers that it finds but cannot trust, or that do not answer.
#![allow(clippy::unwrap_used)]

use std::{path::Path, process::Command, time::Duration};

use nix::sys::signal::Signal;
use redkeeper_tests::{
    Sandbox,
    daemons::{Agent, Collector},
    eventually, holds_for,
    ports::{Port, port},
    process::{Process, copy_program},
    skipped,
};

/// A Redis under a process name of its own, so that no other server of this machine is found.
fn server(sandbox: &Sandbox, name: &str, user: Option<&str>, args: &[&str]) -> (Process, Port) {
    let port = port();
    let found = std::env::var_os("PATH").unwrap();
    let binary = std::env::split_paths(&found)
        .map(|folder| folder.join("redis-server"))
        .find(|path| path.exists())
        .unwrap();
    // In a folder that every user may enter.
    let own = Path::new("/tmp").join(name);
    copy_program(&binary, &own);
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--clear-groups"]).arg(&own);
            command
        }
        None => Command::new(&own),
    };
    command.args([
        "--port",
        &port.number.to_string(),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
    ]);
    command.args(["--dir", "/tmp"]).args(args);
    let process = Process::start(command, &sandbox.path(&format!("{name}.log")));
    (process, port)
}

/// The binary of [`server`], removed with this.
struct Binary(String);

impl Drop for Binary {
    fn drop(&mut self) {
        std::fs::remove_file(Path::new("/tmp").join(&self.0)).ok();
    }
}

fn name(kind: &str) -> Binary {
    Binary(format!("rk{}{kind}", std::process::id() % 100_000))
}

async fn agent(sandbox: &Sandbox, name: &str, more: &str) -> (Collector, Agent) {
    let a = sandbox.collector("a", None).await;
    let text = format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n\
         [discovery]\nprocesses = true\ninterval = '1s'\nnames = ['{name}']\n{more}"
    );
    let collectors = [format!("'127.0.0.1:{}'", a.grpc.number)];
    let agent = sandbox.agent_with("db01", &collectors, &text).await;
    (a, agent)
}

#[tokio::test]
async fn a_hung_server_is_an_instance_from_the_first_look_and_after_a_restart() {
    let sandbox = Sandbox::new();
    let binary = name("h");
    let (redis, port) = server(&sandbox, &binary.0, None, &[]);
    let started = || async { redis.log().contains("Ready to accept connections") };
    eventually("the server runs", started, |is| *is).await;
    redis.signal(Signal::SIGSTOP);
    let (a, mut agent) = agent(&sandbox, &binary.0, "").await;
    let id = format!("db01:{}", port.number);
    let hung = |s: &String| s == "DOWN/REPLY_TIMEOUT";
    eventually("found, and hung", || a.state(&id), hung).await;
    // An agent without a state file knows nothing of it, and finds it again before it reports.
    sandbox.restart_agent(&mut agent);
    let known = |s: &String| s == "DOWN/REPLY_TIMEOUT" || s.starts_with("UNKNOWN/");
    holds_for("never gone", Duration::from_secs(3), || a.state(&id), known).await;
    eventually("hung again", || a.state(&id), hung).await;
    redis.signal(Signal::SIGCONT);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
}

#[tokio::test]
async fn a_password_is_sent_to_servers_of_trusted_users_only() {
    let sandbox = Sandbox::new();
    let (own, foreign) = (name("o"), name("f"));
    let args = ["--requirepass", "secret"];
    let (_trusted, trusted_port) = server(&sandbox, &own.0, None, &args);
    let (stranger, port) = server(&sandbox, &foreign.0, Some("65534"), &args);
    let started = || async { stranger.log() };
    let log = eventually("it runs, or cannot", started, |log| !log.is_empty()).await;
    if log.contains("setpriv: ") {
        skipped!("no other user can be taken here; it needs root");
        return;
    }
    let secret = sandbox.write("password", "secret\n");
    let access = format!(
        "[[access]]\naddresses = ['127.0.0.1:*']\npassword_file = '{}'\n",
        secret.display()
    );
    let pattern = format!("rk{}[of]", std::process::id() % 100_000);
    let (a, agent) = agent(&sandbox, &pattern, &access).await;
    let trusted = format!("db01:{}", trusted_port.number);
    eventually("the trusted one is UP", || a.state(&trusted), |s| s == "UP/OK").await;
    let id = format!("db01:{}", port.number);
    eventually(
        "the other one is not asked",
        || a.state(&id),
        |s| s == "UNKNOWN/AGENT_FAULT",
    )
    .await;
    let evidence = a.instance(&id).await.unwrap().verdict.unwrap().evidence;
    assert!(
        evidence.contains("password is not sent") && evidence.contains("nobody"),
        "{evidence}"
    );
    // The server itself counts who authenticated: nobody but this test.
    let redis = redkeeper_tests::servers::Redis {
        process: stranger,
        port,
    };
    let stats = redis.ask("AUTH secret\r\nINFO commandstats").unwrap();
    assert!(stats.contains("cmdstat_auth:calls=1,"), "{stats}");
    // Its user is named, and it gets the password.
    let users = "password_users = ['root', 'nobody']\n";
    agent.write_config(&format!(
        "[probe]\ninterval = '100ms'\nhang_after = '1s'\n\
         [discovery]\nprocesses = true\ninterval = '1s'\nnames = ['{pattern}']\n{users}{access}"
    ));
    agent.process.signal(Signal::SIGHUP);
    eventually("UP", || a.state(&id), |s| s == "UP/OK").await;
}
