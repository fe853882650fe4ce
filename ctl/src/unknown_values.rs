//! Finds filter values that match nothing: an empty list must not look like a fleet without faults.

use std::{collections::BTreeSet, time::Duration};

use redkeeper_proto::v1;

use crate::{args::Filter, client::Client};

/// Maximum number of known names that are listed.
const NAMES_MAX: usize = 10;

/// Returns a sentence for each value that matches nothing, or nothing if the collector does not report what exists.
pub(crate) async fn unknown_values(client: &mut Client, by: &Filter, limit: Duration) -> Vec<String> {
    if by.cluster.is_empty() && by.host.is_empty() {
        return Vec::new();
    }
    tokio::time::timeout(limit, ask(client, by))
        .await
        .ok()
        .and_then(Result::ok)
        .unwrap_or_default()
}

async fn ask(client: &mut Client, by: &Filter) -> Result<Vec<String>, tonic::Status> {
    let rows = client
        .summarize_instances(v1::SummarizeInstancesRequest { filter: None })
        .await?
        .into_inner()
        .rows;
    let clusters: BTreeSet<_> = rows.iter().map(|row| row.cluster.as_str()).collect();
    let mut notes: Vec<_> = missing(&by.cluster, &clusters)
        .map(|name| {
            format!(
                "no instance is in cluster {name:?}; {}",
                there_are("clusters", &clusters)
            )
        })
        .collect();
    let agents: BTreeSet<_> = rows.iter().map(|row| row.agent_id.as_str()).collect();
    let hosts: Vec<_> = missing(&by.host, &agents).collect();
    if !hosts.is_empty() {
        let request = v1::ListAgentsRequest {
            page_size: 1_000,
            ..Default::default()
        };
        let known = client.list_agents(request).await?.into_inner().agents;
        notes.extend(hosts.into_iter().map(|name| unknown_host(name, &agents, &known)));
    }
    Ok(notes)
}

fn missing<'a>(asked: &'a [String], known: &BTreeSet<&str>) -> impl Iterator<Item = &'a String> {
    asked.iter().filter(|name| !known.contains(name.as_str()))
}

/// Describes an unknown `--host`. The option takes names of agents; the host name differs if the agent has an id of its
/// own.
fn unknown_host(name: &str, agents: &BTreeSet<&str>, known: &[v1::Agent]) -> String {
    let on_it = known.iter().filter(|agent| agent.host == name);
    let on_it: BTreeSet<_> = on_it.map(|agent| agent.id.as_str()).collect();
    if on_it.is_empty() {
        format!(
            "no agent {name:?} reports an instance; {}",
            there_are("agents", agents)
        )
    } else {
        let those = on_it.into_iter().collect::<Vec<_>>().join(",");
        format!("{name:?} is a host and no agent; --host takes names of agents, here --host {those}")
    }
}

fn there_are(what: &str, names: &BTreeSet<&str>) -> String {
    let named: Vec<_> = names.iter().copied().filter(|name| !name.is_empty()).collect();
    match named.len() {
        0 => format!("there are no {what}"),
        n if n <= NAMES_MAX => format!("{what}: {}", named.join(", ")),
        n => format!(
            "{what}: {}, and {} more",
            named[..NAMES_MAX].join(", "),
            n - NAMES_MAX
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_has_are_told_with_those_that_there_are() {
        let clusters = BTreeSet::from(["", "blue", "red"]);
        let asked = ["red".to_owned(), "nope".to_owned()];
        assert_eq!(missing(&asked, &clusters).collect::<Vec<_>>(), ["nope"]);
        assert_eq!(there_are("clusters", &clusters), "clusters: blue, red");
        assert_eq!(
            there_are("clusters", &BTreeSet::from([""])),
            "there are no clusters"
        );
        let many: Vec<_> = (10..30).map(|n| n.to_string()).collect();
        let many = many.iter().map(String::as_str).collect();
        assert!(there_are("agents", &many).ends_with("18, 19, and 10 more"));
        let agent = v1::Agent {
            id: "db01".to_owned(),
            host: "vm".to_owned(),
            ..Default::default()
        };
        let agents = BTreeSet::from(["db01"]);
        assert!(unknown_host("vm", &agents, std::slice::from_ref(&agent)).ends_with("here --host db01"));
        assert_eq!(
            unknown_host("x", &agents, &[agent]),
            "no agent \"x\" reports an instance; agents: db01"
        );
    }
}
