//! The aggregator and its readers, in virtual time.

use std::{sync::Arc, time::Duration};

use redkeeper_core::{
    fleet::{AgentInfo, Fleet, Message, Report},
    ids::{AgentId, BootId, Handle, InstanceId, Revision, Seq},
    status::{Identity, Reason, Stage, Verdict},
    time::WallMs,
};
use redkeeper_runtime::clock::Clock;
use tokio::{sync::mpsc, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    aggregator::Aggregator,
    change_cursor::{ChangeCursor, NoMoreChanges},
    change_log::{CHANGES_MAX, Lagged},
    command::{COMMANDS_MAX, Command},
    stream_status::{self, Applied, End, StreamStatus},
    view::{self, ViewHandle},
};
use crate::metrics::Metrics;

const SILENT_AFTER: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(60);

struct Rig {
    commands: mpsc::Sender<Command>,
    view: ViewHandle,
    running: JoinHandle<()>,
}

impl Rig {
    #[allow(clippy::disallowed_methods)] // The task under test.
    fn start() -> Self {
        let clock = Clock::simulated();
        let (publisher, view) = view::channel();
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let aggregator = Aggregator::new(
            Fleet::new(clock.now(), SILENT_AFTER),
            publisher,
            receiver,
            Arc::default(),
            clock,
            Metrics::default(),
            CancellationToken::new(),
        );
        let running = tokio::spawn(aggregator.run());
        Self {
            commands,
            view,
            running,
        }
    }

    async fn hello(&self, stream: u64, boot: u8) -> StreamStatus {
        self.hello_of("db", stream, boot).await
    }

    async fn hello_of(&self, agent: &str, stream: u64, boot: u8) -> StreamStatus {
        let (handle, status) = stream_status::channel(Applied::default());
        let info = AgentInfo {
            agent: AgentId::new(agent).unwrap(),
            boot: BootId::new(&format!("{boot:032x}")).unwrap(),
            version: String::new(),
            host: "x".to_owned(),
            via: String::new(),
            address: String::new(),
            clock: WallMs(0),
        };
        self.commands
            .send(Command::Hello(stream, info, handle))
            .await
            .unwrap();
        status
    }

    async fn report(&self, stream: u64, seq: u64, number: u32, reason: Reason) {
        let report = Report {
            handle: Handle(number),
            identity: Identity {
                id: InstanceId::new(&format!("db:{number}")).unwrap(),
                cluster: None,
                address: "127.0.0.1:1".into(),
                labels: Arc::default(),
            },
            verdict: Verdict::blank(reason, Stage::Reply, "", WallMs(0)),
            probe_age: Some(Duration::ZERO),
            freshness_limit: Duration::from_secs(600),
        };
        let message = Message::Changes(vec![report]);
        self.commands
            .send(Command::Message(stream, Seq(seq), message))
            .await
            .unwrap();
    }

    /// Waits until the view is there.
    async fn until(&self, cursor: &mut ChangeCursor, revision: u64) {
        let reached = async {
            while self.view.get().revision < Revision(revision) {
                cursor.changed().await.unwrap();
            }
        };
        timeout(LIMIT, reached).await.unwrap();
    }

