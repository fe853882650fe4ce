//! What is answered at once: lists, counts, transitions, agents, one instance; and what is refused.

use std::collections::BTreeMap;

use redkeeper_proto::v1::{
    self, GetInstanceRequest, InstanceFilter, InstanceState, ListAgentsRequest, ListInstancesRequest,
    ListTransitionsRequest, Reason, SummarizeInstancesRequest, WatchInstancesRequest,
};
use redkeeper_tests::Sandbox;
use tonic::Code;

use crate::{Client, PATIENT, filter, filters, fleet, number, seen, soon};

async fn list(
    client: &mut Client,
    size: i32,
    token: &str,
    filter: &InstanceFilter,
) -> v1::ListInstancesResponse {
    let request = ListInstancesRequest {
        page_size: size,
        page_token: token.to_owned(),
        filter: Some(filter.clone()),
    };
    soon(client.list_instances(request)).await.unwrap()
}

#[tokio::test]
async fn every_list_is_filtered_in_order_and_in_pages() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector_with("a", PATIENT).await;
    let _agents = fleet(&a).await;
    let mut client = a.client().await;
    for (filter, wanted) in filters() {
        for size in [0, 1, 2, 6, 5_000] {
            let (mut numbers, mut token, mut pages) = (Vec::new(), String::new(), 0);
            loop {
                let page = list(&mut client, size, &token, &filter).await;
                assert_eq!(page.total_size as usize, wanted.len(), "{filter:?}");
                assert!(size == 0 || page.instances.len() <= size as usize);
                assert_eq!(page.header.unwrap().served_by, "a");
                numbers.extend(page.instances.iter().map(number));
                pages += 1;
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(numbers, wanted, "{filter:?} in pages of {size}");
            let full = wanted.len().div_ceil(if size == 0 { 200 } else { size as usize });
            assert_eq!(
                pages,
                full.max(1),
                "{filter:?} in pages of {size}: no empty page at the end"
            );
        }

        // The summary counts the same instances, each once, ordered by cluster and agent.
        let request = SummarizeInstancesRequest {
            filter: Some(filter.clone()),
        };
        let rows = soon(client.summarize_instances(request)).await.unwrap().rows;
        assert!(rows.is_sorted_by_key(|row| (&row.cluster, &row.agent_id)));
        let mut counts = BTreeMap::new();
        for instance in list(&mut client, 0, "", &filter).await.instances {
            let verdict = instance.verdict.unwrap();
            let key = (instance.cluster, instance.agent_id, verdict.state, verdict.reason);
            *counts.entry(key).or_insert(0) += 1;
        }
        let rows: Vec<_> = rows
            .into_iter()
            .map(|row| ((row.cluster, row.agent_id, row.state, row.reason), row.count))
            .collect();
        assert_eq!(rows.len(), counts.len(), "{filter:?}: {rows:?}");
        assert_eq!(rows.into_iter().collect::<BTreeMap<_, _>>(), counts, "{filter:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_and_says_which_field() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector_with("a", PATIENT).await;
    let mut client = a.client().await;
    for (wrong, field) in [
        (
            filter(&[InstanceState::Unspecified], &[], &[], &[]),
            "filter.states",
        ),
        (filter(&[], &[Reason::Unspecified], &[], &[]), "filter.reasons"),
        (filter(&[], &[], &["a/b"], &[]), "filter.clusters"),
    ] {
        let filter = Some(wrong);
        let list = ListInstancesRequest {
            filter: filter.clone(),
            ..Default::default()
        };
        let watch = WatchInstancesRequest {
            filter: filter.clone(),
            ..Default::default()
        };
        for refused in [
            soon(client.list_instances(list)).await.unwrap_err(),
            soon(client.watch_instances(watch)).await.unwrap_err(),
            soon(client.summarize_instances(SummarizeInstancesRequest { filter }))
                .await
                .unwrap_err(),
        ] {
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().starts_with(field), "{refused:?}");
        }
    }
    for (page_size, token, field) in [(-1, "", "page_size"), (1, "a/b", "page_token")] {
        let list = ListInstancesRequest {
            page_size,
            page_token: token.to_owned(),
            filter: None,
        };
        let agents = ListAgentsRequest {
            page_size,
            page_token: token.to_owned(),
        };
        let transitions = ListTransitionsRequest {
            page_size,
            page_token: token.to_owned(),
            instance_id: String::new(),
        };
        for refused in [
            soon(client.list_instances(list)).await.unwrap_err(),
            soon(client.list_agents(agents)).await.unwrap_err(),
            soon(client.list_transitions(transitions)).await.unwrap_err(),
        ] {
            assert_eq!(refused.code(), Code::InvalidArgument);
            assert!(refused.message().starts_with(field), "{refused:?}");
        }
    }
    for id in ["", "nobody:1", "a/b"] {
        let request = GetInstanceRequest { id: id.to_owned() };
        let refused = soon(client.get_instance(request)).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    }
    for (token, code) in [
        ("nonsense", Code::InvalidArgument),
        ("another-7", Code::OutOfRange),
        ("another-x", Code::OutOfRange),
    ] {
        let request = WatchInstancesRequest {
            filter: None,
            resume_token: token.to_owned(),
        };
        let refused = soon(client.watch_instances(request)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{token}: {refused:?}");
    }
}

#[tokio::test]
async fn transitions_agents_and_counts_are_what_happened() {
    let sandbox = Sandbox::new();
    let a = sandbox.collector_with("a", PATIENT).await;
    let (mut h1, _h2) = fleet(&a).await;
    let mut client = a.client().await;
    for (number, reason) in [(1, Reason::ConnectionRefused), (2, Reason::Ok), (1, Reason::Ok)] {
        h1.change(number, "red", reason);
        seen(&a, number, Some(reason)).await;
    }

    // The newest first; each names the instance and what it was before.
    for (id, wanted) in [
        ("", (1..=9).rev().collect::<Vec<u64>>()),
        ("h1:2", vec![8, 2]),
        ("h1:1", vec![9, 7, 1]),
        ("h1:9", vec![]),
    ] {
        for size in [0, 1, 2, 9] {
            let (mut revisions, mut token) = (Vec::new(), String::new());
            loop {
                let request = ListTransitionsRequest {
                    page_size: size,
                    page_token: token,
                    instance_id: id.to_owned(),
                };
                let page = soon(client.list_transitions(request)).await.unwrap();
                for change in &page.transitions {
                    let instance = &change.instance.as_ref().unwrap().id;
                    assert!(id.is_empty() || instance == id);
                    let previous = match change.revision {
                        7 => Reason::Ok,
                        8 | 9 => Reason::ConnectionRefused,
                        _ => Reason::Unspecified,
                    };
                    assert_eq!(change.previous_reason(), previous, "{change:?}");
                    revisions.push(change.revision);
                }
                token = page.next_page_token;
                if token.is_empty() {
                    break;
                }
            }
            assert_eq!(revisions, wanted, "{id:?} in pages of {size}");
        }
    }

    for size in [0, 1, 2] {
        let (mut agents, mut token) = (Vec::new(), String::new());
        loop {
            let request = ListAgentsRequest {
                page_size: size,
                page_token: token,
            };
            let page = soon(client.list_agents(request)).await.unwrap();
            agents.extend(
                page.agents
                    .iter()
                    .map(|agent| (agent.id.clone(), agent.instances)),
            );
            token = page.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(agents, [("h1".to_owned(), 4), ("h2".to_owned(), 2)]);
    }

    let request = v1::GetClusterStatusRequest {};
    let status = soon(client.get_cluster_status(request)).await.unwrap();
    let counts = (status.up, status.degraded, status.down, status.unknown);
    assert_eq!(counts, (4, 1, 0, 1), "{status:?}");
    assert_eq!((status.agents_heard, status.agents_silent), (2, 0));
    let request = GetInstanceRequest {
        id: "h2:6".to_owned(),
    };
    let found = soon(client.get_instance(request)).await.unwrap();
    let instance = found.instance.unwrap();
    assert_eq!(
        (instance.cluster.as_str(), instance.agent_id.as_str()),
        ("blue", "h2")
    );
    assert_eq!(instance.verdict.unwrap().reason(), Reason::AuthFailed);
}
