//! The uplink: one task for each collector, which keeps a stream open and sends what `core::outbox` decides. A slow or
//! dead collector delays only its own stream.

pub mod boot_id;
mod stream_end;
mod stream_status;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use redkeeper_core::{
    backoff::Backoff,
    ids::{AgentId, BootId, Seq},
    limits::UNACKED_MESSAGES_MAX,
    outbox::Outbox,
};
use redkeeper_proto::{
    convert,
    dial::Dial,
    v1::{self, agent_service_client::AgentServiceClient, report_status_request, report_status_response},
};
use redkeeper_runtime::clock::Clock;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::{instances::InstanceTable, metrics::Metrics, report::boot_id::Boot};

use stream_end::Ended;
pub use stream_status::{Phase, StreamEnd, StreamState, StreamStatus, Welcomed};

/// Task kind of the uplinks.
pub const UPLINK: &str = "uplink";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait for `Welcome`: a collector with a large fleet may be busy for some seconds while it takes over.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// A stream without acknowledgements for this many times `silent_after` is replaced. Acknowledgements may rightly be
/// delayed by up to four thirds of `silent_after`.
const ACK_TIMEOUT_FACTOR: u32 = 2;
/// Maximum wait for the reason after a collector stopped reading.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum pause before reconnecting that a collector may ask for.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// A stream that ends earlier than this counts as another failed attempt: otherwise an agent whose streams end soon after
/// each `Welcome` would reconnect at once each time.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// First and longest pause between attempts.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Attempts are at most one third of `silent_after` apart. A collector that restarts and leads at once calls an agent
/// silent `silent_after` after its start, so agents must be back well before. The rest of the time is for the
/// connection, whose first packet may have to be resent after 1 s.
const RETRY_SHARE: u32 = 3;
/// Default of the collectors, used until one reports its own value.
const SILENT_AFTER: Duration = Duration::from_secs(3);
/// Heartbeat intervals that a collector may ask for; any other is a mistake in its configuration.
const HEARTBEAT_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(20)..=Duration::from_secs(60);

/// A stream to one collector.
pub struct Uplink {
    /// `host:port`.
    pub collector: String,
    /// Opens connections to it.
    pub dial: Arc<dyn Dial>,
    /// Id of this agent.
    pub agent: AgentId,
    /// Boot id, shared by all uplinks.
    pub boot: Arc<Boot>,
    /// Host name, for display only.
    pub host: String,
    /// Source of all messages.
    pub table: Arc<InstanceTable>,
    /// The clock.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Tells debug pages of the stream.
    pub status: StreamStatus,
    /// Request to stop.
    pub stop: CancellationToken,
}

