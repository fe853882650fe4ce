//! Tests of what links tell of agents, over pipes: relaying, and a leader that hears fewer agents than another collector.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    fleet::{AgentInfo, AgentSnapshot, Message, Report},
    ids::{AgentId, BootId, Handle, InstanceId, Seq},
    status::{Identity, Reason, Stage, Verdict},
    time::WallMs,
};
use redkeeper_proto::v1::{Heartbeat, ReportStatusRequest, report_status_request::Message as Wire};
use redkeeper_runtime::clock::Clock;
use tokio::time::timeout;

use super::tests_links::{Address, LIMIT, Pair};
use crate::fleet::{
    command::Command,
    open_streams::{OpenStream, OpenStreamGuard},
    stream_status::End,
    view::{AgentEntry, View},
};

const BOOT: &str = "00000000000000000000000000000001";

fn boot() -> BootId {
    BootId::new(BOOT).unwrap()
}

fn db() -> AgentId {
    AgentId::new("db").unwrap()
}

fn greeting() -> AgentInfo {
    AgentInfo {
        agent: db(),
        boot: boot(),
        version: "1".to_owned(),
        host: "db.example".to_owned(),
        address: String::new(),
        via: String::new(),
        clock: WallMs(0),
    }
}

fn report(n: u32) -> Report {
    Report {
        handle: Handle(n),
        identity: Identity {
            id: InstanceId::new(&format!("db:{n}")).unwrap(),
            cluster: None,
            address: "127.0.0.1:1".into(),
            labels: Arc::default(),
        },
        verdict: Verdict::blank(Reason::Ok, Stage::Reply, "", WallMs(1)),
        probe_age: Some(Duration::from_millis(7)),
        freshness_limit: Duration::from_secs(2),
    }
}

fn beat(sequence: u64) -> ReportStatusRequest {
    let beat = Heartbeat {
        handles: vec![1],
        probe_ages_ms: vec![30],
        agent_time: None,
    };
    ReportStatusRequest {
        sequence,
        message: Some(Wire::Heartbeat(beat)),
    }
}

/// An open stream of the agent.
fn open_stream(number: u64) -> OpenStream {
    let clock = Clock::simulated();
    let now = (clock.now(), clock.wall());
    OpenStream::new(number, (db(), boot()), None, 1, now)
}

/// Waits until nobody is passed what comes on a stream, which no event tells.
async fn untapped(stream: &OpenStream) {
    let untapped = async {
        while stream.tap_state().is_tapped() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(LIMIT, untapped).await.is_ok(), "still tapped");
}

impl Pair {
    /// `a` hears the agent, which `b` does not, and is asked for it; returns the agent's stream.
    async fn relays(&mut self) -> OpenStreamGuard {
        let there = self.server.open_streams.add(open_stream(5));
        self.hears_the_agent();
        self.answers().await;
        there
    }

    /// `a` hears the agent, and says so.
    fn hears_the_agent(&self) {
        let mut view = View::default();
        view.agents.insert(db(), self.entry());
        self.server.view.replace(view);
    }

    fn entry(&self) -> Arc<AgentEntry> {
        Arc::new(AgentEntry {
            name: db(),
            greeting: Some(greeting()),
            silent: false,
            clock_ahead_ms: 0,
            complete: true,
            connected: WallMs(0),
            rival: None,
            ids: Vec::new(),
            reporting: Box::default(),
            live: Arc::default(),
        })
    }

    /// Answers what `a` is asked by its link: three instances, two of which came with the same message.
    async fn answers(&mut self) {
        let asked = timeout(LIMIT, self.server.commands.recv()).await.unwrap();
        let Some(Command::Snapshot(agent, answer)) = asked else {
            panic!("another command");
        };
        assert_eq!(agent, db());
        let snapshot = AgentSnapshot {
            greeting: greeting(),
            heard_age: Duration::from_millis(400),
            heartbeat_age: Duration::from_millis(900),
            reports: [(Seq(4), vec![report(1), report(2)]), (Seq(9), vec![report(3)])].into(),
            complete: Some(Seq(11)),
        };
        assert!(answer.send(Some(snapshot)).is_ok());
    }

    async fn taken(&mut self) -> Command {
        timeout(LIMIT, self.intake.recv()).await.unwrap().unwrap()
    }

