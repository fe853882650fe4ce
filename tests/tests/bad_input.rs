//! What strangers, broken agents and wrong files do: refused clearly, counted, others unaffected.
#![allow(clippy::unwrap_used)]

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    time::Duration,
};

use redkeeper_proto::v1::{
    Changes, Heartbeat, InstanceReport, ReportStatusRequest, agent_service_client::AgentServiceClient,
    report_status_request::Message,
};
use redkeeper_tests::{
    Sandbox,
    daemons::{self, Collector, Usage},
    eventually,
    fake_agent::{hello, message},
    ports,
};
use tonic::{Code, Status};

#[tokio::test]
async fn a_thousand_streams_leave_nothing_behind_in_the_collector() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector("a", None).await;
    let count = || async {
        daemons::http_get(a.admin.number, "/debug/tasks/count")
            .unwrap()
            .trim()
            .parse::<usize>()
            .unwrap()
    };
    let round = |n: u64| {
        let channel = a.channel();
        async move {
            let mut client = AgentServiceClient::new(channel.await.unwrap());
            let messages = [
                message(2 * n + 1, hello("db01", 1)),
                message(2 * n + 2, Message::Heartbeat(Heartbeat::default())),
            ];
            let mut answers = client
                .report_status(tokio_stream::iter(messages))
                .await
                .unwrap()
                .into_inner();
            while answers.message().await.unwrap().is_some() {}
        }
    };
    for n in 0..100 {
        round(n).await;
    }
    let (tasks, usage) = (count().await, Usage::of(&a.process));
    for n in 100..1_100 {
        round(n).await;
    }
    eventually("tasks back", count, |n| *n <= tasks).await;
    usage.check(&a.process, 2 * 1024 * 1024, "1,000 streams").await;
}