impl Uplink {
    /// Keeps a stream open until asked to stop.
    pub async fn run(self) {
        let connected = self
            .metrics
            .connected
            .get_or_create_owned(&[("collector", self.collector.clone())]);
        let refused = self
            .metrics
            .refused
            .get_or_create_owned(&[("collector", self.collector.clone())]);
        let stop = self.stop.clone();
        let (mut attempt, mut last_told, mut silent_after) = (0u32, None, SILENT_AFTER);
        while !stop.is_cancelled() {
            connected.set(0);
            self.status.connecting(self.clock.now(), attempt);
            let mut opened = None;
            let boot = self.boot.subscribe().borrow().clone();
            let welcomed = |told| {
                silent_after = told;
                opened = Some(self.clock.now());
                connected.set(1);
                refused.set(0);
            };
            let ended = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                ended = self.stream(&boot, welcomed) => ended,
            };
            connected.set(0);
            self.metrics.reconnects.inc();
            refused.set(i64::from(ended.is_refusal()));
            if ended.is_superseded() {
                self.boot.renew(&boot);
            }
            let lasted = opened.map(|at| self.clock.now().since(at));
            if lasted.is_some_and(|time| time >= STABLE_AFTER) {
                (attempt, last_told) = (0, None);
            }
            let end = StreamEnd {
                at: self.clock.now(),
                text: ended.to_string(),
                is_refusal: ended.is_refusal(),
            };
            if last_told.as_ref() != Some(&end.text) {
                tracing::warn!(collector = self.collector, "stream ended: {}", end.text);
                last_told = Some(end.text.clone());
            }
            let longest = match ended.is_refusal() {
                // After a refusal, the collector does not wait for the agent, so the pause may grow to its maximum.
                true => RETRY.1,
                false => silent_after / RETRY_SHARE,
            };
            let pause = retry(longest).delay(attempt, fastrand::f64());
            let delay = match &ended {
                Ended::Drained(_, asked) => pause.max(*asked),
                _ => pause,
            };
            attempt = attempt.saturating_add(1);
            self.status.ended(end, delay);
            tokio::select! { biased; () = stop.cancelled() => (), () = tokio::time::sleep(delay) => () }
        }
    }

    async fn stream(&self, boot: &BootId, welcomed: impl FnOnce(Duration)) -> Ended {
        match self.talk(boot, welcomed).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn talk(
        &self,
        boot: &BootId,
        welcomed: impl FnOnce(Duration),
    ) -> Result<std::convert::Infallible, Ended> {
        let mut boots = self.boot.subscribe();
        let endpoint = Endpoint::from_shared(format!("http://{}", self.collector)).map_err(Ended::Connect)?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5));
        let channel = self.dial.dial(endpoint).await.map_err(Ended::Connect)?;
        // One slot for each message that may be unacknowledged, and one for the Hello: sending never waits.
        let (sender, receiver) = mpsc::channel(UNACKED_MESSAGES_MAX + 1);
        let hello = v1::Hello {
            agent_id: self.agent.to_string(),
            boot_id: boot.as_str().to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: self.host.clone(),
            agent_time: convert::time_to_wire(self.clock.wall()),
        };
        let message = Some(report_status_request::Message::Hello(hello));
        let seq = self.table.hello_seq();
        let first = v1::ReportStatusRequest {
            sequence: seq.0,
            message,
        };
        sender.try_send(first).map_err(|_| Ended::Closed)?;
        self.status.sent(self.clock.now(), seq);
        let mut client = AgentServiceClient::new(channel);
        let call = async {
            let mut answers = client
                .report_status(ReceiverStream::new(receiver))
                .await
                .map_err(Ended::Refused)?
                .into_inner();
            let welcome = match answers
                .message()
                .await
                .map_err(Ended::Refused)?
                .and_then(|answer| answer.message)
            {
                Some(report_status_response::Message::Welcome(welcome)) => welcome,
                Some(_) => return Err(Ended::Protocol("the first answer is no Welcome".to_owned())),
                None => return Err(Ended::Closed),
            };
            Ok((answers, welcome))
        };
        let (mut answers, welcome) = tokio::time::timeout(WELCOME_TIMEOUT, call)
            .await
            .map_err(|_| Ended::NoWelcome)??;
        let (heartbeat, silent_after) = intervals(&welcome)?;
        let ack_timeout = silent_after * ACK_TIMEOUT_FACTOR;
        tracing::info!(
            collector = self.collector,
            id = welcome.collector_id,
            "stream open"
        );
        welcomed(silent_after);
        let told = Welcomed {
            collector_id: welcome.collector_id,
            heartbeat_interval: heartbeat,
            silent_after,
        };
        self.status.welcomed(self.clock.now(), told);

        let mut seen = self.table.changed_since(0).generation;
        let mut known: BTreeSet<_> = self.table.entries().into_keys().collect();
        let mut outbox = Outbox::new(self.clock.now(), heartbeat, known.iter().copied());
        loop {
            let now = self.clock.now();
            let changed = self.table.changed_since(seen);
            seen = changed.generation;
            if let Some(all) = changed.all {
                outbox.forget(known.difference(&all).copied());
                known = all;
            }
            outbox.mark(changed.handles);
            while let Some(next) = outbox.next(now) {
                let (seq, message) = self.table.compose(&next);
                if sender.try_send(message).is_err() {
                    return Err(drain_reason(&mut answers).await);
                }
                outbox.sent(now, seq);
                self.status.sent(now, seq);
                self.metrics.messages.inc();
            }
            self.status.awaits(&outbox);
            let ack_due = outbox.oldest_unacked().map(|at| at + ack_timeout);
            if ack_due.is_some_and(|at| now >= at) {
                return Err(Ended::AckTimeout(ack_timeout));
            }
            // While the window is full, a due heartbeat must wait for an acknowledgement instead of spinning.
            let full = outbox.unacked() >= UNACKED_MESSAGES_MAX;
            let wake = if full { None } else { Some(outbox.next_deadline()) };
            let deadline = [wake, ack_due]
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(now + ack_timeout);
            tokio::select! {
                biased;
                answer = answers.message() => match answer.map_err(Ended::Refused)?.and_then(|a| a.message) {
                    Some(report_status_response::Message::Ack(ack)) => {
                        outbox.acked(Seq(ack.sequence));
                        self.status.acked(self.clock.now(), Seq(ack.sequence));
                    }
                    Some(report_status_response::Message::Drain(drain)) => return Err(drained(drain)),
                    Some(_) => return Err(Ended::Protocol("a second Welcome".to_owned())),
                    None => return Err(Ended::Closed),
                },
                () = another(&mut boots, boot) => return Err(Ended::Renewed),
                () = self.table.changed_after(seen) => (),
                () = tokio::time::sleep_until(self.clock.instant(deadline)) => (),
            }
        }
    }
}

