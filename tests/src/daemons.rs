//! The daemons under test, and their answers to queries.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::PathBuf,
    time::Duration,
};

use redkeeper_proto::v1::{
    self, agent_service_client::AgentServiceClient, status_service_client::StatusServiceClient,
};
use tokio_stream::StreamExt;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::{fake_agent, ports::Port, process::Process, wait::eventually};

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    /// Its name.
    pub id: String,
    /// The daemon.
    pub process: Process,
    /// gRPC port.
    pub grpc: Port,
    /// Public HTTP port.
    pub http: Port,
    /// Admin HTTP port.
    pub admin: Port,
    pub(crate) config: PathBuf,
}

impl Collector {
    /// Connects a gRPC client.
    ///
    /// # Panics
    /// When it cannot connect.
    pub async fn client(&self) -> StatusServiceClient<Channel> {
        StatusServiceClient::new(self.channel().await.expect("a connection"))
    }

    /// Connects to its gRPC port.
    ///
    /// # Errors
    /// When nothing listens.
    pub async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        let address = format!("http://127.0.0.1:{}", self.grpc.number);
        Endpoint::from_shared(address)?
            .connect_timeout(Duration::from_secs(2))
            .connect()
            .await
    }

    /// `STATE/REASON` of an instance over gRPC; `-` if it is unknown or the collector does not answer.
    pub async fn state(&self, id: &str) -> String {
        match self.instance(id).await.and_then(|instance| instance.verdict) {
            Some(v) => {
                let state = v1::InstanceState::try_from(v.state)
                    .unwrap_or_default()
                    .as_str_name();
                let reason = v1::Reason::try_from(v.reason).unwrap_or_default().as_str_name();
                format!(
                    "{}/{}",
                    state.trim_start_matches("INSTANCE_STATE_"),
                    reason.trim_start_matches("REASON_")
                )
            }
            None => "-".to_owned(),
        }
    }

    /// Gets an instance over gRPC.
    pub async fn instance(&self, id: &str) -> Option<v1::Instance> {
        let mut client = StatusServiceClient::new(self.channel().await.ok()?);
        client
            .get_instance(v1::GetInstanceRequest { id: id.to_owned() })
            .await
            .ok()?
            .into_inner()
            .instance
    }

    /// Value of the first metric line that starts with `line_start`.
    pub fn metric(&self, line_start: &str) -> Option<f64> {
        metric(self.admin.number, line_start)
    }

    /// Waits until its metrics tell that it leads.
    pub async fn leads(&self) {
        let what = format!("{} leads", self.id);
        let leader = || async { self.metric("redkeeper_leader") };
        eventually(&what, leader, |n| *n == Some(1.0)).await;
    }

    /// Waits until its links to this many other collectors are open.
    pub async fn links(&self, others: usize) {
        let what = format!("{} is linked to {others}", self.id);
        let links = || async { self.metric("redkeeper_collector_links{state=\"open\"}") };
        eventually(&what, links, |n| *n == Some(others as f64)).await;
    }

    /// Sends it these reports of an agent that does not exist, as [`fake_agent::snapshot`] builds them. The stream stays
    /// open as long as the returned answers live.
    ///
    /// # Panics
    /// When it refuses the stream.
    pub async fn hear(
        &self,
        agent: &str,
        reports: &[v1::InstanceReport],
    ) -> Streaming<v1::ReportStatusResponse> {
        let messages = fake_agent::snapshot(agent, reports);
        let stream = tokio_stream::iter(messages).chain(tokio_stream::pending());
        let mut client = AgentServiceClient::new(self.channel().await.expect("a connection"));
        let answers = client.report_status(stream).await.expect("an open stream");
        answers.into_inner()
    }
}

/// What a process uses at one time.
#[derive(Debug)]
pub struct Usage {
    descriptors: usize,
    resident: usize,
}

impl Usage {
    /// What a process uses now.
    ///
    /// # Panics
    /// When the process is gone.
    pub fn of(process: &Process) -> Self {
        Self {
            descriptors: process.descriptors(),
            resident: process.resident(),
        }
    }

    /// Waits until the process has at most as many descriptors as then, and checks that its memory has grown by less
    /// than this many bytes since; the message says that `what` made it grow.
    ///
    /// # Panics
    /// When it still has more descriptors after [`LIMIT`](crate::wait::LIMIT), or its memory has grown more.
    pub async fn check(&self, process: &Process, bytes: usize, what: &str) {
        eventually(
            "descriptors back",
            || async { process.descriptors() },
            |n| *n <= self.descriptors,
        )
        .await;
        let grown = process.resident().saturating_sub(self.resident);
        assert!(grown < bytes, "{what} grew memory by {grown} bytes");
    }
}

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    /// Its name.
    pub id: String,
    /// The daemon.
    pub process: Process,
    /// Admin HTTP port.
    pub admin: Port,
    /// Its configuration file.
    pub config: PathBuf,
    pub(crate) hooks: PathBuf,
}

impl Agent {
    /// Replaces its configuration, except names, collectors and ports.
    ///
    /// # Panics
    /// When the file cannot be read or written.
    pub fn write_config(&self, text: &str) {
        let present = std::fs::read_to_string(&self.config).expect("its configuration");
        let head: String = present.split_inclusive('\n').take(3).collect();
        std::fs::write(&self.config, format!("{head}{text}")).expect("written");
    }

    /// Makes the worker of an instance panic (`panic`) or block (`block`).
    ///
    /// # Panics
    /// When the hook file cannot be written.
    pub fn hook(&self, what: &str, instance: &str) {
        std::fs::write(self.hooks.join(format!("{what}-{instance}")), "").expect("hook");
    }

    /// Plants a leak of `tasks` or of `memory`.
    ///
    /// # Panics
    /// When the hook file cannot be written.
    pub fn leak(&self, what: &str) {
        std::fs::write(self.hooks.join(format!("leak-{what}")), "").expect("hook");
    }

    /// Value of the first metric line that starts with `line_start`.
    pub fn metric(&self, line_start: &str) -> Option<f64> {
        metric(self.admin.number, line_start)
    }

    /// Number of live tasks.
    pub fn tasks(&self) -> Option<usize> {
        http_get(self.admin.number, "/debug/tasks/count")
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

fn metric(port: u16, line_start: &str) -> Option<f64> {
    let page = http_get(port, "/metrics").ok()?;
    page.lines()
        .find_map(|line| line.strip_prefix(line_start)?.strip_prefix(' ')?.parse().ok())
}

/// Returns the body of a page.
///
/// # Errors
/// When there is no answer; the text says why.
pub fn http_get(port: u16, path: &str) -> Result<String, String> {
    http(port, "GET", path, "").map(|(_, body)| body)
}

/// Sends a request to a port of this host, and returns the status code and the body.
///
/// # Errors
/// When there is no answer; the text says why.
pub fn http(port: u16, method: &str, path: &str, body: &str) -> Result<(u16, String), String> {
    http_within(Duration::from_secs(2), port, method, path, body)
}

/// As [`http`], for pages that take longer. `limit` is that of each read.
///
/// # Errors
/// When there is no answer; the text says why.
pub fn http_within(
    limit: Duration,
    port: u16,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String), String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(limit))?;
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = ask().map_err(|e| e.to_string())?;
    let none = || format!("no HTTP answer: {text:?}");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(none)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((code.ok_or_else(none)?, body.to_owned()))
}