/// Sends messages on one stream and returns how it ended.
async fn send(collector: &Collector, messages: Vec<ReportStatusRequest>) -> Status {
    let mut client = AgentServiceClient::new(collector.channel().await.unwrap());
    let stream = tokio_stream::StreamExt::chain(tokio_stream::iter(messages), tokio_stream::pending());
    let mut answers = match client.report_status(stream).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    loop {
        match tokio::time::timeout(Duration::from_secs(20), answers.message())
            .await
            .expect("the stream ends")
        {
            Ok(Some(_)) => {}
            Ok(None) => return Status::ok(""),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn garbage_and_broken_agents_are_refused_and_counted() {
    let sandbox = Sandbox::new();
    let (_redis, a, _agent, id) = sandbox.reported_redis(None).await;
    let revision = a.instance(&id).await.unwrap().revision;

    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x00\xff\x00\xff",
        b"*1\r\n$4\r\nPING\r\n",
        &[0x41; 100_000],
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", a.grpc.number)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The server may hang up in the middle of it.
        stream.write_all(garbage).ok();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok();
        assert!(answer.len() < 1_000);
    }

    let ended = send(&a, vec![message(1, Message::Heartbeat(Heartbeat::default()))]).await;
    assert_eq!(
        (ended.code(), ended.message()),
        (
            Code::InvalidArgument,
            "bad Hello: the first message must be a Hello"
        )
    );
    let ended = send(&a, vec![message(1, hello("no/slash", 1))]).await;
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(
        ended.message().contains("hello.agent_id: contains '/'"),
        "{}",
        ended.message()
    );

    let bad = InstanceReport {
        id: "x".to_owned(),
        ..Default::default()
    };
    let changes = Message::Changes(Changes { instances: vec![bad] });
    let ended = send(&a, vec![message(1, hello("db02", 1)), message(2, changes)]).await;
    assert_eq!(
        ended.message(),
        "bad message: changes.instances[0].verdict: is missing"
    );

    let large = InstanceReport {
        id: "x".repeat(300_000),
        ..Default::default()
    };
    let changes = Message::Changes(Changes {
        instances: vec![large],
    });
    let ended = send(&a, vec![message(1, hello("db02", 1)), message(2, changes)]).await;
    assert_eq!(ended.code(), Code::InvalidArgument, "{ended:?}");

    let beat = || Message::Heartbeat(Heartbeat::default());
    let ended = send(
        &a,
        vec![
            message(5, hello("db02", 1)),
            message(6, beat()),
            message(6, beat()),
        ],
    )
    .await;
    assert_eq!(
        ended.message(),
        "bad message: sequence 6 after 6 on the same stream"
    );

    // Numbers that no agent reaches.
    let ended = send(&a, vec![message(u64::MAX, hello("db03", 1)), message(1, beat())]).await;
    assert!(
        ended
            .message()
            .starts_with("bad Hello: sequence 18446744073709551615"),
        "{ended:?}"
    );
    let ended = send(&a, vec![message(1, hello("db03", 1)), message(u64::MAX, beat())]).await;
    assert!(
        ended
            .message()
            .starts_with("bad message: sequence 18446744073709551615"),
        "{ended:?}"
    );

    // A newer boot retires the older one for good.
    let ended = send(&a, vec![message(1, hello("db02", 2)), message(1, beat())]).await;
    assert_eq!(ended.code(), Code::InvalidArgument);
    let ended = send(&a, vec![message(7, hello("db02", 1)), message(8, beat())]).await;
    assert_eq!(ended.code(), Code::FailedPrecondition, "{ended:?}");
    assert!(ended.message().contains("two agents must not share an id"));

    assert!(
        a.metric("redkeeper_agent_reports_total{result=\"bad_hello\"}")
            .unwrap()
            >= 2.0
    );
    assert!(
        a.metric("redkeeper_agent_reports_total{result=\"bad_message\"}")
            .unwrap()
            >= 3.0
    );
    let now = a.instance(&id).await.unwrap();
    assert_eq!(
        (a.state(&id).await.as_str(), now.revision),
        ("UP/OK", revision),
        "others are unaffected"
    );
}

/// Starts a daemon with this configuration, checks that it ends with this exit code, and returns what it says.
fn refused(sandbox: &Sandbox, binary: &str, config: &Path, code: i32) -> String {
    let mut command = sandbox.command(binary);
    let output = command.arg("--config").arg(config).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{err}");
    err
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_whole() {
    let sandbox = Sandbox::new();
    let text = "id = 'db01'\nbogus = 1\n[probe]\ninterval = 7\n[[instances]]\naddress = 'nowhere'\npassword_file = '/no/such'\n";
    let config = sandbox.write("agent.toml", text);
    let err = refused(&sandbox, "redkeeper-agent", &config, 78);
    let at = config.display();
    assert!(err.contains(&format!("{at}:2:1: bogus: unknown key")), "{err}");
    assert!(err.contains(&format!("{at}:4:1: probe.interval: ")), "{err}");

    let text = "id = 'db01'\n[[instances]]\naddress = 'nowhere'\n[[instances]]\naddress = '127.0.0.1:1'\npassword_file = '/no/such'\n";
    std::fs::write(&config, text).unwrap();
    let err = refused(&sandbox, "redkeeper-agent", &config, 78);
    assert!(
        err.contains(":3:1: instances.0.address: \"nowhere\" has no port; write it as HOST:PORT"),
        "{err}"
    );
    assert!(
        !err.contains("password_file"),
        "a missing file is no mistake of form: {err}"
    );

    let config = sandbox.write("collector.toml", "id = 'a'\n[zookeper]\nservers = 'x'\n");
    let err = refused(&sandbox, "redkeeper-collector", &config, 78);
    assert!(
        err.contains(":2:2: zookeper: unknown key; did you mean `zookeeper`?"),
        "{err}"
    );
}

#[tokio::test]
async fn the_example_files_are_valid() {
    let sandbox = Sandbox::new();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/config");
    for (binary, file) in [("redkeeper-agent", "agent"), ("redkeeper-collector", "collector")] {
        let file = folder.join(format!("{file}.example.toml"));
        let output = sandbox
            .command(binary)
            .arg("--check-config")
            .arg("--config")
            .arg(file)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("configuration ok"));
    }
}

#[tokio::test]
async fn a_taken_port_is_a_clear_error_and_nothing_runs() {
    let sandbox = Sandbox::new();
    let taken = ports::port();
    let _listener = std::net::TcpListener::bind(("127.0.0.1", taken.number)).unwrap();
    let text = format!("id = 'db01'\nadmin_listen = '127.0.0.1:{}'\n", taken.number);
    let config = sandbox.write("agent.toml", &text);
    let err = refused(&sandbox, "redkeeper-agent", &config, 1);
    assert!(
        err.contains("cannot listen on") && err.contains("admin_listen"),
        "{err}"
    );
}
