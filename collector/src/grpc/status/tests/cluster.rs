//! The cluster, its agents, and the summary.

use super::*;

async fn cluster(rig: &Rig) -> v1::GetClusterStatusResponse {
    let request = Request::new(v1::GetClusterStatusRequest {});
    rig.queries
        .get_cluster_status(request)
        .await
        .unwrap()
        .into_inner()
}

async fn agents(rig: &Rig, page_size: i32, page_token: &str) -> Result<v1::ListAgentsResponse, Status> {
    let request = v1::ListAgentsRequest {
        page_size,
        page_token: page_token.to_owned(),
    };
    let answer = rig.queries.list_agents(Request::new(request)).await;
    answer.map(Response::into_inner)
}

fn member(id: &str) -> CollectorJson {
    CollectorJson {
        id: id.to_owned(),
        grpc: format!("{id}:7400"),
        version: "1.2.3".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_state_of_the_session_is_told_with_its_error_only_while_there_is_none() {
    for (connection, session, error) in [
        (None, Session::None, "broken"),
        (Some(Connection::Lost), Session::None, "broken"),
        (Some(Connection::Suspended), Session::Suspended, "broken"),
        (Some(Connection::Connected), Session::Connected, ""),
    ] {
        let mut rig = Rig::new();
        rig.queries.metrics.pending.set(3);
        rig.leadership.send_modify(|d| {
            (d.connection, d.phase) = (connection, "follower");
            (d.last_error, d.servers) = ("broken".to_owned(), "zk:2181".to_owned());
        });
        let store = cluster(&rig).await.store.unwrap();
        assert_eq!((store.session(), store.last_error.as_str()), (session, error));
        assert_eq!(
            (store.servers.as_str(), store.phase.as_str()),
            ("zk:2181", "follower")
        );
        assert_eq!(store.pending, 3);
        rig.queries.standalone = true;
        let store = cluster(&rig).await.store.unwrap();
        assert_eq!(
            (store.session(), store.servers.as_str()),
            (Session::Standalone, "")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn members_are_told_with_the_leader_and_those_that_do_not_answer() {
    let rig = Rig::new();
    advance(Duration::from_secs(10)).await;
    rig.leadership.send_modify(|d| {
        d.members = ["a", "b", "c"].map(member).to_vec();
        "b".clone_into(&mut d.leader_hint);
    });
    let silent = Peer::silent(WallMs(4_000), "no route");
    let peers = [("b", Peer::default()), ("c", silent)].map(|(id, peer)| (id.to_owned(), peer));
    rig.peers.send_modify(|known| known.peers = BTreeMap::from(peers));
    let answer = cluster(&rig).await;
    let told: Vec<_> = answer
        .members
        .iter()
        .map(|one| {
            let age = one.silent_age.as_ref().map(|age| age.seconds);
            (one.id.as_str(), one.leader, one.error.as_str(), age)
        })
        .collect();
    let expected = [
        ("a", false, "", None),
        ("b", true, "", None),
        ("c", false, "no route", Some(6)),
    ];
    assert_eq!(told, expected);
    assert_eq!(answer.members[1].address, "b:7400");
    assert_eq!(answer.header.unwrap().leader, "b");
}

#[tokio::test(start_paused = true)]
async fn instances_are_counted_by_state_and_agents_by_silence() {
    let mut rig = Rig::new();
    for (n, reason) in [
        Reason::Ok,
        Reason::Loading,
        Reason::ConnectionRefused,
        Reason::ProcessGone,
        Reason::AgentSilent,
        Reason::Ok,
        Reason::Ok,
    ]
    .into_iter()
    .enumerate()
    {
        rig.put(&known(&format!("i{n}"), "", "db", reason));
    }
    rig.put_agent("db", &[], false);
    rig.put_agent("quiet", &[], true);
    rig.put_agent("mute", &[], true);
    let told = cluster(&rig).await;
    assert_eq!((told.up, told.degraded, told.down, told.unknown), (3, 1, 2, 1));
    assert_eq!((told.agents_heard, told.agents_silent), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn warnings_are_told_with_their_codes() {
    let rig = Rig::new();
    rig.leadership
        .send_modify(|d| d.connection = Some(Connection::Suspended));
    let codes: Vec<_> = cluster(&rig)
        .await
        .warnings
        .into_iter()
        .map(|warning| warning.code)
        .collect();
    assert_eq!(codes, ["ZOOKEEPER_AWAY"]);
}

#[tokio::test(start_paused = true)]
async fn agents_are_listed_in_pages() {
    let mut rig = Rig::new();
    for name in ["db1", "db2", "db3"] {
        rig.put_agent(name, &["i1", "i2"], false);
    }
    advance(Duration::from_secs(3)).await;
    let page = agents(&rig, 2, "").await.unwrap();
    assert_eq!(page.next_page_token, "db2");
    let one = &page.agents[0];
    assert_eq!((one.id.as_str(), one.host.as_str()), ("db1", "db1.example"));
    assert_eq!((one.sequence, one.instances), (42, 2));
    assert_eq!(one.heard_age.as_ref().unwrap().seconds, 3);
    assert_eq!((&one.clock_ahead, &one.refused), (&None, &None));
    let page = agents(&rig, 2, "db2").await.unwrap();
    assert_eq!((page.agents.len(), page.next_page_token.as_str()), (1, ""));
    assert_eq!(page.agents[0].id, "db3");
    assert_eq!(told(agents(&rig, -1, "").await), invalid());
    assert_eq!(told(agents(&rig, 2, "a:b").await), invalid());
}

#[tokio::test(start_paused = true)]
async fn an_agent_is_told_with_its_rival_while_that_one_tries() {
    let mut rig = Rig::new();
    rig.put_agent("db", &[], false);
    let name = AgentId::new("db").unwrap();
    let entry = rig.view.agents.get_mut(&name).unwrap();
    let entry = Arc::make_mut(entry);
    entry.clock_ahead_ms = -7_000;
    entry.rival = Some(Rival {
        greeting: greeting("other"),
        times: 3,
        last: rig.queries.clock.now(),
    });
    rig.publish();
    advance(Duration::from_secs(14)).await;
    let one = agents(&rig, 0, "").await.unwrap().agents.remove(0);
    assert_eq!(one.clock_ahead.unwrap().seconds, -7);
    let rival = one.refused.unwrap();
    assert_eq!((rival.host.as_str(), rival.times), ("other.example", 3));
    assert_eq!(rival.last_age.unwrap().seconds, 14);
    advance(Duration::from_secs(1)).await;
    let one = agents(&rig, 0, "").await.unwrap().agents.remove(0);
    assert_eq!(one.refused, None);
}

/// It is known from what is published only.
#[tokio::test(start_paused = true)]
async fn an_agent_that_was_never_heard_has_no_age() {
    let mut rig = Rig::new();
    rig.put_agent("db", &[], true);
    let name = AgentId::new("db").unwrap();
    Arc::make_mut(rig.view.agents.get_mut(&name).unwrap()).greeting = None;
    rig.publish();
    let one = agents(&rig, 0, "").await.unwrap().agents.remove(0);
    assert_eq!(
        (one.heard_age, one.boot_id.as_str(), one.silent),
        (None, "", true)
    );
}

#[tokio::test(start_paused = true)]
async fn a_summary_counts_what_the_filter_takes_by_cluster_agent_and_reason() {
    let mut rig = Rig::new();
    rig.put(&known("i1", "blue", "db1", Reason::Ok));
    rig.put(&known("i2", "blue", "db1", Reason::Ok));
    rig.put(&known("i3", "blue", "db2", Reason::Loading));
    rig.put(&known("i4", "", "db2", Reason::Ok));
    let summary = async |clusters: &[&str]| {
        let filter = v1::InstanceFilter {
            clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let request = Request::new(v1::SummarizeInstancesRequest { filter: Some(filter) });
        let answer = rig.queries.summarize_instances(request).await.unwrap();
        let rows = answer.into_inner().rows.into_iter();
        rows.map(|row| (row.cluster, row.agent_id, row.reason, row.count))
            .collect::<Vec<_>>()
    };
    let row = |cluster: &str, agent: &str, reason: v1::Reason, count| {
        (cluster.to_owned(), agent.to_owned(), reason as i32, count)
    };
    let blue = [
        row("blue", "db1", v1::Reason::Ok, 2),
        row("blue", "db2", v1::Reason::Loading, 1),
    ];
    let none = [row("", "db2", v1::Reason::Ok, 1)];
    assert_eq!(summary(&["blue"]).await, blue);
    assert_eq!(summary(&[""]).await, none);
    assert_eq!(summary(&[]).await, [&none[..], &blue[..]].concat());
}