fn retry(longest: Duration) -> Backoff {
    Backoff::new(RETRY.0, longest.min(RETRY.1))
}

/// Waits until the boot id differs from this one.
async fn another(boots: &mut watch::Receiver<BootId>, boot: &BootId) {
    if boots.wait_for(|now| now != boot).await.is_err() {
        // The sender is never dropped before the uplinks.
        std::future::pending().await
    }
}

/// Determines why the collector no longer reads, from its last messages.
async fn drain_reason(answers: &mut tonic::Streaming<v1::ReportStatusResponse>) -> Ended {
    let listen = async {
        loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    if let Some(report_status_response::Message::Drain(drain)) = answer.message {
                        return drained(drain);
                    }
                }
                Ok(None) => return Ended::Closed,
                Err(status) => return Ended::Refused(status),
            }
        }
    };
    tokio::time::timeout(LAST_WORD_TIMEOUT, listen)
        .await
        .unwrap_or(Ended::Closed)
}

fn drained(drain: v1::Drain) -> Ended {
    let wire = drain.reconnect_after.as_ref();
    let after = wire
        .and_then(|wire| convert::duration_from_wire("reconnect_after", wire).ok())
        .unwrap_or_default();
    Ended::Drained(drain.reason, after.min(DRAIN_MAX))
}

fn intervals(welcome: &v1::Welcome) -> Result<(Duration, Duration), Ended> {
    let read = |name: &str, value: &Option<_>| {
        let wire = value
            .as_ref()
            .ok_or_else(|| Ended::Protocol(format!("Welcome without {name}")))?;
        convert::duration_from_wire(name, wire).map_err(|e| Ended::Protocol(e.to_string()))
    };
    let heartbeat = read("heartbeat_interval", &welcome.heartbeat_interval)?;
    let silent_after = read("silent_after", &welcome.silent_after)?;
    if !HEARTBEAT_RANGE.contains(&heartbeat) || silent_after < heartbeat * 2 {
        return Err(Ended::Protocol(format!(
            "heartbeat_interval {heartbeat:?}, silent_after {silent_after:?}"
        )));
    }
    Ok((heartbeat, silent_after))
}

#[cfg(test)]
mod tests;
