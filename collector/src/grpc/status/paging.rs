//! Pages of the instances. A page begins where the one before ended, found by a search and not by counting, so that its
//! cost is what it holds plus what the filter skips on the way.

use std::ops::Bound;

use redkeeper_core::ids::InstanceId;

use super::filter::Filter;
use crate::{
    fleet::view::{Entry, View},
    grpc::errors::Failure,
};

/// Instances examined in one go, which takes about a millisecond; then other tasks get their turn.
pub(super) const LOOKED_AT_ONCE: usize = 4_096;

/// A page of instances, in the order of their ids.
pub(super) struct Page<'a> {
    /// The instances.
    pub found: Vec<&'a Entry>,
    /// Where the next page begins; empty if this is the last.
    pub next: String,
    /// Matching instances over all pages.
    pub total: usize,
    /// Instances examined for this page, which is its cost.
    pub looked_at: usize,
}

/// The page after `token`, which is the last id of the page before: pages stay correct while instances come and go.
///
/// # Errors
/// When the token was not issued here.
pub(super) async fn page<'a>(
    view: &'a View,
    filter: &Filter,
    token: &str,
    size: usize,
) -> Result<Page<'a>, Failure> {
    let start = match token {
        "" => Bound::Unbounded,
        token => Bound::Excluded(InstanceId::new(token).map_err(|_| {
            Failure::InvalidArgument(format!("page_token: {token:?} is not a token of this collector"))
        })?),
    };
    let mut page = Page {
        found: Vec::with_capacity(size.min(view.instances.len())),
        next: String::new(),
        total: filter.count(&view.counts),
        looked_at: 0,
    };
    if page.total == 0 {
        return Ok(page);
    }
    for (_, entry) in view.instances.range((start, Bound::Unbounded)) {
        page.looked_at += 1;
        if page.looked_at.is_multiple_of(LOOKED_AT_ONCE) {
            tokio::task::yield_now().await;
        }
        if !filter.matches(&entry.status) {
            continue;
        }
        if page.found.len() == size {
            let last = page.found.last();
            page.next = last.map_or(String::new(), |entry| entry.status.identity.id.to_string());
            break;
        }
        page.found.push(entry);
        if page.found.len() == page.total {
            break;
        }
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use redkeeper_core::{
        fleet::message_order::Origin,
        ids::{AgentId, ClusterName},
        status::{Identity, Reason, Stage, Status, Verdict},
        time::WallMs,
    };
    use redkeeper_proto::v1;

    use super::*;

    /// Every hundredth instance is in cluster `red` and down.
    fn fleet(instances: usize) -> View {
        let mut view = View::default();
        for n in 0..instances {
            let rare = n % 100 == 99;
            let reason = if rare {
                Reason::ConnectionRefused
            } else {
                Reason::Ok
            };
            let status = Arc::new(Status {
                identity: Identity {
                    id: InstanceId::new(&format!("i{n:06}")).unwrap(),
                    cluster: Some(ClusterName::new(if rare { "red" } else { "blue" }).unwrap()),
                    address: "x:1".into(),
                    labels: Arc::default(),
                },
                agent: AgentId::new(&format!("h{}", n % 7)).unwrap(),
                verdict: Verdict::blank(reason, Stage::Reply, "", WallMs(0)),
            });
            view.put(&status, Origin::default());
        }
        view
    }

    fn filter(states: &[v1::InstanceState], clusters: &[&str], agents: &[&str]) -> Filter {
        Filter::new(Some(v1::InstanceFilter {
            states: states.iter().map(|state| i32::from(*state)).collect(),
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            agent_ids: agents.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        }))
        .unwrap()
    }

    /// All pages: ids, and the number of instances examined for each page.
    async fn all(view: &View, filter: &Filter, size: usize) -> (Vec<String>, Vec<usize>) {
        let (mut ids, mut costs, mut token) = (Vec::new(), Vec::new(), String::new());
        loop {
            let page = page(view, filter, &token, size).await.unwrap();
            let matching = view
                .instances
                .values()
                .filter(|entry| filter.matches(&entry.status));
            assert_eq!(page.total, matching.count());
            ids.extend(
                page.found
                    .iter()
                    .map(|entry| entry.status.identity.id.to_string()),
            );
            costs.push(page.looked_at);
            if page.next.is_empty() {
                return (ids, costs);
            }
            token = page.next;
        }
    }

    #[tokio::test]
    async fn a_page_costs_what_it_holds_wherever_it_begins() {
        let view = fleet(3_000);
        let (ids, costs) = all(&view, &filter(&[], &[], &[]), 100).await;
        assert_eq!(ids.len(), 3_000);
        assert!(ids.is_sorted());
        assert_eq!(costs.len(), 30);
        assert!(costs.iter().all(|looked_at| *looked_at <= 101), "{costs:?}");
    }

    #[tokio::test]
    async fn filters_cost_one_pass_over_all_pages() {
        let view = fleet(3_000);
        let (down, red, blue) = ([v1::InstanceState::Down], ["red"], ["blue"]);
        for (filter, wanted) in [
            (filter(&down, &[], &[]), 30),
            (filter(&[], &red, &[]), 30),
            (filter(&[], &["red", "red", "", "nobody"], &[]), 30),
            (filter(&down, &blue, &[]), 0),
            (filter(&[], &["red", "blue"], &[]), 3_000),
            (filter(&[], &[], &["h0", "h1"]), 858),
            (filter(&down, &red, &["h1"]), 5),
        ] {
            let (ids, costs) = all(&view, &filter, 7).await;
            assert_eq!(ids.len(), wanted);
            assert!(ids.is_sorted());
            // Each page also examines the first instance of the next one.
            assert!(
                costs.iter().sum::<usize>() <= 3_000 + costs.len() * 100,
                "{costs:?}"
            );
        }
        let none = page(&view, &filter(&down, &blue, &[]), "", 7).await.unwrap();
        assert_eq!(none.looked_at, 0, "the counts say that there is none");
    }

    #[tokio::test]
    async fn a_token_of_somebody_else_is_refused() {
        let view = fleet(1);
        let refused = page(&view, &filter(&[], &[], &[]), "a/b", 7).await;
        assert!(matches!(refused, Err(Failure::InvalidArgument(_))));
    }
}
