//! Tests of the answers to tools: the service is called directly, with a view that the test makes, in virtual time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use redkeeper_core::{
    election::lease::Lease,
    fleet::{AgentInfo, Rival, message_order::Origin},
    ids::{BootId, Revision},
    status::{Identity, Reason, Role, Stage, Status as Known, Verdict},
};
use redkeeper_runtime::{clock::Clock, supervise::Supervisor};
use tokio::{
    sync::watch as channel,
    time::{advance, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_types::StatusExt;

use super::*;
use crate::{
    fleet::{
        change_log::ChangeLog,
        view::{self, AgentEntry, LiveCounters, View, ViewPublisher},
    },
    leader::leadership::Leadership,
    metrics::Metrics,
    peers::{Peer, Peers},
    store::records::CollectorJson,
};

mod cluster;
mod filters;
mod watching;

const LIMIT: Duration = Duration::from_secs(60);

/// The service, and what it reads.
struct Rig {
    queries: Queries,
    view: View,
    publisher: ViewPublisher,
    leadership: channel::Sender<Leadership>,
    peers: channel::Sender<Peers>,
}

impl Rig {
    fn new() -> Self {
        let (publisher, view) = view::channel();
        let (leadership, leadership_reader) = channel::channel(Leadership::default());
        let (peers, peers_reader) = channel::channel(Peers::default());
        let queries = Queries {
            id: "a".to_owned(),
            boot: "boot".to_owned(),
            view,
            leadership: leadership_reader,
            peers: peers_reader,
            standalone: false,
            clock: Clock::simulated(),
            supervisor: Supervisor::new(CancellationToken::new()),
            metrics: Metrics::default(),
        };
        Self {
            queries,
            view: View::default(),
            publisher,
            leadership,
            peers,
        }
    }

    /// With instances `i0`, `i1` and so on, all of them up.
    fn with_instances(count: usize) -> Self {
        let mut rig = Self::new();
        for n in 0..count {
            rig.put(&known(&format!("i{n:04}"), "", "db", Reason::Ok));
        }
        rig
    }

    /// Applies a status as the aggregator does.
    fn put(&mut self, status: &Arc<Known>) {
        let put = self.view.put(status, Origin::default());
        self.log(status, put.former().cloned(), false);
    }

    fn remove(&mut self, id: &str) {
        let former = self.view.remove(&InstanceId::new(id).unwrap()).unwrap().status;
        self.view.revision.0 += 1;
        self.log(&former, Some(Arc::clone(&former)), true);
    }

    fn log(&mut self, status: &Arc<Known>, previous: Option<Arc<Known>>, removed: bool) {
        self.view.log.push(Change {
            revision: self.view.revision,
            status: Arc::clone(status),
            origin: Origin::default(),
            previous,
            removed,
            time: self.queries.clock.wall(),
        });
        self.publish();
    }

    fn publish(&self) {
        self.publisher.replace(self.view.clone());
    }

    /// Adds an agent with these instances, which were probed now.
    fn put_agent(&mut self, name: &str, ids: &[&str], silent: bool) {
        let live = LiveCounters::new(ids.len());
        let now = self.queries.clock.now();
        live.set(42, (now, now), ids.iter().map(|_| now));
        let entry = AgentEntry {
            name: AgentId::new(name).unwrap(),
            greeting: Some(greeting(name)),
            silent,
            clock_ahead_ms: 0,
            complete: true,
            connected: WallMs(0),
            rival: None,
            ids: ids.iter().map(|id| InstanceId::new(id).unwrap()).collect(),
            reporting: Box::default(),
            live: Arc::new(live),
        };
        self.view.agents.insert(entry.name.clone(), Arc::new(entry));
        self.publish();
    }

    async fn get(&self, id: &str) -> Result<v1::GetInstanceResponse, Status> {
        let request = v1::GetInstanceRequest { id: id.to_owned() };
        let answer = self.queries.get_instance(Request::new(request)).await;
        answer.map(Response::into_inner)
    }

    async fn list(&self, page_size: i32, page_token: &str) -> Result<v1::ListInstancesResponse, Status> {
        let request = v1::ListInstancesRequest {
            page_size,
            page_token: page_token.to_owned(),
            filter: None,
        };
        let answer = self.queries.list_instances(Request::new(request)).await;
        answer.map(Response::into_inner)
    }

    async fn transitions(
        &self,
        page_size: i32,
        page_token: &str,
        instance_id: &str,
    ) -> Result<v1::ListTransitionsResponse, Status> {
        let request = v1::ListTransitionsRequest {
            page_size,
            page_token: page_token.to_owned(),
            instance_id: instance_id.to_owned(),
        };
        let answer = self.queries.list_transitions(Request::new(request)).await;
        answer.map(Response::into_inner)
    }
}

fn greeting(agent: &str) -> AgentInfo {
    AgentInfo {
        agent: AgentId::new(agent).unwrap(),
        boot: BootId::new(&"7".repeat(32)).unwrap(),
        version: "1.2.3".to_owned(),
        host: format!("{agent}.example"),
        via: String::new(),
        address: "10.0.0.1".to_owned(),
        clock: WallMs(0),
    }
}

/// A status; an empty cluster is none.
fn known(id: &str, cluster: &str, agent: &str, reason: Reason) -> Arc<Known> {
    let identity = Identity {
        id: InstanceId::new(id).unwrap(),
        cluster: ClusterName::new(cluster).ok(),
        address: "127.0.0.1:6379".into(),
        labels: Arc::default(),
    };
    Arc::new(Known {
        identity,
        agent: AgentId::new(agent).unwrap(),
        verdict: Verdict::blank(reason, Stage::Reply, "", WallMs(2_000)),
    })
}

/// Code and machine-readable reason of an error.
fn told<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.unwrap_err();
    let info = status.get_details_error_info();
    (status.code(), info.map_or_else(String::new, |info| info.reason))
}

fn invalid() -> (Code, String) {
    (Code::InvalidArgument, "INVALID_ARGUMENT".to_owned())
}

#[tokio::test(start_paused = true)]
async fn an_answer_names_its_collector_and_the_leader_only_while_its_lease_holds() {
    let mut rig = Rig::with_instances(1);
    let header = rig.get("i0000").await.unwrap().header.unwrap();
    assert_eq!((header.served_by.as_str(), header.leader.as_str()), ("a", ""));
    assert_eq!(
        (header.revision, header.data_age),
        (1, None),
        "no agent was heard"
    );
    let mut lease = Lease::new(Duration::from_secs(9));
    lease.renewed(rig.queries.clock.now());
    rig.leadership.send_modify(|d| {
        (d.lease, d.epoch) = (Some(lease), 5);
        "a".clone_into(&mut d.leader_hint);
    });
    rig.view.heard = Arc::new(rig.queries.clock.now().0.into());
    rig.publish();
    let mut leaders = Vec::new();
    for _ in 0..2 {
        advance(Duration::from_secs(4)).await;
        let header = rig.get("i0000").await.unwrap().header.unwrap();
        leaders.push((header.leader, header.epoch, header.data_age.unwrap().seconds));
    }
    assert_eq!(leaders, [("a".to_owned(), 5, 4), (String::new(), 5, 8)]);
}

#[tokio::test(start_paused = true)]
async fn an_instance_is_answered_with_its_ages() {
    let mut rig = Rig::new();
    advance(Duration::from_secs(5)).await;
    rig.put(&known("i1", "blue", "db", Reason::Loading));
    rig.put_agent("db", &["i1"], false);
    advance(Duration::from_secs(4)).await;
    let found = rig.get("i1").await.unwrap().instance.unwrap();
    assert_eq!((found.id.as_str(), found.cluster.as_str()), ("i1", "blue"));
    assert_eq!((found.agent_id.as_str(), found.revision), ("db", 1));
    assert_eq!(found.verdict.unwrap().reason, v1::Reason::Loading as i32);
    assert_eq!(found.probe_age.unwrap().seconds, 4);
    // Since second 2 of the wall clock, which began with the test.
    assert_eq!(found.state_age.unwrap().seconds, 7);
}

/// The clock of the collector may be behind that of the agent.
#[tokio::test(start_paused = true)]
async fn a_state_that_begins_in_the_future_or_at_an_unknown_time_has_no_age() {
    let mut rig = Rig::new();
    rig.put(&known("i1", "", "db", Reason::Ok));
    let mut unknown = known("i2", "", "db", Reason::Ok);
    Arc::make_mut(&mut unknown).verdict.since = WallMs(0);
    rig.put(&unknown);
    for id in ["i1", "i2"] {
        let found = rig.get(id).await.unwrap().instance.unwrap();
        assert_eq!((found.state_age, found.probe_age), (None, None), "{id}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_instance_that_is_not_known_is_not_found() {
    let rig = Rig::with_instances(1);
    for id in ["i9", "a/b", ""] {
        let expected = (Code::NotFound, "INSTANCE_NOT_FOUND".to_owned());
        assert_eq!(told(rig.get(id).await), expected, "{id:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_of_instances_follow_one_another() {
    let rig = Rig::with_instances(5);
    let (mut sizes, mut token) = (Vec::new(), String::new());
    loop {
        let page = rig.list(2, &token).await.unwrap();
        assert_eq!(page.total_size, 5);
        sizes.push(page.instances.len());
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(told(rig.list(-1, "").await), invalid());
    assert_eq!(told(rig.list(2, "a/b").await), invalid());
}

#[tokio::test(start_paused = true)]
async fn a_page_has_200_instances_if_no_size_is_asked_for_and_1_000_at_most() {
    let rig = Rig::with_instances(1_001);
    for (asked, given) in [(0, 200), (1_000, 1_000), (i32::MAX, 1_000)] {
        let page = rig.list(asked, "").await.unwrap();
        assert_eq!(page.instances.len(), given, "{asked}");
    }
}

#[tokio::test(start_paused = true)]
async fn transitions_come_newest_first_and_updates_are_none() {
    let mut rig = Rig::new();
    rig.put(&known("i1", "", "db", Reason::Ok));
    rig.put(&known("i2", "", "db", Reason::Ok));
    let mut update = known("i1", "", "db", Reason::Ok);
    Arc::make_mut(&mut update).verdict.evidence = "more".into();
    rig.put(&update);
    rig.put(&known("i1", "", "db", Reason::Loading));
    rig.remove("i2");
    let all = rig.transitions(10, "", "").await.unwrap();
    let shown: Vec<_> = all
        .transitions
        .iter()
        .map(|t| (t.revision, t.previous_reason, t.removed))
        .collect();
    let ok = v1::Reason::Ok as i32;
    assert_eq!(
        shown,
        [(5, ok, true), (4, ok, false), (2, 0, false), (1, 0, false)]
    );
    assert_eq!(all.next_page_token, "");

    let page = rig.transitions(2, "", "").await.unwrap();
    assert_eq!(page.next_page_token, "4");
    let page = rig.transitions(2, "4", "").await.unwrap();
    assert_eq!(page.transitions[0].revision, 2);
    assert_eq!((page.transitions.len(), page.next_page_token.as_str()), (2, ""));
    let one = rig.transitions(10, "", "i1").await.unwrap().transitions;
    assert_eq!(one.iter().map(|t| t.revision).collect::<Vec<_>>(), [4, 1]);

    assert_eq!(told(rig.transitions(10, "x", "").await), invalid());
    assert_eq!(told(rig.transitions(-1, "", "").await), invalid());
}

#[tokio::test(start_paused = true)]
async fn a_change_of_role_is_a_transition() {
    let mut rig = Rig::with_instances(1);
    let mut replica = known("i0000", "", "db", Reason::Ok);
    Arc::make_mut(&mut replica).verdict.role = Role::Replica;
    rig.put(&replica);
    let all = rig.transitions(10, "", "").await.unwrap().transitions;
    assert_eq!((all.len(), all[0].revision), (2, 2));
}
