//! The task that asks the other collectors once a second and compares which agents each of them hears.

use std::{collections::BTreeMap, error::Error, io, time::Duration};

use futures_util::future::join_all;
use redkeeper_core::{
    backoff::Backoff,
    fleet::unheard_agents::{Heard, Hearing},
    ids::AgentId,
    time::{Mono, WallMs},
};
use redkeeper_proto::v1::{ListAgentsRequest, status_service_client::StatusServiceClient};
use redkeeper_runtime::clock::Clock;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::{Peer, Sender, SharedId, warnings::WarningLog};
use crate::{
    fleet::view::{View, ViewHandle},
    leader::leadership,
    store::records::CollectorJson,
};

/// Time between two rounds.
const ROUND: Duration = Duration::from_secs(1);
/// How long a collector may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long it may take to list its agents, 20,000 of them in 20 pages.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval of the comparison of what is heard, longer by [`COMPARE_EACH`] for each agent: 1,000 of them are some 100
/// KB.
const COMPARE_INTERVAL: Duration = Duration::from_secs(2);
const COMPARE_EACH: Duration = Duration::from_millis(1);
/// Maximum collectors asked; three are usual.
const PEERS_MAX: usize = 16;
const PAGE: i32 = 1_000;
/// A single time-out may be a pause of this process.
const FAILURES_BEFORE_SILENT: u32 = 2;
/// Delay before a silent collector is asked again: a name that cannot be looked up holds a thread for each attempt.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(4));

/// The task that polls the other collectors.
pub struct PeerPoller {
    /// Id of this collector.
    pub id: String,
    /// The registered collectors, and the leader.
    pub leadership: leadership::Reader,
    /// The agents that this collector hears.
    pub view: ViewHandle,
    /// Write half of the watched answers.
    pub peers: Sender,
    /// Clock.
    pub clock: Clock,
    /// Request to stop.
    pub stop: CancellationToken,
}

/// A connection to a collector, or the time of the next attempt.
struct Line {
    address: String,
    client: Option<StatusServiceClient<Channel>>,
    next: Instant,
}

struct Answer {
    served_by: String,
    leader: String,
    heard: Option<Heard>,
}

struct Failure {
    text: String,
    /// True if the process is gone, as far as a refused connection can tell.
    refused: bool,
}

impl PeerPoller {
    /// Asks, compares and reports until asked to stop.
    pub async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! { biased; () = stop.cancelled() => (), () = self.watch() => () }
    }

    async fn watch(self) {
        let (mut lines, mut hearing) = (BTreeMap::<String, Line>::new(), Hearing::default());
        let mut told = WarningLog::default();
        let mut compare_at = Instant::now();
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let members = self.leadership.borrow().members.clone();
            let members: Vec<_> = members
                .into_iter()
                .filter(|member| member.id != self.id)
                .take(PEERS_MAX)
                .collect();
            lines.retain(|id, line| members.iter().any(|m| m.id == *id && m.grpc == line.address));
            let compare = Instant::now() >= compare_at;
            let answers = self.ask(&members, &mut lines, compare).await;
            let mut peers = self.peers.borrow().clone();
            peers
                .peers
                .retain(|id, _| members.iter().any(|member| member.id == *id));
            let mut heard = BTreeMap::new();
            for (id, answer) in answers {
                let peer = peers.peers.entry(id.clone()).or_default();
                let failures = peer.note(answer, self.clock.wall(), |set| {
                    drop(heard.insert(id.clone(), set))
                });
                if let Some(line) = lines.get_mut(&id).filter(|_| failures > 0) {
                    line.client = None;
                    line.next = Instant::now() + BACKOFF.delay(failures - 1, fastrand::f64());
                }
            }
            if compare {
                let view = self.view.get();
                peers.shared_ids = shared_ids(&view, self.clock.now());
                let own = heard_by(&view);
                compare_at =
                    Instant::now() + COMPARE_INTERVAL + COMPARE_EACH * u32::try_from(own.len()).unwrap_or(0);
                heard.insert(self.id.clone(), own);
                let leader = self.leadership.borrow().leader(self.clock.now()).to_owned();
                peers.unheard = match heard.remove(&leader) {
                    Some(set) => hearing.compare(&set, heard.iter().map(|(id, set)| (id.as_str(), set))),
                    None => {
                        hearing.forget();
                        Vec::new()
                    }
                };
                let since = peers.unheard_since.unwrap_or_else(|| self.clock.wall());
                peers.unheard_since = (!peers.unheard.is_empty()).then_some(since);
            }
            told.log(&self.leadership.borrow(), &peers, self.clock.now());
            self.peers.send_if_modified(|now| {
                let changed = *now != peers;
                *now = peers;
                changed
            });
        }
    }

    async fn ask(
        &self,
        members: &[CollectorJson],
        lines: &mut BTreeMap<String, Line>,
        list: bool,
    ) -> Vec<(String, Result<Answer, Failure>)> {
        let now = Instant::now();
        let mut asking = Vec::with_capacity(members.len());
        for member in members {
            let line = lines.entry(member.id.clone()).or_insert_with(|| Line {
                address: member.grpc.clone(),
                client: None,
                next: now,
            });
            if line.client.is_none() && now < line.next {
                continue;
            }
            let client = match &line.client {
                Some(client) => Ok(client.clone()),
                None => connect(&member.grpc),
            };
            line.client = client.as_ref().ok().cloned();
            let id = member.id.clone();
            asking.push(async move {
                let limit = if list { LIST_TIMEOUT } else { ANSWER_TIMEOUT };
                let asked = match client {
                    Ok(client) => tokio::time::timeout(limit, ask_one(client, list)).await,
                    Err(e) => Ok(Err(e)),
                };
                let silent = |_| {
                    Err(Failure {
                        text: format!("no answer within {limit:?}"),
                        refused: false,
                    })
                };
                (id, asked.unwrap_or_else(silent))
            });
        }
        join_all(asking).await
    }
}