    /// The link hands on what `a` knows; returns the number of the stream.
    async fn begins(&mut self) -> u64 {
        let Command::RelayBegins(stream, told, _handle, ages) = self.taken().await else {
            panic!("another command");
        };
        let via = AgentInfo {
            via: "a".to_owned(),
            ..greeting()
        };
        assert_eq!(*told, via);
        assert_eq!(*ages, [400, 900].map(Duration::from_millis));
        let expected = [
            (4, Message::Snapshot(vec![report(1), report(2)], false)),
            (9, Message::Snapshot(vec![report(3)], false)),
            (11, Message::Snapshot(Vec::new(), true)),
        ];
        for (seq, message) in expected {
            let Command::Relayed(of, sequence, content, age) = self.taken().await else {
                panic!("another command");
            };
            assert_eq!((of, sequence, content), (stream, Seq(seq), message));
            assert_eq!(age, Duration::from_millis(400));
        }
        stream
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_only_the_other_collector_hears_is_relayed_until_it_is_heard() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let stream = pair.begins().await;
    assert!(there.tap_state().is_tapped());
    // What comes from then on, with the time that it waited.
    there.pass_on(&beat(12), pair.server.clock.now());
    let Command::Relayed(of, Seq(12), Message::Heartbeat(ages, _), age) = pair.taken().await else {
        panic!("another command");
    };
    assert_eq!(of, stream);
    assert_eq!(ages, [(Handle(1), Duration::from_millis(30))]);
    assert!(age < Duration::from_millis(100), "{age:?}");

    // The agent connects here, and talks: after a while the relay ends.
    let here = pair.open_streams.add(open_stream(6));
    let mut view = View::default();
    view.agents.insert(db(), pair.entry());
    pair.publisher.replace(view);
    let talks = async {
        for sequence in 2.. {
            here.received(sequence, pair.server.clock.now());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let ended = tokio::select! { taken = pair.intake.recv() => taken, () = talks => None };
    assert!(matches!(ended, Some(Command::Bye(of)) if of == stream));
    untapped(&there).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_ends_leaves_no_relay_behind_on_either_side() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let stream = pair.begins().await;
    pair.set(Address::BlackHole);
    pair.server.stop.cancel();
    let ended = pair.taken().await;
    assert!(matches!(ended, Command::Bye(of) if of == stream));
    untapped(&there).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_stream_is_refused_is_asked_for_again() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let Command::RelayBegins(first, _, mut handle, _) = pair.taken().await else {
        panic!("another command");
    };
    handle.end(End::Resend);
    // What is on its way is dropped, and the next message finds the end.
    there.pass_on(&beat(12), pair.server.clock.now());
    loop {
        match pair.taken().await {
            Command::Bye(of) if of == first => break,
            Command::Relayed(of, ..) if of == first => (),
            _ => panic!("another command"),
        }
    }
    pair.answers().await;
    assert!(pair.begins().await > first);
}

/// A message that came between the tap and the answer of the aggregator is told once more.
#[tokio::test(start_paused = true)]
async fn what_a_tap_may_have_missed_is_told_again() {
    let mut pair = Pair::linked().await;
    let there = pair.relays().await;
    let first = pair.begins().await;
    let missed = ReportStatusRequest {
        sequence: 12,
        message: None,
    };
    there.pass_on(&missed, pair.server.clock.now());
    pair.answers().await;
    let ended = pair.taken().await;
    assert!(matches!(ended, Command::Bye(of) if of == first));
    assert!(pair.begins().await > first);
}

/// `b` leads and hears nobody, while `a` hears four agents.
#[tokio::test(start_paused = true)]
async fn a_leader_that_hears_far_fewer_agents_hands_over() {
    let mut pair = Pair::linked().await;
    let mut view = View::default();
    for n in 0..4 {
        let name = AgentId::new(&format!("db{n}")).unwrap();
        let entry = AgentEntry {
            name: name.clone(),
            ..AgentEntry::clone(&pair.entry())
        };
        view.agents.insert(name, Arc::new(entry));
    }
    pair.server.view.replace(view);
    pair.members.send_modify(|d| "b".clone_into(&mut d.leader_hint));
    // As long as `a` takes another one for the leader, it could not take over.
    let asked = timeout(LIMIT, pair.handed_over.recv()).await;
    assert!(asked.is_err(), "asked too early");
    pair.server
        .leadership
        .send_modify(|d| "b".clone_into(&mut d.leader_hint));
    let asked = timeout(LIMIT, pair.handed_over.recv()).await.unwrap().unwrap();
    assert_eq!(asked.to.as_deref(), Some("n-1"));
    assert!(
        asked.why.contains("a hears 4 agents, this collector 0"),
        "{}",
        asked.why
    );
}
