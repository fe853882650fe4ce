//! What each call of StatusService answers: every filter, page, order, error and resumption, asked of a real collector
//! whose fleet two made-up agents report.
#![allow(clippy::unwrap_used)]

mod lists;
mod watching;

use redkeeper_proto::v1::{
    self, Changes, InstanceFilter, InstanceReport, InstanceState, Reason, Snapshot,
    agent_service_client::AgentServiceClient, report_status_request::Message,
    status_service_client::StatusServiceClient,
};
use redkeeper_tests::{
    daemons::Collector,
    eventually,
    fake_agent::{hello, message, report},
    wait,
};
use tokio::sync::mpsc;
use tonic::{Status, Streaming, transport::Channel};

/// A collector that does not call the agents silent, which say nothing by themselves.
const PATIENT: &str = "standalone = true\nsilent_after = '10m'\n";

type Client = StatusServiceClient<Channel>;

/// An agent that says what it is told to say.
struct Agent {
    name: &'static str,
    sequence: u64,
    messages: mpsc::UnboundedSender<v1::ReportStatusRequest>,
    _answers: Streaming<v1::ReportStatusResponse>,
}

impl Agent {
    async fn new(name: &'static str, collector: &Collector, instances: Vec<InstanceReport>) -> Self {
        let (messages, stream) = mpsc::unbounded_channel();
        messages.send(message(1, hello(name, 1))).unwrap();
        let mut client = AgentServiceClient::new(collector.channel().await.unwrap());
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(stream);
        let answers = client.report_status(stream).await.unwrap().into_inner();
        let mut agent = Self {
            name,
            sequence: 1,
            messages,
            _answers: answers,
        };
        agent.say(Message::Snapshot(Snapshot {
            instances,
            last: true,
        }));
        agent
    }

    fn say(&mut self, content: Message) {
        self.sequence += 1;
        self.messages.send(message(self.sequence, content)).unwrap();
    }

    fn change(&mut self, number: u32, cluster: &str, reason: Reason) {
        let instances = vec![of(self.name, number, cluster, reason)];
        self.say(Message::Changes(Changes { instances }));
    }
}

fn of(agent: &str, number: u32, cluster: &str, reason: Reason) -> InstanceReport {
    InstanceReport {
        cluster: cluster.to_owned(),
        ..report(agent, number, reason)
    }
}

/// What there is at first: agent, number, cluster, reason.
const FLEET: &[(&str, u32, &str, Reason)] = &[
    ("h1", 1, "red", Reason::Ok),
    ("h1", 2, "red", Reason::ConnectionRefused),
    ("h1", 3, "blue", Reason::Loading),
    ("h1", 4, "", Reason::Ok),
    ("h2", 5, "red", Reason::Ok),
    ("h2", 6, "blue", Reason::AuthFailed),
];

/// Two agents that report it.
async fn fleet(collector: &Collector) -> (Agent, Agent) {
    let reports = |name: &str| {
        let own = FLEET.iter().filter(|(agent, ..)| *agent == name);
        own.map(|(agent, number, cluster, reason)| of(agent, *number, cluster, *reason))
            .collect()
    };
    let first = Agent::new("h1", collector, reports("h1")).await;
    seen(collector, 4, Some(Reason::Ok)).await;
    let second = Agent::new("h2", collector, reports("h2")).await;
    seen(collector, 6, Some(Reason::AuthFailed)).await;
    (first, second)
}

/// Waits until the collector says so of an instance; `None`: that it does not know it.
async fn seen(collector: &Collector, number: u32, reason: Option<Reason>) {
    let id = format!("{}:{number}", if number < 5 { "h1" } else { "h2" });
    let now = || async {
        let instance = collector.instance(&id).await;
        instance.map(|instance| instance.verdict.unwrap().reason())
    };
    eventually("what the agent says", now, |now| *now == reason).await;
}

/// The answer of one call.
async fn soon<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, Status> {
    let answer = tokio::time::timeout(wait::LIMIT, call).await;
    answer.expect("in time").map(tonic::Response::into_inner)
}

fn filter(
    states: &[InstanceState],
    reasons: &[Reason],
    clusters: &[&str],
    agents: &[&str],
) -> InstanceFilter {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    InstanceFilter {
        states: states.iter().map(|state| i32::from(*state)).collect(),
        reasons: reasons.iter().map(|reason| i32::from(*reason)).collect(),
        clusters: names(clusters),
        agent_ids: names(agents),
    }
}

/// Filters, and the numbers of the instances that each lets through.
fn filters() -> Vec<(InstanceFilter, Vec<u32>)> {
    use InstanceState::{Degraded, Down, Unknown, Up};
    vec![
        (InstanceFilter::default(), vec![1, 2, 3, 4, 5, 6]),
        (filter(&[Up], &[], &[], &[]), vec![1, 4, 5]),
        (filter(&[Down], &[], &[], &[]), vec![2]),
        (filter(&[Degraded, Unknown], &[], &[], &[]), vec![3, 6]),
        (filter(&[], &[Reason::Loading], &[], &[]), vec![3]),
        (
            filter(&[], &[Reason::AuthFailed, Reason::ConnectionRefused], &[], &[]),
            vec![2, 6],
        ),
        (filter(&[], &[Reason::ClusterDown], &[], &[]), vec![]),
        (filter(&[], &[], &["red"], &[]), vec![1, 2, 5]),
        (
            filter(&[], &[], &["blue", "red", "red"], &[]),
            vec![1, 2, 3, 5, 6],
        ),
        (filter(&[], &[], &[""], &[]), vec![4]),
        (filter(&[], &[], &["nobody"], &[]), vec![]),
        (filter(&[], &[], &[], &["h1"]), vec![1, 2, 3, 4]),
        (filter(&[], &[], &[], &["h2", "h1"]), vec![1, 2, 3, 4, 5, 6]),
        (filter(&[], &[], &[], &["h3"]), vec![]),
        (filter(&[Up], &[], &["red"], &["h1"]), vec![1]),
        (filter(&[Down], &[Reason::Loading], &[], &[]), vec![]),
    ]
}

fn number(instance: &v1::Instance) -> u32 {
    instance.id.rsplit_once(':').unwrap().1.parse().unwrap()
}