impl Peer {
    /// Records an answer; returns the number of failures since the last good one.
    fn note(&mut self, answer: Result<Answer, Failure>, now: WallMs, mut heard: impl FnMut(Heard)) -> u32 {
        match answer {
            Ok(answer) => {
                *self = Self {
                    served_by: answer.served_by,
                    leader: answer.leader,
                    ..Self::default()
                };
                answer.heard.into_iter().for_each(&mut heard);
            }
            Err(failure) => {
                self.failures = self.failures.saturating_add(1);
                let first = *self.first_failure.get_or_insert(now);
                self.leader.clear();
                if failure.refused || self.failures >= FAILURES_BEFORE_SILENT {
                    self.silent_since.get_or_insert(first);
                    self.error = failure.text;
                }
            }
        }
        self.failures
    }
}

/// The agents that this collector hears.
fn heard_by(view: &View) -> Heard {
    let heard = view
        .agents
        .values()
        .filter(|agent| agent.greeting.is_some() && !agent.silent);
    heard.map(|agent| agent.name.clone()).collect()
}

/// The ids of agents that others claim too.
fn shared_ids(view: &View, now: Mono) -> Vec<SharedId> {
    let shared = view.agents.values().filter_map(|agent| {
        let (holder, refused) = (agent.greeting.as_ref()?, agent.refused(now)?);
        Some(SharedId {
            agent: agent.name.clone(),
            holder: holder.place(),
            refused: refused.greeting.place(),
        })
    });
    shared.collect()
}

fn connect(address: &str) -> Result<StatusServiceClient<Channel>, Failure> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| Failure {
        text: format!("{address:?} is not a valid HOST:PORT: {e}"),
        refused: false,
    })?;
    let channel = endpoint
        .connect_timeout(ANSWER_TIMEOUT)
        .tcp_nodelay(true)
        .connect_lazy();
    Ok(StatusServiceClient::new(channel))
}

async fn ask_one(mut client: StatusServiceClient<Channel>, list: bool) -> Result<Answer, Failure> {
    let mut request = ListAgentsRequest {
        page_size: if list { PAGE } else { 1 },
        page_token: String::new(),
    };
    let mut heard = list.then(Heard::new);
    loop {
        let page = client
            .list_agents(request.clone())
            .await
            .map_err(|status| failure(&status))?
            .into_inner();
        if let Some(heard) = &mut heard {
            let agents = page
                .agents
                .iter()
                .filter(|agent| !agent.silent && agent.heard_age.is_some());
            heard.extend(agents.flat_map(|agent| AgentId::new(&agent.id)));
        }
        if heard.is_none() || page.next_page_token.is_empty() {
            let header = page.header.unwrap_or_default();
            return Ok(Answer {
                served_by: header.served_by,
                leader: header.leader,
                heard,
            });
        }
        request.page_token = page.next_page_token;
    }
}

/// The innermost cause says what happened.
fn failure(status: &tonic::Status) -> Failure {
    let mut cause: &dyn Error = status;
    let mut refused = false;
    while let Some(next) = cause.source() {
        cause = next;
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        refused |= kind == Some(io::ErrorKind::ConnectionRefused);
    }
    let text = if cause.is::<tonic::Status>() {
        status.message().to_owned()
    } else {
        cause.to_string()
    };
    Failure { text, refused }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(refused: bool) -> Result<Answer, Failure> {
        Err(Failure {
            text: "why".to_owned(),
            refused,
        })
    }

    #[test]
    fn a_refused_connection_is_believed_at_once_and_a_time_out_the_second_time() {
        let mut peer = Peer::default();
        assert_eq!(peer.note(failed(false), WallMs(1_000), drop), 1);
        assert_eq!(peer.silent_since, None);
        assert_eq!(peer.note(failed(false), WallMs(2_000), drop), 2);
        // Silent since the first failure.
        assert_eq!(peer.silent_since, Some(WallMs(1_000)));
        let answer = Answer {
            served_by: "b".to_owned(),
            leader: "b".to_owned(),
            heard: None,
        };
        assert_eq!(peer.note(Ok(answer), WallMs(3_000), drop), 0);
        assert_eq!((peer.silent_since, peer.leader.as_str()), (None, "b"));
        peer.note(failed(true), WallMs(4_000), drop);
        assert_eq!(peer.silent_since, Some(WallMs(4_000)));
        assert_eq!((peer.error.as_str(), peer.leader.as_str()), ("why", ""));
    }
}