    fn reason(&self, number: u32) -> Option<Reason> {
        let id = InstanceId::new(&format!("db:{number}")).unwrap();
        Some(self.view.get().instances.get(&id)?.status.verdict.reason)
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_is_in_the_view_and_then_acknowledged() {
    let rig = Rig::start();
    let mut status = rig.hello(1, 1).await;
    timeout(LIMIT, &mut status.accepted).await.unwrap().unwrap();
    rig.report(1, 7, 1, Reason::Ok).await;
    let acknowledged = async {
        while status.applied.get() < Seq(7) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, acknowledged).await.unwrap();
    assert_eq!(rig.reason(1), Some(Reason::Ok));
}

#[tokio::test(start_paused = true)]
async fn the_view_tells_how_an_instance_is_reported_and_who_else_claims_it() {
    let rig = Rig::start();
    let _first = rig.hello(1, 1).await;
    rig.report(1, 2, 1, Reason::Ok).await;
    let mut cursor = ChangeCursor::new(&rig.view, Revision(0));
    rig.until(&mut cursor, 1).await;
    let (agent, id) = (AgentId::new("db").unwrap(), InstanceId::new("db:1").unwrap());
    let view = rig.view.get();
    let entry = &view.agents[&agent];
    let place = entry.place(&id).unwrap();
    let reporting = entry.reporting[place];
    assert_eq!(reporting.handle(), Some(Handle(1)));
    assert_eq!(reporting.freshness_limit.get(), Duration::from_secs(600));
    assert_eq!(entry.live.progress(place), Some(entry.live.heard()));
    assert_eq!(view.conflicts.of(&id, &agent), None);

    let _second = rig.hello_of("other", 2, 1).await;
    rig.report(2, 2, 1, Reason::Loading).await;
    let claimed = async {
        loop {
            match view.conflicts.of(&id, &agent) {
                Some(claim) => return claim,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    };
    let claim = timeout(LIMIT, claimed).await.unwrap();
    assert_eq!((claim.agent.as_str(), claim.times), ("other", 1));
}

#[tokio::test(start_paused = true)]
async fn another_boot_is_refused_while_the_first_is_alive_and_accepted_after_it() {
    let rig = Rig::start();
    let mut first = rig.hello(1, 1).await;
    timeout(LIMIT, &mut first.accepted).await.unwrap().unwrap();
    rig.report(1, 2, 1, Reason::Ok).await;
    let mut second = rig.hello(2, 2).await;
    let why = timeout(LIMIT, &mut second.end).await.unwrap().unwrap();
    assert_eq!(why, End::InUse("host x".into()));
    assert!(second.accepted.await.is_err());
    rig.commands.send(Command::Bye(2)).await.unwrap();
    rig.commands.send(Command::Bye(1)).await.unwrap();
    let mut third = rig.hello(3, 2).await;
    timeout(LIMIT, &mut third.accepted).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn silence_makes_unknown_without_any_message() {
    let rig = Rig::start();
    let _status = rig.hello(1, 1).await;
    rig.report(1, 2, 1, Reason::Ok).await;
    let mut cursor = ChangeCursor::new(&rig.view, Revision(0));
    rig.until(&mut cursor, 2).await;
    assert_eq!(rig.reason(1), Some(Reason::AgentSilent));
}

#[tokio::test(start_paused = true)]
async fn a_cursor_gets_each_change_once_or_says_that_it_lagged() {
    let rig = Rig::start();
    let _status = rig.hello(1, 1).await;
    let mut all = ChangeCursor::new(&rig.view, Revision(0));
    let mut one = ChangeCursor::new(&rig.view, Revision(0));
    let reasons = [Reason::Ok, Reason::Loading, Reason::Ok];
    for (n, reason) in reasons.into_iter().enumerate() {
        rig.report(1, n as u64 + 2, 1, reason).await;
    }
    rig.until(&mut all, 3).await;
    let view = rig.view.get();
    let read: Vec<_> = all
        .some(&view, usize::MAX)
        .unwrap()
        .map(|change| change.status.verdict.reason)
        .collect();
    assert_eq!(read, reasons);
    assert_eq!(all.some(&view, usize::MAX).unwrap().count(), 0);
    let loading = |change: &super::change_log::Change| {
        let reason = change.status.verdict.reason;
        (reason == Reason::Loading).then_some(change.revision)
    };
    assert_eq!(one.find(&view, loading), Ok(Some(Revision(2))));
    assert_eq!(one.seen(), Revision(2));
    assert_eq!(one.find(&view, loading), Ok(None));

    // More changes than are kept.
    let more = CHANGES_MAX as u64 + 2;
    let mut behind = ChangeCursor::new(&rig.view, view.revision);
    for n in 0..more {
        let reason = [Reason::Loading, Reason::Ok][n as usize % 2];
        rig.report(1, n + 10, 1, reason).await;
    }
    rig.until(&mut all, 3 + more).await;
    let view = rig.view.get();
    assert_eq!(behind.find(&view, loading), Err(Lagged));
    assert!(behind.some(&view, usize::MAX).is_err());
    assert_eq!(
        behind.some(&view, usize::MAX).unwrap().count(),
        0,
        "it is at the end now"
    );
}

#[tokio::test(start_paused = true)]
async fn a_cursor_ends_with_the_aggregator() {
    let rig = Rig::start();
    let mut cursor = ChangeCursor::new(&rig.view, Revision(0));
    rig.running.abort();
    let ended = timeout(LIMIT, cursor.changed()).await.unwrap();
    assert_eq!(ended, Err(NoMoreChanges));
}
