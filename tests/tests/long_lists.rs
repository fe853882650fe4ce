//! A list costs what it holds: its pages are printed as they come, and the limit of time is for each of them.
#![allow(clippy::unwrap_used)]

use std::{process::Stdio, time::Instant};

use redkeeper_core::limits::{AGENT_INSTANCES_MAX, REPORTS_PER_MESSAGE_MAX};
use redkeeper_proto::v1::{
    Changes, ListInstancesRequest, Reason, Snapshot, agent_service_client::AgentServiceClient,
    report_status_request::Message,
};
use redkeeper_tests::{
    Sandbox, eventually,
    fake_agent::{hello, message, report},
    long, wait,
};
use tokio_stream::StreamExt;

#[tokio::test]
async fn a_long_list_is_printed_page_by_page() {
    let agents = if long() { 40 } else { 8 };
    let instances = agents * AGENT_INSTANCES_MAX;
    let sandbox = Sandbox::new();
    let a = sandbox
        .collector_with("a", "standalone = true\nsilent_after = '10m'\n")
        .await;
    let mut streams = Vec::new();
    for agent in 0..agents {
        let name = format!("h{agent:03}");
        let numbers: Vec<_> = (1..=u32::try_from(AGENT_INSTANCES_MAX).unwrap()).collect();
        let parts = numbers.chunks(REPORTS_PER_MESSAGE_MAX).enumerate();
        let last = numbers.len().div_ceil(REPORTS_PER_MESSAGE_MAX) - 1;
        let mut messages = vec![message(1, hello(&name, 1))];
        messages.extend(parts.map(|(n, part)| {
            let instances = part
                .iter()
                .map(|number| report(&name, *number, Reason::Ok))
                .collect();
            let content = Message::Snapshot(Snapshot {
                instances,
                last: n == last,
            });
            message(n as u64 + 2, content)
        }));
        // One of each agent is down.
        let down = vec![report(&name, 7, Reason::ConnectionRefused)];
        let down = Message::Changes(Changes { instances: down });
        messages.push(message(messages.len() as u64 + 1, down));
        let stream = tokio_stream::iter(messages).chain(tokio_stream::pending());
        let mut client = AgentServiceClient::new(a.channel().await.unwrap());
        let answers = client.report_status(stream).await.unwrap().into_inner();
        streams.push(answers);
    }
    let client = a.client().await;
    let known = || async {
        let request = ListInstancesRequest {
            page_size: 1,
            filter: Some(redkeeper_proto::v1::InstanceFilter {
                states: vec![3],
                ..Default::default()
            }),
            ..Default::default()
        };
        client
            .clone()
            .list_instances(request)
            .await
            .unwrap()
            .into_inner()
            .total_size as usize
    };
    eventually("all reported", known, |n| *n == agents).await;

    for (words, lines) in [
        (&["list"][..], instances + 2),
        (&["list", "--state", "down"], agents + 2),
    ] {
        let mut command = sandbox.command("redkeeper");
        command
            .args([
                "--endpoints",
                &format!("127.0.0.1:{}", a.grpc.number),
                "--timeout",
                "2s",
            ])
            .args(words)
            .stdout(Stdio::piped());
        let start = Instant::now();
        let running = tokio::task::spawn_blocking(move || command.output().unwrap());
        let output = tokio::time::timeout(3 * wait::LIMIT, running)
            .await
            .expect("in time")
            .unwrap();
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), output.stderr);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&err));
        eprintln!("{words:?} of {instances}: {:?}", start.elapsed());
        assert_eq!(out.lines().count(), lines);
        let last = out.lines().last().unwrap();
        let all = lines - 2;
        assert!(
            last.starts_with(&format!("{all} of {all} instance(s), from a")),
            "{last}"
        );
        // In the order of the ids, each once.
        let ids: Vec<_> = out
            .lines()
            .filter_map(|line| line.split_whitespace().nth(2))
            .collect();
        assert!(ids[1..=all].windows(2).all(|pair| pair[0] < pair[1]));
    }
}
